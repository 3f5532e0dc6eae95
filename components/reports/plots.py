"""Pictures of a run as PNG files, in one style. Each function draws one figure and writes one file."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

from components.evaluation.comparison import Difference, excludes_zero

INK, GRID = "#25313c", "#e4e8ec"
# the model first, then what is beside it
COLOURS = ("#1f5f8b", "#e28743", "#9fb1bf", "#4f9d8c", "#a05195", "#c9b458", "#b5545f", "#6f9bd1", "#7a6a58", "#3d4b54")
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#aab4bd",
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "savefig.dpi": 160,
}
CURVES = ("valid_", "test_")  # what a curve's name begins with, beside the loss
PER_ROW = 3  # panels
LEGEND_COLUMNS = 2
LONGEST_LINE = 44  # characters of a name
BINS = 15, 80  # at least and at most


def learning_curves(history: Sequence[Mapping[str, Any]], path: Path, title: str = "Learning curves") -> None:
    """The loss and each metric of validation over epochs, the best epoch marked; times and the system's metrics are no curves.

    Args:
        history: entries {"epoch": from 1, "loss": ..., "valid_recall@20": ...}; a metric may be missing in some epochs.
    """
    names = list(dict.fromkeys(name for entry in history for name in entry))
    curves = [name for name in names if name == "loss" or name.startswith(CURVES)]
    with figure(path, title, panels=max(len(curves), 1)) as panels:
        for axes, name in zip(panels, curves, strict=False):
            points = [(entry["epoch"], entry[name]) for entry in history if entry.get(name) is not None]
            epochs, values = zip(*points, strict=True)
            is_loss = name == "loss"
            colour = COLOURS[1] if is_loss else COLOURS[0]
            axes.plot(epochs, values, color=colour, marker="o" if len(points) <= 40 else "", markersize=3.5)
            said = ""
            if not is_loss:
                best = int(np.argmax(values))
                said = f": best {values[best]:.4f} in epoch {epochs[best]}"
                axes.plot(epochs[best], values[best], "o", color="white", markeredgecolor=colour, markeredgewidth=2, ms=9)
            axes.set_title(name.replace("_", " ") + said)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
            axes.margins(y=0.12)


def popularity_groups(
    contributions: Mapping[str, Sequence[float]],
    path: Path,
    title: str = "Where the hits come from",
    metric: str = "recall@20",
    deviations: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Bars of what each popularity group adds to a metric, for the model (first) and what stands beside it.

    Args:
        contributions: a list per name, the least popular group first; each adds up to the metric.
        deviations: standard deviations over seeds, of the names that have several.
    """
    deviations = deviations or {}
    number = len(next(iter(contributions.values())))
    places = np.arange(1, number + 1)
    width = 0.84 / len(contributions)
    tall = 4.3 + 0.26 * -(-len(contributions) // LEGEND_COLUMNS)
    with figure(path, title, wide=9.2, tall=tall) as (axes,):
        for n, (name, values) in enumerate(contributions.items()):
            shift = (n - (len(contributions) - 1) / 2) * width
            label = f"{textwrap.fill(name, LONGEST_LINE)}  ({metric} {sum(values):.4f})"
            bars: dict[str, Any] = {"color": COLOURS[n % len(COLOURS)], "label": label}
            if name in deviations:
                bars |= {"yerr": deviations[name], "error_kw": {"ecolor": INK, "elinewidth": 1, "capsize": 1.5}}
            axes.bar(places + shift, values, width * 0.94, **bars)
        axes.grid(axis="x", visible=False)
        axes.set_xticks(places, ["1\nleast popular", *map(str, places[1:-1]), f"{number}\nmost popular"])
        axes.set_title(
            f"items in {number} groups of equal training interactions"
            + "; lines: one standard deviation over seeds" * bool(deviations),
            fontsize=10.5,
        )
        axes.set_ylabel(f"contribution to {metric}")
        axes.figure.legend(loc="outside lower left", ncols=LEGEND_COLUMNS)  # bars may be high anywhere


def differences(
    found: Mapping[str, Mapping[str, Difference]], path: Path, title: str = "Differences from the baseline"
) -> None:
    """A panel per metric, a line per system: its difference from the baseline with both intervals, hollow where 0 is inside.

    Args:
        found: of each system, in the order of its colour: after the baseline's.
    """
    metrics = list(next(iter(found.values())))
    tall = 1.9 + 0.62 * len(found)
    with figure(path, title, panels=len(metrics), tall=tall) as panels:
        for n, (axes, metric) in enumerate(zip(panels, metrics, strict=True)):
            axes.axvline(0, color=INK, linewidth=1, zorder=1)
            for place, values in enumerate(found.values(), start=1):
                _difference(axes, place, values[metric], COLOURS[place % len(COLOURS)])
            labels = [textwrap.fill(name, LONGEST_LINE) for name in found] if n % PER_ROW == 0 else [""] * len(found)
            axes.set_yticks(range(1, len(found) + 1), labels)
            axes.set_ylim(len(found) + 0.6, 0.4)
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="y", visible=False)
            axes.spines["left"].set_visible(False)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
            axes.margins(x=0.12)
            axes.set_title(metric)
        grey: dict[str, Any] = {"color": INK, "solid_capstyle": "butt"}
        shown = [Line2D([], [], linewidth=10, alpha=0.35, label="95 % over users", **grey)]
        if any(each.over_seeds_and_users is not None for values in found.values() for each in values.values()):
            shown.append(Line2D([], [], linewidth=1.6, label="95 % over seeds and users", **grey))
        panels[0].figure.legend(handles=shown, loc="outside lower left", ncols=LEGEND_COLUMNS, fontsize=9.5)


def _difference(axes: Axes, place: int, found: Difference, colour: str) -> None:
    axes.plot(found.over_users, [place] * 2, color=colour, linewidth=10, alpha=0.35, solid_capstyle="butt")
    widest = found.over_users
    if found.over_seeds_and_users is not None:
        widest = found.over_seeds_and_users
        axes.plot(widest, [place] * 2, color=colour, linewidth=1.6, marker="|", markersize=8, markeredgewidth=1.6)
    face = colour if excludes_zero(widest) else "white"
    axes.plot(found.value, place, "o", color=face, markeredgecolor=colour, markeredgewidth=1.5, ms=5.5, zorder=3)
    axes.annotate(f"{found.value:+.4f}", (found.value, place), (0, 9), textcoords="offset points", ha="center", fontsize=9.5)


def score_histograms(
    positives: ArrayLike, negatives: ArrayLike, path: Path, title: str = "Scores of held-out positives and unseen items"
) -> None:
    """Densities of two sets of scores over one axis, their medians, and how often a positive outscores a negative."""
    sets = {"held-out positives": np.asarray(positives, float), "random unseen items": np.asarray(negatives, float)}
    joined = np.concatenate(list(sets.values()))
    bins = int(np.clip(len(joined) ** 0.5, *BINS))
    low, high = float(joined.min()), float(joined.max())
    edges = np.linspace(low, high if high > low else low + 1, bins + 1).tolist()
    wins = auc(*sets.values())
    with figure(path, title, wide=8.2) as (axes,):
        for (name, values), colour in zip(sets.items(), (COLOURS[0], COLOURS[1]), strict=True):
            axes.hist(values, edges, density=True, color=colour, alpha=0.28)
            axes.hist(values, edges, density=True, color=colour, histtype="step", linewidth=1.6, label=name)
            axes.axvline(float(np.median(values)), ymax=0.95, color=colour, linestyle=(0, (4, 3)), linewidth=1.4)
        axes.set_title(f"a positive scores above a random unseen item in {wins:.1%} of pairs; dashed: medians", fontsize=10.5)
        axes.set_xlabel("score")
        axes.set_ylabel("density")
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        axes.legend(loc="best")


def auc(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Share of pairs that the positive wins; ties count half."""
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, "left") + np.searchsorted(ordered, positives, "right")
    return float(below.mean() / 2 / len(negatives))


@contextmanager
def figure(path: Path, title: str, *, panels: int = 1, wide: float = 4.9, tall: float = 4.3) -> Iterator[list[Axes]]:
    rows, columns = -(-panels // PER_ROW), min(panels, PER_ROW)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(wide * columns, 6.4), tall * rows), layout="constrained")
        figure.suptitle(title, x=0.012, ha="left", fontsize=14, fontweight="bold")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)  # pyright: ignore[reportOptionalMemberAccess,reportCallIssue]
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for unused in axes[panels:]:
            unused.remove()
        yield axes[:panels]
        figure.savefig(path)


def log_scale(axes: Axes, vertical: bool = False) -> None:
    """Of what is drawn, with plain numbers."""
    (axes.set_yscale if vertical else axes.set_xscale)("log")
    axis = axes.yaxis if vertical else axes.xaxis
    low, high = axis.get_data_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
