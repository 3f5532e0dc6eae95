"""The parts that are timed are those of a step, and what was not reached is said."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from components import config
from ray_jobs import _tracking
from tests.benchmarks import _programs, _report_speed, lightgcn
from tests.worlds import small_log, tiles


@pytest.mark.parametrize("tiled", [False, True])
def test_the_softmax_that_is_timed_is_a_steps(tiled: bool) -> None:
    """To the bit, and tiled where a step is: then nothing holds all scores at once."""
    trainer = lightgcn._trainer(small_log().seen)
    batch = next(trainer.batches())
    encoder: Any = trainer.encoder
    with tiles() if tiled else nullcontext():
        queries_BD = encoder.queries(batch).vectors / lightgcn.TEMPERATURE
        found_B = lightgcn._losses(trainer, batch, queries_BD, encoder.items(batch.items_B).vectors)
        assert torch.equal(found_B, trainer.objective(batch).loss_B)


def told(*, ray_train: float | None = None, **figures: Any) -> list[str]:
    seconds = {"script": 50.0, "hardneg": 20.0} | ({} if ray_train is None else {"ray_train": ray_train})
    known = {"threads": 1, "limit": 0.9, "graph_seconds": 0.1, "seconds_per_epoch": seconds, "ratio": 0.4, "parts": {}}
    return [*_report_speed.lightgcn({"figures": {**known, **figures}})]


@pytest.mark.parametrize(
    ("last", "seconds", "says"),
    [
        (0.184, 40.0, ["| hardneg | 0.1840 | 40 | 2 |", "0.40 of the script's seconds, within the limit."]),
        (0.184, 95.0, ["0.95 of the script's seconds, **not within** the limit."]),
        (0.182, 40.0, ["| hardneg | 0.1820 (**not reached**) | 40 | 2 |"]),
    ],
)
def test_a_time_to_a_recall_is_told_where_it_was_reached(last: float, seconds: float, says: list[str]) -> None:
    runs = {
        "script": {"seconds": 100.0, "epochs": 2, "recalls": [0.15, 0.1831]},
        "hardneg": {"seconds": seconds, "epochs": 2, "recalls": [0.16, last]},
    }
    lines = told(to_recall={"recall@20": 0.183, **runs, "ratio": seconds / 100})
    assert "| script | 0.1831 | 100 | 2 |" in lines
    assert all(line in lines for line in says)
    assert any("of the script's seconds" in line for line in lines) == (last >= 0.183)


def test_an_epoch_of_a_ray_train_worker_is_of_the_same_settings_and_told_apart(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HARDNEG_DATA", "/somewhere")
    started: list[Any] = []

    def trained(path: Path, changes: list[str], seeds: list[int]) -> list[Path]:
        started.append((config.load(path, changes), seeds))
        steps = [{"time": float(n), "step": n, "metrics": {"step_seconds": 0.01 * n}} for n in (1, 2)]
        _tracking.write_history(tmp_path, steps)
        return [tmp_path]

    monkeypatch.setattr(_programs, "start", lambda *_: None)
    monkeypatch.setattr(_programs, "trained", trained)
    assert lightgcn._in_ray_train(tmp_path, 2) == 0.02
    ((recipe, seeds),) = started
    own = lightgcn._trainer(small_log().seen).recipe
    assert (recipe.seed, seeds) == (own.seed, [own.seed])
    assert (recipe.scale.num_workers, recipe.scale.cpus_per_worker) == (1, 2), "as many threads as the script's"
    assert (recipe.loss, recipe.negatives, recipe.optimizer) == (own.loss, own.negatives, own.optimizer)
    assert recipe.encoder == {**own.encoder, "score_similarity": recipe.encoder["score_similarity"]}
    assert recipe.training.batch_size == own.training.batch_size
    assert (recipe.training.fit_on, recipe.training.select_on, recipe.training.epochs) == ("train+valid", "none", 2)
    assert "| hardneg, a Ray Train worker | 25.0 | 0.50 |" in told(ray_train=25.0)
    assert not any("Ray Train worker" in line for line in told())
