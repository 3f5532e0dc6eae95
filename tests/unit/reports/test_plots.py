from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from components.evaluation.comparison import Difference
from components.reports import plots


def painted(path: Path) -> float:
    """Share of pixels that are not white."""
    return float((imread(path)[..., :3].min(axis=-1) < 0.9).mean())


@pytest.mark.parametrize("epochs", [1, 2, 60])
def test_learning_curves(tmp_path, epochs):
    history = [{"epoch": e, "loss": 5 / (e + 1), "rows_per_second": 1e5} for e in range(epochs)]
    history[-1]["valid_recall@20"] = 0.1
    plots.learning_curves(history, tmp_path / "plot.png", "a_recipe")
    assert painted(tmp_path / "plot.png") > 0.01


@pytest.mark.parametrize("metrics", [0, 2, 3, 6])
def test_the_loss_and_what_was_validated_have_a_panel_each_and_nothing_else(tmp_path, monkeypatch, metrics):
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: drawn.append(figure))
    wanted = [f"{split}_recall@{k}" for split in ("valid", "test") for k in (5, 10, 20)][:metrics]
    others = ["rows_per_second", "validation_seconds", "system/node_0/cpu_percent", "system/node_0/loss_of_packets"]
    history = [{"epoch": e, "loss": 1.0, **dict.fromkeys([*others, *wanted], 0.5)} for e in (1, 2)]
    plots.learning_curves(history, tmp_path / "plot.png")
    panels = drawn[0].axes
    assert [panel.get_title(loc="left").partition(":")[0] for panel in panels] == [
        "loss",
        *(name.replace("_", " ") for name in wanted),
    ]
    tops = [round(panel.get_position().y0, 3) for panel in panels]
    assert max(map(tops.count, tops)) <= 3, "a row of more than three panels is not readable"


def test_learning_curves_of_nothing_yet(tmp_path):
    plots.learning_curves([], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 0


def test_popularity_groups(tmp_path):
    bars = {"model": np.linspace(0.01, 0.05, 10).tolist(), "most popular": [0.0] * 9 + [0.1]}
    plots.popularity_groups(bars, tmp_path / "plot.png")
    assert painted(tmp_path / "plot.png") > 0.03


def test_deviations_are_drawn_where_there_are_some(tmp_path):
    bars = {"many seeds": [0.05] * 10, "one seed": [0.05] * 10}
    plots.popularity_groups(bars, tmp_path / "without.png", "title")
    plots.popularity_groups(bars, tmp_path / "with.png", "title", deviations={"many seeds": [0.02] * 10})
    assert (tmp_path / "without.png").read_bytes() != (tmp_path / "with.png").read_bytes()


def test_a_difference_is_hollow_where_an_interval_holds_zero(tmp_path, monkeypatch):
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: drawn.append(figure))
    sure, unsure = Difference(0.2, 0.1, (0.1, 0.3), None), Difference(0.2, 0.1, (0.1, 0.3), (-0.1, 0.5))
    plots.differences({"sure": {"a@5": sure, "b@5": unsure}, "unsure": {"a@5": unsure, "b@5": unsure}}, tmp_path / "plot.png")
    faces = [
        [line.get_markerfacecolor() == "white" for line in axes.lines if line.get_marker() == "o"] for axes in drawn[0].axes
    ]
    assert faces == [[False, True], [True, True]]


@pytest.mark.parametrize("metrics", [1, 4])
@pytest.mark.parametrize("systems", [1, 8])
def test_differences(tmp_path, systems, metrics):
    values = {f"m@{k}": Difference(0.01, 0.1, (-0.01, 0.02), (-0.02, 0.04)) for k in range(metrics)}
    plots.differences(
        {f"a system of a rather long name (with settings {n})": values for n in range(systems)}, tmp_path / "p.png"
    )
    assert painted(tmp_path / "p.png") > 0.01


def test_score_histograms_of_a_model_that_scores_everything_alike(tmp_path):
    plots.score_histograms(np.ones(9), np.ones(9), tmp_path / "plot.png")
    assert painted(tmp_path / "plot.png") > 0.01


def test_the_share_of_won_pairs_counts_ties_half():
    positives, negatives = np.array([1.0, 2.0, 2.0]), np.array([2.0, 0.0, 3.0, 2.0])
    won = np.mean([(p > n) + (p == n) / 2 for p in positives for n in negatives])
    assert plots.auc(positives, negatives) == pytest.approx(won)
