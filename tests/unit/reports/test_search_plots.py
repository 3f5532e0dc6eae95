"""Pictures of searches of any size, with failed trials, parameters of some trials alone and values that are no numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.image import imread

from components.reports import search_plots
from components.search import Trial

IS_LOG = {"loss.temperature": True}


def trials(number: int) -> list[Trial]:
    random, found = np.random.default_rng(0), []
    for n in range(number):
        values = {"loss.temperature": float(10 ** random.uniform(-2, 0)), "loss": ["ccl", "bpr"][n % 2]}
        if n % 2 == 0:
            values["loss.margin"] = float(random.uniform(0.5, 0.9))
        found.append(Trial(f"{n}", ["finished", "stopped"][n % 3 > 0], n / 10, values, 0.1 + n / 100, 0.2 - n / 100))
    return [*found, Trial("lost", "failed", 0.3, {"loss.temperature": 0.1, "loss": "bpr"}, None)]


def painted(path: Path) -> float:
    return float((imread(path)[..., :3].min(axis=-1) < 0.9).mean())


@pytest.mark.parametrize("number", [1, 2, 40])
def test_every_picture_is_drawn(number: int, tmp_path: Path) -> None:
    given = trials(number)
    search_plots.best_so_far(given, tmp_path / "best.png", "ndcg@20")
    search_plots.slices(given, tmp_path / "slices.png", "ndcg@20", IS_LOG)
    search_plots.heat_map(given, "loss.temperature", "loss", tmp_path / "heat.png", "ndcg@20", IS_LOG)
    search_plots.parallel_coordinates(given, tmp_path / "parallel.png", "ndcg@20", IS_LOG)
    search_plots.pareto_front(given, tmp_path / "pareto.png", "ndcg@20", "recall_snips@20")
    search_plots.importance({"loss": 0.7, "loss.temperature": 0.3}, tmp_path / "importance.png")
    pictures = list(tmp_path.glob("*.png"))
    assert len(pictures) == 6
    assert all(painted(picture) > 0.005 for picture in pictures)


def test_every_trial_has_a_line_through_what_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []

    class Recorded(LineCollection):
        def __init__(self, lines: Any, **options: Any) -> None:
            drawn.extend(lines)
            super().__init__(lines, **options)

    monkeypatch.setattr(search_plots, "LineCollection", Recorded)
    search_plots.parallel_coordinates(trials(10), tmp_path / "parallel.png", "ndcg@20", IS_LOG)
    columns = sorted(tuple(line[:, 0]) for line in drawn)
    assert columns == [(0, 1, 2, 3)] * 5 + [(0, 1, 3)] * 5, "five have a margin, and the failed one has no line"
    best = max(drawn, key=lambda line: line[-1, 1])
    assert best[-1].tolist() == [3, 1], "the best score is on top"


def test_a_front_is_what_no_other_beats() -> None:
    points = np.array([(1.0, 1.0), (0.5, 2.0), (0.5, 1.5), (2.0, 0.1), (1.0, 1.0), (0.9, 0.9)])
    assert search_plots.front(points).tolist() == [True, True, False, True, True, False]


@pytest.mark.parametrize(
    ("values", "is_log"), [((6, 12, 18, 24, 30, 40), False), ((1e-3, 3e-3, 1e-2, 1e-1), True), ((1, 2), False)]
)
def test_a_grid_has_a_cell_for_each_value(values: tuple[float, ...], is_log: bool) -> None:
    edges = search_plots._edges(np.repeat(np.array(values, float), 3), [], is_log)
    assert np.histogram(values, edges)[0].tolist() == [1] * len(values)


def test_values_that_are_many_share_cells() -> None:
    values = np.linspace(2, 3, 50)
    edges = search_plots._edges(values, [], False)
    assert len(edges) < len(values)
    assert np.histogram(values, edges)[0].sum() == len(values)
