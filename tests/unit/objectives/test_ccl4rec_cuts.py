"""What CCL4Rec's views are in float32, where rounding could draw another substitute: under another cut, of moved weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from components.training.batches import Batch, batches
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.worlds import Share, recipe, small_log

LOG = small_log(users=120, items=300, rows=3000).seen
ROWS = 500


def float32_trainer() -> Trainer:
    given = recipe(
        data={"source": "log.csv", "split": {"by": "leave_one_out"}},
        encoder={"name": "mean_pool", "dim": 64, "inner_dim": 16, "max_length": 20},
        objective={"name": "ccl4rec"},
        views=[{"name": "replace"}, {"name": "replace", "replaces": "indispensable"}],
        negatives=[{"name": "uniform", "count": 3}, {"name": "memory_bank", "size": 1024}],
        training={"batch_size": ROWS, "epochs": 3, "precision": "float32"},
    )
    return Trainer(given, LOG, None, Workers(), torch.device("cpu"))


def parts_of(trainer: Trainer, workers: int) -> list[tuple[Batch, ...]]:
    """Each worker's part of each batch."""
    where = {"device": trainer.device, "window": trainer.encoder.window}
    streams = [
        batches(trainer.train, batch_size=ROWS, seed=0, epoch=2, workers=Share(n, workers), **where) for n in range(workers)
    ]
    return list(zip(*streams, strict=True))


def drawn(trainer: Trainer, batch: Batch) -> Tensor:
    objective: Any = trainer.objective
    assert batch.histories is not None
    views_BVL = objective.drawn(batch)[0]
    return torch.nn.functional.pad(views_BVL, (0, 20 - views_BVL.shape[2]), value=LOG.num_items)


def test_a_cut_batch_draws_what_the_whole_draws() -> None:
    """Products of a worker's rows alone are of another shape, and may be rounded otherwise."""
    trainer = float32_trainer()
    whole = [drawn(trainer, batch) for (batch,) in parts_of(trainer, 1)]
    assert len(whole[0]) == ROWS
    for workers in (2, 3):
        cut = [torch.cat([drawn(trainer, part) for part in parts]) for parts in parts_of(trainer, workers)]
        assert all(torch.equal(mine, views) for mine, views in zip(cut, whole, strict=True))


def test_weights_that_are_rounded_otherwise_move_few_substitutes() -> None:
    """After a step of another number of workers the last bit of a weight is another: less than one of 2,000 draws is."""
    trainer = float32_trainer()
    given = [batch for (batch,) in parts_of(trainer, 1)]
    before = torch.cat([drawn(trainer, batch) for batch in given])
    moves = torch.randint(-1, 2, trainer.encoder.item_table.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        trainer.encoder.item_table.mul_(1 + moves * 2.0**-23)
    after = torch.cat([drawn(trainer, batch) for batch in given])
    items = [batch.histories.items_SL for batch in given if batch.histories is not None]
    widened = torch.cat([torch.nn.functional.pad(each, (0, 20 - each.shape[1]), value=LOG.num_items) for each in items])
    replaced = int((before != widened.unsqueeze(1)).sum())
    assert replaced > 10_000
    assert int((after != before).sum()) < replaced / 2000
    with torch.no_grad():
        trainer.encoder.item_table.mul_(1 + moves * 2.0**-5)
    other = torch.cat([drawn(trainer, batch) for batch in given])
    assert int((other != before).sum()) > replaced / 100, "weights that are others do"
