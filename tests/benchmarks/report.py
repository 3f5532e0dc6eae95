"""Writes RESULTS.md and its plots from tests/benchmarks/results/: python -m tests.benchmarks.report"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from components.reports import plots
from tests.benchmarks._common import RESULTS

WITHIN = 0.98
PUBLISHED_CURVE = {"gowalla": {4: 0.129, 10: 0.161, 27: 0.169, 87: 0.173, 219: 0.1759}}  # of BSL's log, (p), by epoch from 0
ROOT = Path(__file__).parents[2]
Result = dict[str, Any]


def main() -> None:
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}
    assert results, f"{RESULTS} holds no results"
    lines = [
        "# Results",
        "",
        "Made by `python -m tests.benchmarks.report` from `tests/benchmarks/results/`; each section names its command, commit,",
        "date, machine and seeds. A quick look is not here: only what was kept.",
    ]
    for name, result in results.items():
        lines += ["", *SECTIONS[result["benchmark"]](name, result), "", *_provenance(result)]
    (ROOT / "RESULTS.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _provenance(result: Result) -> Iterator[str]:
    seeds = ", ".join(map(str, result["seeds"]))
    yield f"`{result['command']}` at {result['commit']}, {result['date'][:10]}, seeds {seeds}; {result['machine']}."


def _table(header: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _classic(_: str, result: Result) -> Iterator[str]:
    figures = result["figures"]
    published, h, p = figures["published_p"], figures["h"], figures["p"]
    yield f"## {figures['log'].capitalize()}, classic split: MF with the softmax loss (positive outside the denominator)"
    yield ""
    rows = [
        [
            "(h) epoch chosen on validation, tested at it: the weights of a refit on train + valid, bit for bit",
            *(f"{h[m]:.4f}" for m in ("recall@20", "ndcg@20")),
            str(h["epochs"]),
        ],
        [
            "(p) best epoch on test, as published logs",
            *(f"{p[m]:.4f}" for m in ("recall@20", "ndcg@20")),
            str(p["epochs"]),
        ],
        [f"published, (p): {published['source']}", f"{published['recall@20']:.4f}", f"{published['ndcg@20']:.4f}", ""],
    ]
    yield from _table(["protocol", "recall@20", "ndcg@20", "epochs"], rows)
    yield ""
    ratios = figures["p_over_published"]
    yield f"(p) over published: recall {ratios['recall@20']:.4f}, ndcg {ratios['ndcg@20']:.4f}."
    yield f"Trained at {figures['trained_at']['p']}."
    tenths = {step: value for step, value in figures["curve_p"].items() if int(step) % 10 == 0}
    yield f"(p) by epoch: {', '.join(f'{step}: {value:.4f}' for step, value in tenths.items())}."
    short = [name for name, ratio in ratios.items() if ratio < WITHIN]
    if short:
        last, limit = max(map(int, figures["curve_p"])), result["recipe"]["training"]["epochs"]
        ended = f"at its limit of {limit} epochs" if last == limit else f"after {last} epochs, without a better one for a while"
        yield ""
        yield f"**Not within 2 % of the published {' and '.join(short)}.** The run ended {ended}."
    yield ""
    yield f"![recall@20 on test by epoch]({_curve(figures).relative_to(ROOT)})"


def _curve(figures: dict[str, Any]) -> Path:
    """A picture of (p)'s epochs beside the published ones."""
    path = RESULTS / f"classic_split_{figures['log']}.png"
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(7.2, 4.0), layout="constrained")
        axes = figure.subplots()
        curves = {"hardneg, (p)": {int(k): v for k, v in figures["curve_p"].items()}}
        if published := PUBLISHED_CURVE.get(figures["log"]):
            curves["published, (p)"] = {epoch + 1: value for epoch, value in published.items()}
        for (name, curve), colour in zip(curves.items(), plots.COLOURS, strict=False):
            axes.plot(list(curve), list(curve.values()), marker="o", markersize=3.5, color=colour, label=name)
        axes.axhline(figures["published_p"]["recall@20"], color=plots.COLOURS[2], linestyle="--", label="published best")
        axes.set_title(f"{figures['log'].capitalize()}: recall@20 on test by epoch")
        axes.set_xlabel("epoch")
        axes.legend(loc="lower right")
        figure.savefig(path)
    return path


def _epoch(_: str, result: Result) -> Iterator[str]:
    figures = result["figures"]
    ours, plain = figures["seconds_per_epoch"]["hardneg"], figures["seconds_per_epoch"]["plain"]
    yield f"## Seconds per epoch against a plain torch loop ({figures['threads']} threads)"
    yield ""
    yield f"MF + SSM on {figures['log']}, d 64, batch 2048, in-batch negatives, {figures['steps_per_epoch']} steps."
    yield ""
    rows = [
        ["plain torch loop", f"{plain:.1f}", "1"],
        ["hardneg, the same loss", f"{ours:.1f}", f"{figures['ratio']:.2f}"],
    ]
    if "ratio_masked" in figures:  # measured since then
        masked = figures["seconds_per_epoch"]["hardneg_masked"]
        rows.append(["hardneg, every user's own items masked (the default)", f"{masked:.1f}", f"{figures['ratio_masked']:.2f}"])
    yield from _table(["", "seconds per epoch", "ratio"], rows)
    yield ""
    yield f"Limit {figures['limit']}. Largest difference of a step's loss: {figures['largest_difference_of_losses']:.0e}."


def _startup(_: str, result: Result) -> Iterator[str]:
    figures = result["figures"]
    yield "## From program start to the first training step"
    yield ""
    rows = [[name, f"{seconds:.1f}"] for name, seconds in figures["median_seconds"].items()]
    yield from _table(["", f"median seconds of {figures['repeats']}"], rows)
    yield ""
    yield f"Limit: {figures['limit']} s in total. Two workers, a new Ray and a new MLflow database each time."


def _ranking(_: str, result: Result) -> Iterator[str]:
    figures = result["figures"]
    yield f"## Full ranking against the bare matrix product and top-k ({figures['threads']} threads)"
    yield ""
    names = {"bare_seconds": "bare product and top-k", "ranked_seconds": "hardneg: masks, exact top-k, metrics"}
    rows = [[text, f"{statistics.median(figures[what]):.2f}"] for what, text in names.items()]
    users = f"{figures['log']}: {figures['users']:,} users, {figures['items']:,} items, d {figures['width']}, K {figures['k']}"
    yield from _table([users, f"seconds, median of {len(figures['bare_seconds'])}"], rows)
    yield ""
    low, high = figures["ratio_range"]
    verdict = "within" if figures["within_limit"] else "**not within**"
    yield f"Ratio {figures['ratio_median']:.2f} ({low:.2f} to {high:.2f}), {verdict} the limit of {figures['limit']}."


SECTIONS = {"classic_split": _classic, "epoch": _epoch, "startup": _startup, "ranking": _ranking}

if __name__ == "__main__":
    main()
