"""Curves of a small log at a fixed seed, as they were recorded: a refactoring that changes a number, or a draw, changes one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.worlds import recipe, small_log

ORDERED = {"data": {"source": "log.csv", "split": {"by": "leave_one_out"}}}
SASREC = {"name": "sasrec", "dim": 8, "inner_dim": 16, "max_length": 7, "dropout": 0.3}
FULL = {"loss": {"name": "sampled_softmax", "temperature": 1.0}, "negatives": [{"name": "all_items"}]}
REMEMBERED = [{"name": "in_batch", "exclude": "same_item"}, {"name": "memory_bank", "size": 50}]
SETTINGS: dict[str, dict[str, Any]] = {
    "mf, draws of every kind, logQ, dropout, L2": {
        "encoder": {"name": "mf", "dim": 8, "dropout": 0.3},
        "negatives": [{"name": "in_batch"}, {"name": "uniform", "count": 20}, {"name": "uniform", "count": 3, "per": "row"}],
        "loss": {"name": "sampled_softmax", "temperature": 0.2, "logq": True},
        "optimizer": {"learning_rate": 0.02, "l2": {"weight": 0.01, "on": "rows"}},
        "training": {"batch_size": 100, "epochs": 4, "precision": "float64"},
    },
    "lightgcn, a pool by popularity": {
        "encoder": {"name": "lightgcn", "dim": 8, "layers": 2},
        "negatives": [{"name": "in_batch"}, {"name": "popularity", "count": 15, "beta": 0.5}],
    },
    "simplex, margins": {
        "encoder": {"name": "simplex", "dim": 8},
        "negatives": [{"name": "uniform", "count": 5, "per": "row"}],
        "loss": {"name": "multi_margin", "margins": [0.2, 0.6, 0.9], "weights": [0.5, 0.3, 0.2], "negative_weight": 30.0},
    },
    "adv_infonce": {
        "negatives": [{"name": "uniform", "count": 12, "per": "row"}],
        "objective": {"name": "adv_infonce", "adv_interval": 1, "adv_learning_rate": 0.05, "dim": 4},
        "optimizer": {"learning_rate": 0.02},
    },
    "sasrec, whole sequences": {
        **ORDERED,
        **FULL,
        "encoder": SASREC,
        "objective": {"name": "supervised", "positives": "sequences"},
    },
    "mclrec, views of similar items": {
        **ORDERED,
        **FULL,
        "encoder": SASREC,
        "views": [{"name": "substitute", "neighbours": 2}, {"name": "insert"}],
        "objective": {"name": "mclrec", "updates": "encoder_once"},
    },
    "mclrec": {
        **ORDERED,
        **FULL,
        "encoder": SASREC,
        "views": [{"name": "crop"}, {"name": "mask"}, {"name": "reorder"}],
        "objective": {"name": "mclrec"},
    },
    "ccl4rec": {
        **ORDERED,
        "encoder": {"name": "mean_pool", "dim": 8, "inner_dim": 16, "max_length": 16},
        "views": [{"name": "replace"}, {"name": "replace", "replaces": "indispensable", "ratio": 0.4}],
        "negatives": REMEMBERED,
        "objective": {"name": "ccl4rec", "positive_views": 3, "negative_views": 2, "warm_up": 1, "curriculum_epochs": 2},
    },
}
CURVES: dict[str, tuple[list[float], list[float]]] = {
    "mf, draws of every kind, logQ, dropout, L2": (
        [4.564427351127431, 4.007173401185566, 3.4194285591390994, 3.196230834912132],
        [0.6012121212121212, 0.6693939393939394, 0.7042424242424242, 0.7587878787878788],
    ),
    "lightgcn, a pool by popularity": (
        [3.84429783193554, 3.735032038778546, 3.692886070484048],
        [0.7078787878787879, 0.7215151515151516, 0.7215151515151516],
    ),
    "simplex, margins": (
        [1.9369068997263212, 1.659783374086391, 1.4270668910582982],
        [0.5927272727272728, 0.6478787878787878, 0.6781818181818182],
    ),
    "adv_infonce": (
        [7.294639749000784, 6.483687797702751, 5.857816185550108],
        [0.6775757575757576, 0.6927272727272727, 0.7821212121212121],
    ),
    "sasrec, whole sequences": (
        [3.6988244060235216, 3.693861992399968, 3.6881903392638606],
        [0.629090909090909, 0.6321212121212121, 0.6503030303030303],
    ),
    "mclrec, views of similar items": (
        [4.599880836761082, 4.527421349336578, 4.487458606200477],
        [0.7093939393939394, 0.7503030303030302, 0.7433333333333333],
    ),
    "mclrec": (
        [4.588473998695263, 4.496209168743574, 4.430832190761735],
        [0.7206060606060606, 0.7175757575757575, 0.5403030303030303],
    ),
    "ccl4rec": (
        [3.872281549733265, 4.095306098245386, 4.027552617779376],
        [0.6827272727272727, 0.5751515151515152, 0.5533333333333333],
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_recorded_curve(name: str) -> None:
    """float64 on one process."""
    task = small_log()
    trainer = Trainer(recipe(**SETTINGS[name]), task.seen, task, Workers(), torch.device("cpu"))
    told = [progress.metrics for progress in trainer.run() if progress.metrics]
    losses, recalls = CURVES[name]
    assert [metrics["loss"] for metrics in told] == pytest.approx(losses, rel=1e-9)
    assert [metrics["valid_recall@20"] for metrics in told] == pytest.approx(recalls, rel=1e-9)
