"""What the plan is told a step over histories holds, against what it holds where all are as long as may be."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from components.data.interactions import Interactions
from components.training.collectives import Workers
from components.training.loop import Trainer
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


class Held(TorchDispatchMode):
    """The most bytes of tensors made inside that were there at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak, self._now = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: Any) -> None:
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._drop, storage._cdata, storage.nbytes())

    def _drop(self, known: int, size: int) -> None:
        self._known.remove(known)
        self._now -= size


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


def test_of_items_that_are_not_known_all_may_differ() -> None:
    objective: Any = of_whole_histories(64, MEAN_POOL, bank=500, **CCL4REC).objective
    known, more = (objective.step_bytes(64, 64, items, 4) for items in (64 * 30 - 1, 64 * 30))
    assert known < more == objective.step_bytes(64, 64, 10**9, 4) == objective.step_bytes(64, 64, None, 4)
