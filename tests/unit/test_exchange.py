"""What a worker is told to receive in a step, against what real workers receive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from components import plan
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.worlds import in_processes, recipe, small_log

LOG = small_log().seen
LAST_LEFT_OUT = {"source": "log.csv", "split": {"by": "leave_one_out"}}
READER = {"name": "sasrec", "dim": 8, "inner_dim": 16, "max_length": 7}
# and how many times more may be told: of short histories, and of one item's rows that torch sums before they travel
SCHEMES: dict[str, tuple[float, dict[str, Any]]] = {
    "in_batch": (1.01, {}),
    "ring": (1.01, {"negatives": [{"name": "in_batch", "exchange": "ring"}]}),
    "slow bank": (1.01, {"negatives": [{"name": "memory_bank", "size": 60, "stale": True, "momentum": 0.9}]}),
    "pools and banks": (
        1.01,
        {
            "negatives": [
                {"name": "in_batch"},
                {"name": "uniform", "count": 30},
                {"name": "memory_bank", "size": 70},
                {"name": "memory_bank", "size": 60, "stale": True},
            ]
        },
    ),
    "bank, ccl": (1.01, {"negatives": [{"name": "memory_bank", "size": 70}], "loss": {"name": "ccl"}}),
    "own candidates": (1.1, {"negatives": [{"name": "uniform", "count": 20, "per": "row"}]}),
    "all items": (1.1, {"negatives": [{"name": "all_items"}]}),
    "lightgcn": (1.01, {"encoder": {"name": "lightgcn", "dim": 8, "layers": 2}}),
    "lazy": (1.01, {"optimizer": {"lazy": True}}),
    "adv_infonce": (
        1.5,
        {
            "objective": {"name": "adv_infonce", "adv_interval": 1},
            "negatives": [{"name": "uniform", "count": 5, "per": "row"}],
        },
    ),
    "simplex": (1.6, {"encoder": {"name": "simplex", "dim": 8}}),
    "sasrec": (2.0, {"data": LAST_LEFT_OUT, "encoder": READER}),
    "mclrec": (
        3.0,
        {
            "data": LAST_LEFT_OUT,
            "encoder": READER,
            "objective": {"name": "mclrec"},
            "views": [{"name": "crop"}, {"name": "mask"}],
        },
    ),
}


def of(scheme: str, workers: int) -> Any:
    training = {"batch_size": 48, "precision": "float32"}
    return recipe(training=training, scale={"num_workers": workers}, **SCHEMES[scheme][1])


def measured() -> dict[str, int]:
    """In the second step of an epoch in which all take part."""
    found = {}
    for scheme in SCHEMES:
        trainer = Trainer(of(scheme, Workers().size), LOG, None, Workers(), torch.device("cpu"))
        trainer.position.epoch = trainer.objective.first_whole_epoch
        trainer.position.pass_ = len(trainer.objective.passes(trainer.position.epoch)) - 1
        batches = trainer.batches()
        trainer.update(next(batches))
        before = trainer.workers.received
        trainer.update(next(batches))
        found[scheme] = trainer.workers.received - before
    return found


@pytest.mark.parametrize("workers", [2, 3])
def test_no_more_is_received_than_is_told_and_not_much_less(tmp_path: Path, workers: int) -> None:
    for found in in_processes(measured, workers, tmp_path):
        for scheme, (times, _) in SCHEMES.items():
            told = plan.needs_of(of(scheme, workers), LOG).received
            assert found[scheme] <= told * 1.001 <= times * found[scheme], (scheme, found[scheme], told)


def test_one_worker_receives_nothing() -> None:
    assert plan.needs_of(of("pools and banks", 1), LOG).received == 0
    assert measured() == dict.fromkeys(SCHEMES, 0)


def test_bytes_do_not_grow_with_a_bank() -> None:
    """But for the rows that are looked up, which are a worker's share."""
    bank = {"name": "memory_bank", "size": 64, "stale": True}
    small, large = (
        plan.needs_of(recipe(negatives=[{**bank, "size": size}], scale={"num_workers": 4}), LOG).received for size in (64, 640)
    )
    assert small == large > 0
