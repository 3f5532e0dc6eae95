"""Pictures of a dataset as PNG files, in the style of a run's: each function draws one figure from counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from components.data import units
from components.data.activity import Shown
from components.data.long_tail import PowerLaw
from components.reports.plots import COLOURS, INK, figure

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
LINES = ("-", "--", ":", "-.")  # splits may lie on each other
SPANS = (("days", 86_400), ("hours", 3600), ("minutes", 60), ("seconds", 1))


def long_tail(degree: Ints, law: PowerLaw | None, path: Path) -> None:
    """Rows of items in train by their rank, and the power law that the popular ones follow."""
    rows, items = np.unique(degree[degree > 0], return_counts=True)
    ranks = np.cumsum(items[::-1])[::-1]  # of the last item with so many rows
    with figure(path, "Long tail", wide=7.6) as (axes,):
        axes.step(np.append(ranks, 1), np.append(rows, rows[-1:]), where="post", color=COLOURS[0], label="items")
        said = "no power law: too few items, or too few different numbers of rows"
        if law is not None:
            span = np.unique(np.geomspace(law.start, int(rows[-1]), 60).round().astype(np.int64))
            axes.plot(law.ranks(span), span, color=COLOURS[1], linestyle="--", label=f"power law, exponent {law.exponent:.2f}")
            said = f"{law.items:,} items of {law.start:,} rows or more: rows fall as rank^{law.slope:.2f}"
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(said, fontsize=10.5)
        axes.set_xlabel("rank of the item by its rows in train")
        axes.set_ylabel("rows in train")
        axes.legend(loc="lower left")


def history_lengths(lengths: Mapping[int, int], path: Path) -> None:
    """Shares of users by their rows in train, in ranges that double: 0, 1, 2, 3 to 4, 5 to 8 and so on."""
    longest, total = max(lengths), sum(lengths.values())
    ends = [0, *(1 << n for n in range(max(longest - 1, 0).bit_length() + 1))]
    ranges = [(0, 0), *((before + 1, end) for before, end in pairwise(ends))]
    users = [sum(lengths.get(n, 0) for n in lengths if low <= n <= high) for low, high in ranges]
    first = next(n for n, number in enumerate(users) if number)
    names = [f"{low:,}" if low == high else f"{low:,}\nto {high:,}" for low, high in ranges][first:]
    shares = [number / total for number in users][first:]
    with figure(path, "History lengths", wide=max(6.4, 0.75 * len(names))) as (axes,):
        bars = axes.bar(names, shares, 0.86, color=COLOURS[0])
        axes.bar_label(bars, [f"{share:.1%}" for share in shares], fontsize=9, padding=2)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(axis="x", visible=False)
        axes.set_title(f"{total:,} users", fontsize=10.5)
        axes.set_xlabel("rows of a user in train")
        axes.set_ylabel("users")


def activity(shown: Shown, path: Path) -> None:
    """Rows in equal spans of time, the splits on top of each other."""
    edges = shown.start + shown.width * np.arange(len(next(iter(shown.counts.values()))) + 1)
    unit = units.of(edges[[0, -1]])
    is_known = bool(unit[0] == unit[1] > 0)
    scale = int(units.SCALES[unit[0]])
    with figure(path, "Activity over time", wide=9.2) as (axes,):
        heights = [np.append(counts, counts[-1:]) for counts in shown.counts.values()]
        places: Any = (edges / scale * 1000).astype("datetime64[ms]") if is_known else edges
        axes.stackplot(places, heights, step="post", labels=list(shown.counts), colors=_colours(len(heights)))
        if is_known:
            locator = AutoDateLocator()
            axes.xaxis.set_major_locator(locator)
            axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        span = _span(shown.width / scale) if is_known else f"{shown.width:,} of the log's units of time"
        beyond = f"; {shown.outside:,} rows before or after are left out" * bool(shown.outside)
        axes.set_title(f"rows in spans of {span}{beyond}", fontsize=10.5)
        axes.set_xlabel("time (UTC)" if is_known else "time as in the log")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_ylabel("rows")
        axes.margins(x=0)
        axes.figure.legend(loc="outside right upper")


def _span(seconds: float) -> str:
    name, unit = next(((name, unit) for name, unit in SPANS if seconds >= unit), SPANS[-1])
    return f"{seconds / unit:.3g} {name}"


def k_core(stages: Sequence[Mapping[str, int]], path: Path) -> None:
    """What is left of rows, users and items before the first round (`stages[0]`) and after each."""
    with figure(path, "k-core") as (axes,):
        for n, name in enumerate(("rows", "users", "items")):
            left = [stage[name] / max(stages[0][name], 1) for stage in stages]
            axes.plot(left, color=COLOURS[n], marker="o", markersize=3.5, label=f"{name}: {left[-1]:.1%} stay")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylim(0, 1.05)
        axes.set_title(f"{len(stages) - 1} rounds", fontsize=10.5)
        axes.set_xlabel("round")
        axes.set_ylabel("left of what was there before")
        axes.legend(loc="lower left")


def splits(rows: Mapping[str, int], cold: Mapping[str, Mapping[str, tuple[int, int]]], path: Path) -> None:
    """Rows of every split; and what of those that are held out train does not know.

    Args:
        cold: of each split, by what is counted (users, items, rows): (how many train does not know, of how many).
    """
    tall = 1.7 + 0.3 * max(len(rows), 4 * len(cold))
    with figure(path, "Splits", panels=2, wide=6, tall=tall) as (left, right):
        total = sum(rows.values())
        bars = left.barh(list(rows), list(rows.values()), color=_colours(len(rows)))
        left.bar_label(bars, [f"{number:,} ({number / total:.1%})" for number in rows.values()], fontsize=9, padding=3)
        left.invert_yaxis()
        left.margins(x=0.3)
        left.xaxis.set_major_locator(MaxNLocator(nbins=4))
        left.xaxis.set_major_formatter("{x:,.0f}")
        left.set_title("size", fontsize=10.5)
        left.set_xlabel("rows")
        left.grid(axis="y", visible=False)
        _cold(right, cold)


def _cold(axes: Axes, cold: Mapping[str, Mapping[str, tuple[int, int]]]) -> None:
    places = np.arange(len(cold))
    kinds = list(next(iter(cold.values()), {}))
    for n, kind in enumerate(kinds):
        parts = [found[kind] for found in cold.values()]
        shares = [part / max(whole, 1) for part, whole in parts]
        bars = axes.barh(places + (n - 1) * 0.27, shares, 0.25, color=COLOURS[n], label=kind)
        axes.bar_label(bars, [f"{part:,} of {whole:,} {kind}" for part, whole in parts], fontsize=9, padding=3)
    axes.set_yticks(places, list(cold))
    axes.invert_yaxis()
    widest = max((part / max(whole, 1) for found in cold.values() for part, whole in found.values()), default=0)
    axes.set_xlim(0, 1.9 * widest or 1)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_title("cold: what train does not know", fontsize=10.5)
    axes.set_xlabel("share of the split")
    axes.grid(axis="y", visible=False)


def popularity_shift(shares: Mapping[str, Floats], divergences: Mapping[str, float], path: Path) -> None:
    """Shares of each split's rows by the items' popularity in train; `shares` is [1 + 10], of cold items first."""
    has_cold = any(own[0] for own in shares.values())
    first = 0 if has_cold else 1
    with figure(path, "Popularity shift", wide=9.2) as (axes,):
        for n, (name, own) in enumerate(shares.items()):
            label = name if name not in divergences else f"{name}  (JS {divergences[name]:.4f})"
            style: dict[str, Any] = {"color": INK if n == 0 else COLOURS[(n - 1) % len(COLOURS)]}
            style["linestyle"] = LINES[n % len(LINES)]
            axes.plot(np.arange(first, len(own)), own[first:], marker="o", markersize=4, label=label, **style)
        names = ["not in\ntrain", *map(str, range(1, 11))]
        axes.set_xticks(np.arange(first, len(names)), names[first:])
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylim(bottom=0)
        axes.set_title("JS: Jensen and Shannon's divergence from train, in bits", fontsize=10.5)
        axes.set_xlabel("items by their rows in train, 1 the least popular; each tenth has about as many of these rows")
        axes.set_ylabel("share of the split's rows")
        axes.figure.legend(loc="outside right upper")


def _colours(number: int) -> list[str]:
    return [COLOURS[n % len(COLOURS)] for n in range(number)]
