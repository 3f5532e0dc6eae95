"""RESULTS.md's sections on models that read histories, with their pictures."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from components.evaluation.protocols import PROTOCOLS
from components.reports import plots
from tests.benchmarks._common import RESULTS
from tests.benchmarks._markdown import ROOT, Result, spread, table, threads
from tests.benchmarks.noise import FIRST, LOGS, variant

WHERE = {
    "test": "those in the histories of the test; models are trained on the log as it is",
    "train": "those that models are trained on; the histories that they read in the test are as they were",
}


def sequential(result: Result) -> Iterator[str]:
    figures = result["figures"]
    yield f"## Models on histories: epochs of Beauty ({threads(figures)})"
    yield ""
    rows = [
        [label, *(f"{told[name]:,}" for name in ("parameters", "steps_per_epoch")), f"{told['seconds_per_epoch']:,.0f}"]
        for label, told in figures["models"].items()
    ]
    peer = figures.get("recbole")
    if peer:
        cells = (f"{peer['parameters']:,}", f"{peer['steps_per_epoch']:,}", f"{peer['seconds_per_epoch']:,.0f}")
        rows.append(["RecBole 1.2.1's SASRec, batches 50 wide", *cells])
    yield from table(["", "parameters", "steps", "seconds"], rows)
    yield ""
    yield "What bounds a step of SASRec:"
    yield ""
    rows = [
        [name, f"{told['milliseconds']:.1f}", "" if told["bound"] is None else f"{told['bound']:.1f}"]
        for name, told in figures["parts"].items()
    ]
    yield from table(["", "milliseconds", "of its bound"], rows)
    yield ""
    turns = ", ".join(f"{name} {milliseconds:.0f} ms" for name, milliseconds in figures["turns"].items())
    yield f"MCLRec's updates on a batch: {turns}."
    if until := figures.get("to_ndcg"):
        yield ""
        yield f"Until ndcg@10 on validation, not masked, is {until['ndcg@10']:g}; looks at validation are not counted:"
        yield ""
        theirs, reached = until["runs"]["RecBole"], {}
        for label, told in until["runs"].items():
            reached[label] = told["ndcg@10"][-1] >= until["ndcg@10"]
        rows = [
            [
                label,
                f"{told['seconds']:,.0f}",
                str(told["epochs"]),
                f"{told['ndcg@10'][-1]:.4f}" + " (**not reached**)" * (not reached[label]),
                f"{theirs['seconds'] / told['seconds']:.1f}" if reached[label] and reached["RecBole"] else "",
            ]
            for label, told in until["runs"].items()
        ]
        yield from table(["", "seconds", "epochs", "ndcg@10", "times as fast"], rows)
        yield ""
        yield f"Target: {until['target']:g} times as fast."


def views(result: Result) -> Iterator[str]:
    figures = result["figures"]
    yield "## Views: histories a second on one core"
    yield ""
    yield f"{figures['log']}: batches of {figures['batch']}, {figures['width']} wide, mean length {figures['mean_length']:.1f}."
    yield ""
    rows = [
        [name, f"{told['histories_per_second']:,.0f}", f"{told['copies']:.1f}", _share(told.get("share_of_the_loop"))]
        for name, told in figures["views"].items()
    ]
    yield from table(["view", "histories a second", "times a copy's seconds", "of a Python loop's seconds"], rows)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def noise(result: Result) -> Iterator[str]:
    figures = result["figures"]
    shares = [float(share) for share in figures["shares"]]
    log = LOGS[figures.get("log", FIRST)]
    metric = log.metrics[0]
    yield f"## Noise in {figures['where']} histories of {log.title}: what {metric} loses"
    yield ""
    yield "A share of the behaviours is replaced by random or by popular items that the user has nowhere:"
    yield f"{WHERE[figures['where']]}. {_over(figures)}."
    if figures["changes"]:
        yield f"Changed in every recipe: {', '.join(f'`{change}`' for change in figures['changes'])}."
    for protocol, name in PROTOCOLS.items():
        yield ""
        yield f"{name[0].upper()}{name[1:]}:"
        yield ""
        rows = []
        for model in figures["models"]:
            for kind in model["noise"]:
                found = _values(model, kind, protocol, shares, metric)
                clean, *noisy = map(statistics.fmean, found)
                less = [f" ({value / clean - 1:+.1%})" if clean else "" for value in noisy]
                rows.append([model["label"], kind, *map("".join, zip(map(spread, found), ["", *less], strict=True))])
        yield from table(["model", "items", "no noise", *(f"{share:.0%}" for share in shares)], rows)
    yield ""
    yield f"![{metric} left by the share of noise]({_picture(figures, shares, metric).relative_to(ROOT)})"


def _picture(figures: dict[str, Any], shares: list[float], metric: str) -> Path:
    """What is left of each model's quality, a panel for each protocol and kind of noise."""
    log = figures.get("log", FIRST)
    path = RESULTS / f"noise_{variant(figures['where'], log)}.png"
    kinds = list(figures["models"][0]["noise"])
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(9.6, 7.2), layout="constrained")
        grid = figure.subplots(len(PROTOCOLS), len(kinds), sharex=True, sharey=True, squeeze=False)
        for row, (protocol, name) in zip(grid, PROTOCOLS.items(), strict=True):
            for axes, kind in zip(row, kinds, strict=True):
                for model, colour in zip(figures["models"], plots.COLOURS, strict=False):
                    found = _values(model, kind, protocol, shares, metric)
                    clean = statistics.fmean(found[0])
                    left = [100 * statistics.fmean(each) / clean if clean else 0.0 for each in found]
                    apart = [100 * statistics.stdev(each) / clean if clean and len(each) > 1 else 0.0 for each in found]
                    places = [0.0, *(100 * share for share in shares)]
                    style = {"marker": "o", "markersize": 3.5, "capsize": 2, "color": colour}
                    axes.errorbar(places, left, apart, label=model["label"], **style)
                axes.set_title(f"{kind} items, {name}")
        for axes in grid[-1]:
            axes.set_xlabel("behaviours replaced (%)")
        for row in grid:
            row[0].set_ylabel(f"{metric} left (%)")
        grid[0][0].legend(loc="lower left")
        figure.suptitle(
            f"Noise in {figures['where']} histories of {LOGS[log].title}", x=0.012, ha="left", fontsize=13, fontweight="bold"
        )
        figure.savefig(path)
    return path


def _over(figures: dict[str, Any]) -> str:
    """What means and deviations are of: a seed has one clean value, and one for each draw of noise."""
    model = figures["models"][0]
    seeds, values = len(model["clean"]), len(next(iter(next(iter(model["noise"].values())).values())))
    draws = f", each with {values // seeds} draws of noise" if values > seeds else ", each with one draw of noise"
    deviations = " ± standard deviations" if values > 1 else ""
    return f"Means{deviations} over {'one seed' if seeds == 1 else f'{seeds} seeds'}{draws}"


def _values(model: dict[str, Any], kind: str, protocol: str, shares: list[float], metric: str) -> list[list[float]]:
    """Of every seed and draw: without noise, then at each share."""
    found = [model["clean"], *(model["noise"][kind][str(share)] for share in shares)]
    return [[each[protocol][metric] for each in values] for values in found]
