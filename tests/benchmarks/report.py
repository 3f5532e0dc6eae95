"""Writes RESULTS.md and its plots from tests/benchmarks/results/: python -m tests.benchmarks.report"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

from tests.benchmarks import _logs, _report_classic, _report_models, _report_search, _report_sequential, _report_speed, costs
from tests.benchmarks._common import RESULTS
from tests.benchmarks._markdown import ROOT, Result
from tests.benchmarks._plan import NO_BENCHMARK_YET, PLANNED, SEARCHED

SECTIONS = {
    "costs": _report_speed.costs,
    "classic_split": _report_classic.classic,
    "systems": _report_models.systems,
    "sequential": _report_sequential.sequential,
    "views": _report_sequential.views,
    "noise": _report_sequential.noise,
    "magnitudes": _report_classic.magnitudes,
    "lightgcn": _report_speed.lightgcn,
    "epoch": _report_speed.epoch,
    "negatives": _report_speed.negatives,
    "scaling": _report_speed.scaling,
    "catalogue": _report_speed.catalogue,
    "gpu_train": _report_speed.gpu_train,
    "ranking": _report_speed.ranking,
    "recommend": _report_speed.recommend,
    "startup": _report_speed.startup,
    "prepare": _report_speed.prepare,
    "prepare_peers": _report_speed.prepare_peers,
    "feeding": _report_speed.feeding,
    "search": _report_search.search,
    "asha": _report_search.asha,
    "overhead": _report_search.overhead,
    "memory": _report_search.memory,
}


def main() -> None:
    (ROOT / "RESULTS.md").write_text(page(), encoding="utf-8")


def page() -> str:
    """RESULTS.md; draws its pictures."""
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}
    assert results, f"{RESULTS} holds no results"
    assert (kept := {each["benchmark"] for each in results.values()}) <= {*SECTIONS}, f"no section for {kept - {*SECTIONS}}"
    lines = [
        "# Results",
        "",
        "Made by `python -m tests.benchmarks.report` from `tests/benchmarks/results/`; each section names its command as it",
        "was at its commit, date, machine and seeds. A quick look is not here: only what was kept.",
    ]
    for benchmark, section in SECTIONS.items():
        for result in (each for each in results.values() if each["benchmark"] == benchmark):
            lines += ["", *section(result), "", _provenance(result)]
    lines += ["", "## Not run", "", *_not_run(results)]
    return "\n".join(lines) + "\n"


def _provenance(result: Result) -> str:
    seeds = ", ".join(map(str, result["seeds"]))
    note = f" {result['note']}" if "note" in result else ""  # of a person, on what the figures do not say
    return f"`{result['command']}` at {result['commit']}, {result['date'][:10]}, seeds {seeds}; {result['machine']}.{note}"


def _not_run(results: dict[str, Result]) -> Iterator[str]:
    """What is planned and has fewer seeds, or none."""
    for planned, (seeds, *_) in {**PLANNED, **SEARCHED}.items():
        kept = results.get(planned.replace(" ", "_"))
        done = len(kept["seeds"]) if kept else 0
        if done < seeds:
            numbers = f"--seeds {' '.join(map(str, range(1, seeds + 1)))} " if seeds > 1 else ""  # of one, by itself
            yield f"- {done} of {seeds} seeds: `python -m tests.benchmarks.{planned} {numbers}--keep`"
    speed = [result for name, result in results.items() if name.startswith("lightgcn")]
    if not any("to_recall" in result["figures"] for result in speed):
        yield "- LightGCN's time to recall@20 .183: `python -m tests.benchmarks.lightgcn --to-recall .183 --keep`"
    if not any("to_ndcg" in result["figures"] for name, result in results.items() if name.startswith("sequential")):
        yield "- SASRec's time to ndcg@10 beside RecBole's: `python -m tests.benchmarks.sequential --to-ndcg --keep`"
    told = {result["benchmark"] for result in results.values()} | {name.split()[0] for name in (*PLANNED, *SEARCHED)}
    yield from (f"- `python -m tests.benchmarks.{name} --keep`" for name in SECTIONS if name not in told)
    if without := _without_cost(results):
        logs = ", ".join(f"{number} of {log}" for log, number in without.items())
        yield f"- What recipes cost that came since ({logs}): `python -m tests.benchmarks.costs --keep`"
    yield f"- Recipes that no benchmark trains to its end: {', '.join(f'`{name}`' for name in _unplanned())}."
    for missing in NO_BENCHMARK_YET:
        yield f"- {missing}."


def _without_cost(results: dict[str, Result]) -> Counter[str]:
    """Recipes that no kept result of `costs` has, though it would measure them, by their logs."""
    told = {name for each in results.values() if each["benchmark"] == "costs" for name in each["figures"]["recipes"]}
    logs = [path.stem.partition("_")[0] for path in sorted(costs.RECIPES.glob("*.yaml")) if path.stem not in told]
    return Counter(log for log in logs if log in _logs.NAMES)


def _unplanned() -> list[str]:
    planned = {recipe for each in PLANNED.values() for recipe, _ in each.trainings}
    recipes = {path.stem for path in costs.RECIPES.glob("*.yaml") if path.stem.partition("_")[0] in _logs.NAMES}
    return sorted(recipes - planned)


if __name__ == "__main__":
    main()
