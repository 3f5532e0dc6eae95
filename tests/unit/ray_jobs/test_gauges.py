"""Which of an epoch's metrics are gauges, and that a report sets them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from components.training.collectives import Workers
from components.training.loop import Trainer
from ray_jobs import _gauges
from tests.worlds import in_processes, recipe, small_log

METRICS = {"loss": 1.0, "rows_per_second": 5e4, "step_seconds": 0.25, "negatives.1_age": 3.5, "negatives.10_age": 7.0}


class Set:
    """What gauges were made and set to."""

    values: dict[tuple[str, tuple[tuple[str, str], ...]], float]

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        assert description
        self._name, self._keys = name, set(tag_keys)

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == self._keys, "Ray refuses any other labels"
        Set.values[self._name, tuple(sorted(tags.items()))] = value


def test_each_bank_has_an_age_of_its_own() -> None:
    found = [(labels["negatives"], value) for name, labels, value in _gauges.read(METRICS) if labels]
    assert found == [("negatives.1", 3.5), ("negatives.10", 7.0)]
    assert {name for name, _, _ in _gauges.read(METRICS)} < set(_gauges.GAUGES)


def told() -> dict[str, float]:
    """What the last epoch of a training with a bank tells."""
    task = small_log()
    negatives = [{"name": "in_batch"}, {"name": "memory_bank", "size": 70}]
    given = recipe(negatives=negatives, training={"batch_size": 300, "epochs": 2, "select_on": "none"})
    trainer = Trainer(given, task.seen, None, Workers(), torch.device("cpu"))
    return [progress.metrics for progress in trainer.run() if progress.metrics][-1]


def test_a_training_tells_all_that_there_are_gauges_for(tmp_path: Path) -> None:
    (metrics,) = in_processes(told, 1, tmp_path)
    assert {name for name, _, _ in _gauges.read(metrics)} == set(_gauges.GAUGES)


def test_a_report_sets_what_its_last_epoch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all epochs since the report before; one that tells of a checkpoint alone changes nothing."""
    monkeypatch.setattr(_gauges, "Gauge", Set)
    Set.values = {}
    gauges = _gauges.Gauges("tiny", "tiny-0")

    def report(*epochs: dict[str, float]) -> None:
        history = [{"time": 0.0, "step": n, "metrics": metrics} for n, metrics in enumerate(epochs)]
        workers: list[dict[str, Any]] = [{"history": history}, {}]
        gauges.after_report(None, workers, None)

    report()
    assert Set.values == {}
    report({"loss": 2.0, "rows_per_second": 1.0}, METRICS)
    labels = (("recipe", "tiny"), ("run", "tiny-0"))
    assert Set.values == {
        ("hardneg_rows_per_second", labels): 5e4,
        ("hardneg_step_seconds", labels): 0.25,
        ("hardneg_bank_age_steps", (("negatives", "negatives.1"), *labels)): 3.5,
        ("hardneg_bank_age_steps", (("negatives", "negatives.10"), *labels)): 7.0,
    }
    report()
    report({**METRICS, "step_seconds": 0.5})
    assert Set.values["hardneg_step_seconds", labels] == 0.5
