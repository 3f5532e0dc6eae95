"""How fast training says that it is: rows, steps, and how long workers are in collectives, waiting for one another included."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from components.training.batches import Batch
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.worlds import in_processes, recipe, small_log

PAUSE = 0.05


def trained(pause: float) -> dict[str, float]:
    """What the last of two epochs told, of workers of whom the second rests before each step."""
    task = small_log()
    given = recipe(training={"batch_size": 100, "epochs": 2, "select_on": "none"})
    trainer = Trainer(given, task.seen, None, Workers(), torch.device("cpu"))
    update = trainer.update

    def rested(batch: Batch, learner: str = "model") -> torch.Tensor:
        time.sleep(pause * trainer.workers.rank)
        return update(batch, learner)

    trainer.update = rested
    return [progress.metrics for progress in trainer.run() if progress.metrics][-1]


def test_who_waits_for_a_slow_worker_is_exchanging(tmp_path: Path) -> None:
    """The first waits for the second's rest, which is no exchange of the second's; both tell the mean of both."""
    first, second = in_processes(trained, 2, tmp_path, PAUSE)
    assert first["exchange_share"] == second["exchange_share"]
    assert second["step_seconds"] > PAUSE
    resting = PAUSE / second["step_seconds"]
    assert resting / 4 < first["exchange_share"] < 1 - resting / 2


def test_rows_and_steps_are_of_the_same_seconds() -> None:
    told = trained(0)
    rows = len(small_log().seen)
    assert told["rows_per_second"] * told["step_seconds"] == pytest.approx(rows / -(-rows // 100))
    assert "exchange_share" not in told, "one process without a group has nobody to wait for"
