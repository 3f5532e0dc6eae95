"""What the plan is told a step over histories holds, against what it holds where all are as long as may be."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from components.data.interactions import Interactions
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.held import Held
from tests.worlds import recipe

ITEMS = 400
SASREC, MEAN_POOL = ({"name": name, "dim": 32, "inner_dim": 64, "max_length": 30} for name in ("sasrec", "mean_pool"))
MCLREC: dict[str, Any] = {
    "objective": {"name": "mclrec", "lambda_": 0.1},
    "views": [{"name": "crop"}, {"name": "mask"}, {"name": "reorder"}],
}
CCL4REC: dict[str, Any] = {
    "objective": {"name": "ccl4rec"},
    "views": [{"name": "replace"}, {"name": "replace", "replaces": "indispensable"}],
}


def of_whole_histories(rows: int, encoder: dict[str, Any], bank: int = 0, **sections: Any) -> Trainer:
    """Each user's last row alone is a positive, all before it its history, as long as the window."""
    length, random = encoder["max_length"], np.random.default_rng(0)
    items = np.concatenate([random.permutation(ITEMS)[: length + 1] for _ in range(rows)])
    log = Interactions.of(np.repeat(np.arange(rows), length + 1), items, rows, ITEMS)
    negatives: list[dict[str, Any]] = [{"name": "uniform", "count": 5}]
    given = recipe(
        data={"source": "log.csv", "split": {"by": "leave_one_out"}},
        encoder=encoder,
        negatives=negatives + [{"name": "memory_bank", "size": bank}] * bool(bank),
        training={"batch_size": rows, "epochs": 3, "precision": "float32"},
        **sections,
    )
    trainer = Trainer(given, log, None, Workers(), torch.device("cpu"))
    trainer.train = dataclasses.replace(trainer.train, starts=trainer.train.offsets[1:] - 1)
    trainer.position.epoch = trainer.objective.first_whole_epoch
    return trainer


@pytest.mark.parametrize(
    ("rows", "encoder", "sections"),
    [
        (64, SASREC, {}),
        (64, {**SASREC, "dropout": 0.0}, {}),
        (64, {**SASREC, "heads": 4, "dim": 16}, {}),
        (256, {**SASREC, "max_length": 10, "layers": 3}, {}),
        (256, MEAN_POOL, {}),
        (64, SASREC, MCLREC),
        (512, MEAN_POOL, MCLREC),
        (64, MEAN_POOL, {**CCL4REC, "bank": 5_000}),
        (512, {**MEAN_POOL, "inner_dim": 256}, {**CCL4REC, "bank": 64}),
        (1024, {**MEAN_POOL, "max_length": 5}, {**CCL4REC, "bank": 64}),
        (32, SASREC, {**CCL4REC, "bank": 64}),
    ],
    ids=lambda each: "",
)
def test_a_step_holds_no_more_than_is_told_and_not_much_less(rows: int, encoder: Any, sections: Any) -> None:
    trainer = of_whole_histories(rows, encoder, **sections)
    batch = next(trainer.batches())
    assert batch.histories is not None
    assert batch.histories.lengths_S.tolist() == [encoder["max_length"]] * rows
    with Held() as held:
        outcome = trainer.objective(batch)  # with all that the backward pass asks for
    assert outcome.loss_B.requires_grad
    assert held.peak < trainer.objective.step_bytes(rows, rows, ITEMS, 4) < 2.5 * held.peak


@pytest.mark.parametrize(
    ("encoder", "sections", "times"), [(SASREC, {}, 4), (SASREC, MCLREC, 3), (MEAN_POOL, {**CCL4REC, "bank": 64}, 1)]
)
def test_in_slices_a_step_holds_one_of_them_and_the_vectors(encoder: Any, sections: Any, times: float) -> None:
    """Views too; what is told is so many times less."""
    whole, sliced = (of_whole_histories(256, encoder, **sections, scale={"encode_rows": rows}) for rows in (None, 32))
    batch = next(sliced.batches())
    with Held() as held:
        outcome = sliced.objective(batch)
    assert outcome.loss_B.requires_grad
    told = sliced.objective.step_bytes(256, 256, ITEMS, 4)
    assert held.peak < told < whole.objective.step_bytes(256, 256, ITEMS, 4) / times


@pytest.mark.parametrize(("sections", "tile"), [(MCLREC, 4096 * 16384), ({**CCL4REC, "bank": 64}, 8192 * 8192)])
def test_on_a_gpu_a_contrasts_tile_is_larger(sections: Any, tile: int) -> None:
    objective: Any = of_whole_histories(64, MEAN_POOL, **sections).objective
    on_cpu, on_gpu = (objective.step_bytes(8192, 8192, ITEMS, 4, use_gpu) for use_gpu in (False, True))
    assert on_cpu < 2 * tile * 4 < on_gpu


def test_of_items_that_are_not_known_all_may_differ() -> None:
    objective: Any = of_whole_histories(64, MEAN_POOL, bank=500, **CCL4REC).objective
    known, more = (objective.step_bytes(64, 64, items, 4) for items in (64 * 30 - 1, 64 * 30))
    assert known < more == objective.step_bytes(64, 64, 10**9, 4) == objective.step_bytes(64, 64, None, 4)
