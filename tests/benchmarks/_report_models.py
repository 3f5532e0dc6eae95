"""RESULTS.md's sections on what the models reach, with their pictures."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from components.evaluation.comparison import Difference
from components.evaluation.protocols import PROTOCOLS
from components.reports import plots
from tests.benchmarks._common import RESULTS
from tests.benchmarks._markdown import MASKED, ROOT, Result, amount, spread, table

REMARKS = {  # by what the name of a comparison begins with
    "coat_": "Of 860 positives of the test, 71 are rows of train and 31 of valid, as released; they are asked for "
    "all the same, as the released evaluator does.",
    "coat_passes": "0 passes is InfoNCE whose negatives weigh K = 64 times (`objective.negative_weight`), as in AdvInfoNCE "
    "before its first pass; the InfoNCE of the other comparisons has K = 1, as in the released code.",
    "gowalla_pool": "An in-batch pool of 2,048 is a batch of as many rows: as many steps as the others take, and four times "
    "their rows, so that its differences are not the pool's alone. All others have batches of 512: a bank of 2,048 is these "
    "and 1,536 remembered items, a mixture is these and half remembered, half uniform ones.",
}


def systems(result: Result) -> Iterator[str]:
    figures = result["figures"]
    metrics, protocol = figures.get("metrics", ["recall@20", "ndcg@20"]), figures.get("protocol", PROTOCOLS["masked"])
    yield f"## {figures['title']}{'' if protocol == PROTOCOLS['masked'] else f', {protocol}'}"
    yield ""
    chosen = sorted({system.get("chosen_on", MASKED) for system in figures["systems"]})
    yield f"Epoch chosen on {' or '.join(chosen)}; tested once on {figures['split']} ({figures['users']:,} users), {protocol}."
    if figures["changes"]:
        changes = ", ".join(f"`{change}`" for change in figures["changes"])
        yield f"Changed in every recipe, where a system has no change of its own: {changes}."
    for beginning, remark in REMARKS.items():
        if figures["comparison"].startswith(beginning):
            yield from ("", remark)
    yield ""
    rows = []
    adversarial = any(run["told"] for system in figures["systems"] for run in system["runs"])
    measured = any((system["cost"] or {}).get("parameters") for system in figures["systems"])
    f1 = _f1(figures, metrics)
    for system in figures["systems"]:
        runs = system["runs"]
        cells = [spread(list(system["metrics"][m]["by_seed"].values())) for m in metrics]
        cells += [spread([run["f1"][name] for run in runs]) for name in f1]
        validation = spread([run["validation"] for run in runs])
        told = [run["told"] for run in runs if run["told"]]
        kl, *rates = (
            _told(told, name, len(runs)) for name in ("hardness_kl", "false_negative_rate", "false_negative_rate_shuffled")
        )
        passes = f"{statistics.fmean(run['adversarial_passes'] for run in runs):.1f}" if told else ""
        epochs = ", ".join(str(run["best_epoch"]) for run in runs)
        cost = [amount((system["cost"] or {}).get("seconds_per_epoch")), _number(system["cost"], "seconds")]
        hardness = [passes, kl, *rates] if adversarial else []
        inference = [_number(system["cost"], name) for name in ("parameters", "encode", "rank")] if measured else []
        rows.append([system["label"], *cells, validation, epochs, *hardness, *cost, *inference])
    header = ["system", *metrics, *f1, "validation", "chosen epochs"]
    header += ["passes by then", "KL", "false negatives found", "as many at random"] if adversarial else []
    header += ["s/epoch", "s of training", *(["parameters", "µs per user to encode", "to rank"] if measured else [])]
    for published in figures.get("published", ()):
        cells = [f"{published['metrics'][m]:.4f}" for m in metrics]
        rows.append([f"elsewhere: {published['label']}", *cells, *[""] * (len(header) - 1 - len(cells))])
    yield from table(header, rows)
    yield ""
    if beside := [*_beside_published(figures, metrics)]:
        yield from (*beside, "")
    if any(system["changes"] for system in figures["systems"]):
        yield from table(["system", "recipe", "with"], [_what(system) for system in figures["systems"]])
        yield ""
    first = figures["systems"][0]["label"]
    rows = [row for system in figures["systems"][1:] for row in _differences(system)]
    yield from table([f"against {first}", *DIFFERENCE], rows)
    yield ""
    if pairs := figures.get("pairs"):
        rows = [[row[0], pair["against"], *row[1:]] for pair in pairs for row in _differences(pair)]
        yield from table(["system", "against", *DIFFERENCE], rows)
        yield ""
        yield " ".join(_verdict(pair, metrics[0]) for pair in pairs)
        yield ""
    apart = {
        system["label"]: {metric: Difference(**_tuples(found)) for metric, found in system["differences"].items()}
        for system in figures["systems"][1:]
    }
    path = RESULTS / f"systems_{figures['comparison']}.png"
    plots.differences(apart, path, f"Differences from {first}")
    yield f"![differences with intervals]({path.relative_to(ROOT)})"
    if len(figures["systems"][0]["runs"]) > 1:
        yield ""
        yield "A * marks what leaves out 0. With few seeds intervals over seeds and users are too narrow: by simulation, 95 %"
        yield "are in truth about 85 % with three seeds and 88 % with five, where runs differ by their seeds alone."
    if adversarial:
        yield ""
        yield "KL, and the share of held-out positives (those that the epoch is chosen on) that hardness takes for"
        yield "false negatives, are those of the last adversarial pass before the chosen epoch. Chance is .5 or somewhat more,"
        yield "hence the rate of items at random beside it."
    if "note" not in result and (cheap := _priced(figures)):  # a note says what else the machine did
        yield ""
        yield f"![{metrics[0]} against cost]({_frontier(figures, cheap, metrics[0]).relative_to(ROOT)})"
    if figures["comparison"].endswith("_pools"):
        yield ""
        yield f"![by the size of the pool]({_pools(figures).relative_to(ROOT)})"
    if figures["comparison"].endswith("_passes"):
        yield ""
        yield "Bars are standard deviations over seeds."
        yield f"![by the number of adversarial passes]({_passes(figures).relative_to(ROOT)})"


def _what(system: dict[str, Any]) -> list[str]:
    """What a system is."""
    changes = ", ".join(f"`{change}`" for change in system["changes"])
    found_by = f", the best on validation of `search {system['search']}`" if system.get("search") else ""
    return [system["label"], f"`{system['recipe']}`", changes + found_by]


def _beside_published(figures: dict[str, Any], metrics: list[str]) -> Iterator[str]:
    """How far a system is from figures of others on it: relative, and in standard deviations of its own seeds."""
    by_label = {system["label"]: system for system in figures["systems"]}
    for published in figures.get("published", ()):
        if (ours := by_label.get(published.get("of"))) is None:
            continue
        told = []
        for metric in metrics:
            values, theirs = list(ours["metrics"][metric]["by_seed"].values()), published["metrics"][metric]
            apart, deviation = statistics.fmean(values) - theirs, statistics.stdev(values) if len(values) > 1 else 0.0
            told.append(
                f"{metric} {apart / theirs:+.1%}" + (f" ({abs(apart) / deviation:.1f} deviations)" if deviation else "")
            )
        yield f"{ours['label']} beside {published['label']}: {', '.join(told)}."


def _differences(system: dict[str, Any]) -> Iterator[list[str]]:
    """Of a system, or a pair: a row for each metric."""
    for metric, found in system["differences"].items():
        both = found["over_seeds_and_users"]
        relative = "" if found["relative"] is None else f"{found['relative']:+.1%}"
        bounds = _bounds(found["over_users"]), _bounds(both) if both else "one seed"
        yield [system["label"], metric, f"{found['value']:+.4f} ({relative})", *bounds]


def _verdict(pair: dict[str, Any], metric: str) -> str:
    """Of the widest interval that there is."""
    found = pair["differences"][metric]
    low, high = found["over_seeds_and_users"] or found["over_users"]
    says = "a gain" if low > 0 else "a loss" if high < 0 else "no difference that is certain"
    of = "seeds and users" if found["over_seeds_and_users"] else "users alone"
    return f"{pair['label']} against {pair['against']}: **{says}** in {metric}, over {of}."


DIFFERENCE = ("metric", "difference", "95 % over users", "95 % over seeds and users")
FAR = 10  # times as dear: on a logarithmic scale
PRICES = ("parameters", "seconds of training", "µs per user to encode and rank")


def _priced(figures: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    """What each system costs, by PRICES, of those of which all is known; none where these are of one size."""
    found = {}
    for system in figures["systems"]:
        cost = system["cost"] or {}
        if all(cost.get(of) for of in ("parameters", "seconds", "rank")):
            found[system["label"]] = (cost["parameters"], cost["seconds"], (cost.get("encode") or 0.0) + cost["rank"])
    return found if len({parameters for parameters, *_ in found.values()}) > 1 else {}


def _frontier(figures: dict[str, Any], costs: dict[str, tuple[float, ...]], metric: str) -> Path:
    """A metric against each of PRICES: what is up and to the left is better and costs less."""
    path = RESULTS / f"systems_{figures['comparison']}_cost.png"
    values = {system["label"]: statistics.fmean(system["metrics"][metric]["by_seed"].values()) for system in figures["systems"]}
    with plots.figure(path, figures["title"], panels=len(PRICES)) as panels:
        for n, (axes, price) in enumerate(zip(panels, PRICES, strict=True)):
            for (label, cost), colour in zip(costs.items(), itertools.cycle(plots.COLOURS)):
                axes.plot(cost[n], values[label], "o", color=colour, markersize=8, label=label)
            prices = [cost[n] for cost in costs.values()]
            if max(prices) > FAR * min(prices):
                plots.log_scale(axes)
            axes.set_xlabel(price)
        panels[0].set_ylabel(f"{metric} on {figures['split']}")
        panels[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return path


def _pools(figures: dict[str, Any]) -> Path:
    """recall@20 on test by the size of the pool, a curve for each kind; all items are a line."""
    path = RESULTS / f"systems_{figures['comparison']}_curve.png"
    curves: dict[str, dict[int, float]] = {}
    for system in figures["systems"]:
        kind, _, size = system["label"].partition(", ")
        value = statistics.fmean(system["metrics"]["recall@20"]["by_seed"].values())
        curves.setdefault(kind, {})[int(size.replace(",", "") or 0)] = value
    with plots.figure(path, figures["title"], wide=8.2) as (axes,):
        for (kind, curve), colour in zip(curves.items(), plots.COLOURS, strict=False):
            if 0 in curve:
                axes.axhline(curve[0], color=colour, linestyle="--", label=kind)
            else:
                label = f"{kind} (of as many rows)" if kind == "in-batch" else kind
                axes.plot(list(curve), list(curve.values()), marker="o", color=colour, label=label)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("candidates of a row")
        axes.set_ylabel("recall@20 on test")
        axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return path


def _passes(figures: dict[str, Any]) -> Path:
    """What a test says, and what validation says, by the number of adversarial passes; and the false negatives found."""
    path = RESULTS / f"systems_{figures['comparison']}_curve.png"
    systems = figures["systems"]
    passes = [int(system["label"].split()[0]) for system in systems]
    by_seed = {m: [list(system["metrics"][m]["by_seed"].values()) for system in systems] for m in ("recall@20", "ndcg@20")}

    def told(name: str) -> list[list[float]]:
        return [[run["told"][name] for run in system["runs"] if run["told"]] for system in systems]

    panels = {
        "recall@20 on test": {"": by_seed["recall@20"]},
        "ndcg@20 on test": {"": by_seed["ndcg@20"]},
        "recall@20 on validation": {"": [[run["validation"] for run in system["runs"]] for system in systems]},
        "taken for false negatives (share)": {
            "held-out positives": told("false_negative_rate"),
            "items at random": told("false_negative_rate_shuffled"),
        },
    }
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(9.6, 6.0), layout="constrained")
        grid = figure.subplots(2, 2, sharex=True)
        for axes, (name, curves) in zip(grid.flat, panels.items(), strict=True):
            for (label, values), colour in zip(curves.items(), plots.COLOURS, strict=False):
                known = [(n, each) for n, each in zip(passes, values, strict=True) if each]
                means = [statistics.fmean(each) for _, each in known]
                deviations = [statistics.stdev(each) if len(each) > 1 else 0.0 for _, each in known]
                axes.errorbar([n for n, _ in known], means, deviations, marker="o", capsize=3, color=colour, label=label)
            axes.set_title(name)
            if len(curves) > 1:
                axes.legend(loc="upper left")
        for axes in grid[-1]:
            axes.set_xlabel("adversarial passes at most")
        figure.suptitle(figures["title"], x=0.012, ha="left", fontsize=13, fontweight="bold")
        figure.savefig(path)
    return path


def _f1(figures: dict[str, Any], metrics: list[str]) -> list[str]:
    """F1 at each K whose precision and recall are told, where every run has it."""
    cut_offs = [m.partition("@")[2] for m in metrics if m.startswith("precision@")]
    names = [f"f1@{k}" for k in cut_offs if f"recall@{k}" in metrics]
    runs = [run for system in figures["systems"] for run in system["runs"]]
    return [name for name in names if all(name in run.get("f1", {}) for run in runs)]


def _number(cost: dict[str, float | None] | None, name: str) -> str:
    value = (cost or {}).get(name)
    return "" if value is None else f"{value:,.0f}"


def _bounds(interval: list[float]) -> str:
    mark = "" if interval[0] <= 0 <= interval[1] else " *"
    return f"{interval[0]:+.4f} to {interval[1]:+.4f}{mark}"


def _tuples(found: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def _told(told: list[dict[str, float]], name: str, runs: int) -> str:
    """What the seeds say whose chosen epoch comes after a pass, and how many they are."""
    if not told:
        return ""
    return spread([each[name] for each in told]) + (f" ({len(told)} of {runs} seeds)" if len(told) < runs else "")
