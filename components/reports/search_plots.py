"""Pictures of a search as PNG files, in the style of a run's: each function draws one figure from the trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from numpy.typing import NDArray

from components.reports.plots import COLOURS, INK, figure, log_scale
from components.search import Trial

BINS = 8  # of a heat map, each way
MOST_PANELS = 12
SHADES = "viridis"
ENDED = {"finished": COLOURS[0], "stopped": COLOURS[2], "failed": COLOURS[6]}


def best_so_far(trials: Sequence[Trial], path: Path, metric: str) -> None:
    """Every trial where it ended, the failed ones at the bottom, and the best score until then."""
    known = sorted(_scored(trials), key=lambda trial: trial.hours)
    scores = np.array([trial.score for trial in known], float)
    hours = np.array([trial.hours for trial in known])
    with figure(path, "Best so far") as (axes,):
        for ended in ("finished", "stopped"):
            places = np.array([trial.ended == ended for trial in known], bool)
            axes.plot(hours[places], scores[places], "o", color=ENDED[ended], label=ended)
        if len(known):
            axes.step(hours, np.maximum.accumulate(scores), where="post", color=COLOURS[1], label="best so far")
        failed = [trial.hours for trial in trials if trial.ended == "failed"]
        if failed:
            low = scores.min() if len(known) else 0.0
            axes.plot(failed, [low] * len(failed), "x", color=ENDED["failed"], label="failed")
        axes.set_xlabel("hours since the search began")
        axes.set_title(f"{metric} on validation")
        axes.legend(loc="lower right")


def slices(trials: Sequence[Trial], path: Path, metric: str, is_log: Mapping[str, bool]) -> None:
    """A panel per parameter: its value in each trial against the score."""
    known, names = _scored(trials), _names(trials)[:MOST_PANELS]
    with figure(path, f"{metric} by each parameter", panels=max(len(names), 1), tall=3.4) as panels:
        for axes, name in zip(panels, names, strict=False):
            having = [trial for trial in known if name in trial.values]
            values, labels = _numbers([trial.values[name] for trial in having])
            axes.plot(values, np.array([trial.score for trial in having], float), "o", color=COLOURS[0], alpha=0.8)
            _scale(axes, labels, is_log.get(name, False))
            axes.set_title(name)


def heat_map(trials: Sequence[Trial], x: str, y: str, path: Path, metric: str, is_log: Mapping[str, bool]) -> None:
    """Two parameters: the mean score of the trials in each cell, and the trials themselves."""
    having = [trial for trial in _scored(trials) if x in trial.values and y in trial.values]
    (xs, x_labels), (ys, y_labels) = (_numbers([trial.values[name] for trial in having]) for name in (x, y))
    scores = np.array([trial.score for trial in having], float)
    edges = [_edges(values, labels, is_log.get(name, False)) for values, labels, name in ((xs, x_labels, x), (ys, y_labels, y))]
    total, _, _ = np.histogram2d(xs, ys, edges, weights=scores)
    count, _, _ = np.histogram2d(xs, ys, edges)
    with np.errstate(invalid="ignore"):
        means = total / count
    with figure(path, f"{metric}, the mean of each cell") as (axes,):
        drawn = axes.pcolormesh(*edges, means.T, cmap=SHADES)
        axes.plot(xs, ys, "o", color="white", markeredgecolor=INK, markersize=4)
        _scale(axes, x_labels, is_log.get(x, False))
        _scale(axes, y_labels, is_log.get(y, False), vertical=True)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(visible=False)
        axes.figure.colorbar(drawn, ax=axes)


def parallel_coordinates(trials: Sequence[Trial], path: Path, metric: str, is_log: Mapping[str, bool]) -> None:
    """A line per trial through the parameters that it has to its score; brighter is better."""
    names, known = _names(trials), _scored(trials)
    columns, ends = [], []  # of a column, the heights of the trials that have a value there
    for name in names:
        having = [n for n, trial in enumerate(known) if name in trial.values]
        values, labels = _numbers([known[n].values[name] for n in having])
        columns.append(dict(zip(having, _share(np.log10(values) if is_log.get(name, False) else values), strict=True)))
        ends.append(labels or ([f"{values.min():.3g}", f"{values.max():.3g}"] if len(values) else []))
    scores = np.array([trial.score for trial in known], float)
    columns.append(dict(enumerate(_share(scores))))
    ends.append([f"{scores.min():.4f}", f"{scores.max():.4f}"] if len(scores) else [])
    with figure(path, "Every trial", wide=max(6.4, 1.9 * (len(names) + 1))) as (axes,):
        if len(known):
            order = np.argsort(scores)  # the best on top
            lines = [np.array([(place, column[n]) for place, column in enumerate(columns) if n in column]) for n in order]
            axes.add_collection(LineCollection(lines, array=scores[order], cmap=SHADES, linewidths=1.4, alpha=0.85))
        for place, labels in enumerate(ends):
            axes.axvline(place, color=INK, linewidth=1)
            for height, label in zip(np.linspace(0, 1, max(len(labels), 2)), labels, strict=False):
                axes.annotate(label, (place, height), (4, 2), textcoords="offset points", fontsize=8.5)
        axes.set_xticks(range(len(columns)), [*names, metric])
        axes.set_yticks([])
        axes.set_xlim(-0.15, len(columns) - 0.6)
        axes.set_ylim(-0.05, 1.08)
        axes.grid(visible=False)


def pareto_front(trials: Sequence[Trial], path: Path, metric: str, against: str) -> None:
    """Two metrics of every trial, and those that none beats in both."""
    known = [trial for trial in _scored(trials) if trial.against is not None]
    points = np.array([(trial.score, trial.against) for trial in known], float).reshape(-1, 2)
    best = front(points)
    with figure(path, f"{metric} against {against}") as (axes,):
        axes.plot(*points.T, "o", color=COLOURS[2], label="trials")
        line = points[best][np.argsort(points[best][:, 0])]
        axes.step(*line.T, where="pre", color=COLOURS[1], marker="o", label="none is better in both")
        axes.set_xlabel(metric)
        axes.set_ylabel(against)
        axes.legend(loc="lower left")


def importance(shares: Mapping[str, float], path: Path) -> None:
    """How much each parameter tells the best trials from all, as shares, the most important first."""
    names = sorted(shares, key=lambda name: shares[name])
    with figure(path, "Parameter importance", tall=1.6 + 0.4 * len(names)) as (axes,):
        axes.barh(names, [shares[name] for name in names], color=COLOURS[0])
        axes.set_xlim(0, 1)
        axes.set_xlabel("share in telling the best tenth of trials from all")
        axes.grid(axis="y", visible=False)


def front(points_N2: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of N points no other beats: at least as good in both, and better in one."""
    first_N, second_N = points_N2.T
    as_good_NN = (first_N[:, None] <= first_N) & (second_N[:, None] <= second_N)
    better_NN = as_good_NN & ((first_N[:, None] < first_N) | (second_N[:, None] < second_N))
    return ~better_NN.any(axis=1)


def _scored(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.score is not None]


def _names(trials: Sequence[Trial]) -> list[str]:
    return list(dict.fromkeys(name for trial in trials for name in trial.values))


def _numbers(values: Sequence[Any]) -> tuple[NDArray[np.float64], list[str]]:
    """Numbers as they are; anything else by place, with the labels of the places."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return np.array(values, float), []
    labels = sorted({str(value) for value in values})
    return np.array([labels.index(str(value)) for value in values], float), labels


def _scale(axes: Axes, labels: Sequence[str], is_log: bool, vertical: bool = False) -> None:
    if labels:
        (axes.set_yticks if vertical else axes.set_xticks)(range(len(labels)), labels)
    elif is_log:
        log_scale(axes, vertical)


def _edges(values: NDArray[np.float64], labels: Sequence[str], is_log: bool) -> NDArray[np.float64]:
    if labels:
        return np.arange(len(labels) + 1, dtype=np.float64) - 0.5
    known = np.unique(np.log(values) if is_log else values)
    if 1 < len(known) <= BINS:  # of a grid: a cell for each, whose middle it need not be
        inner = (known[1:] + known[:-1]) / 2
        edges = np.array([2 * known[0] - inner[0], *inner, 2 * known[-1] - inner[-1]], np.float64)
        return np.exp(edges) if is_log else edges
    low, high = values.min(), values.max()
    shares = np.linspace(0, 1, BINS + 1)
    return low * (high / low) ** shares if is_log else low + (high - low) * shares


def _share(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the way from the least to the largest."""
    if not len(values) or values.min() == values.max():
        return np.full(len(values), 0.5)
    return np.asarray((values - values.min()) / (values.max() - values.min()), np.float64)
