"""The loss curve of a small log at a fixed seed, as it was recorded: a refactoring that changes a number changes it."""

from __future__ import annotations

import pytest
import torch

from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.worlds import recipe, small_log

LOSSES = [4.564427351127431, 4.0071734011855655, 3.4194285591390994, 3.196230834912132]
RECALLS = [0.6012121212121212, 0.6693939393939394, 0.7042424242424242, 0.7587878787878788]


def test_the_recorded_curve() -> None:
    """Draws of every kind, logQ, dropout and L2; float64 on one process."""
    task = small_log()
    settings = recipe(
        encoder={"name": "mf", "dim": 8, "dropout": 0.3},
        negatives=[{"name": "in_batch"}, {"name": "uniform", "count": 20}, {"name": "uniform", "count": 3, "per": "row"}],
        loss={"name": "sampled_softmax", "temperature": 0.2, "logq": True},
        optimizer={"learning_rate": 0.02, "l2": {"weight": 0.01, "on": "rows"}},
        training={"batch_size": 100, "epochs": 4, "precision": "float64"},
    )
    trainer = Trainer(settings, task.seen, task, Workers(), torch.device("cpu"))
    told = [progress.metrics for progress in trainer.run() if progress.metrics]
    assert [metrics["loss"] for metrics in told] == pytest.approx(LOSSES, rel=1e-9)
    assert [metrics["valid_recall@20"] for metrics in told] == pytest.approx(RECALLS, rel=1e-9)
