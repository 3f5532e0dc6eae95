"""With logQ the loss and its gradient near those of full softmax as candidates grow: of each source, and of mixtures.

In one process: what workers share is that of one (tests/unit/training/test_workers_equal_one.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from components.negatives import Memory
from components.training.batches import Batch, batches
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.worlds import recipe, small_log

TRAIN = small_log().seen
LOSS = {"name": "sampled_softmax", "temperature": 0.2, "logq": True}
FEW, MANY, DRAWS, ROWS = 12, len(TRAIN), 60, 64
Specs = list[dict[str, Any]]


def uniform(n: int, per: str = "batch") -> dict[str, Any]:
    return {"name": "uniform", "count": n, "per": per}


def popularity(n: int) -> dict[str, Any]:
    return {"name": "popularity", "count": n, "beta": 0.5}


def bank(n: int) -> dict[str, Any]:
    return {"name": "memory_bank", "size": n}


IN_BATCH = {"name": "in_batch"}
MIXTURES: dict[str, Callable[[int], Specs]] = {
    "uniform": lambda n: [uniform(n)],
    "uniform, of each row": lambda n: [uniform(n, "row")],
    "popularity": lambda n: [popularity(n)],
    "in-batch": lambda n: [IN_BATCH],
    "bank": lambda n: [bank(n)],
    "in-batch and bank": lambda n: [IN_BATCH, bank(n)],
    "uniform and popularity": lambda n: [uniform(n // 4), popularity(n)],
    "bank and uniform": lambda n: [bank(n), uniform(n // 3, "row")],
    "all": lambda n: [IN_BATCH, bank(n // 2), uniform(n // 3), uniform(n // 4, "row"), popularity(n // 4)],
}


def trainer_of(negatives: Specs, loss: dict[str, Any] = LOSS) -> Trainer:
    return Trainer(recipe(negatives=negatives, loss=loss), TRAIN, None, Workers(), torch.device("cpu"))


def first_batch(rows: int, epoch: int) -> Batch:
    return next(batches(TRAIN, batch_size=rows, seed=0, epoch=epoch, workers=Workers(), device=torch.device("cpu")))


def loss_and_gradient(trainer: Trainer, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    loss = trainer.objective(batch).loss_B.mean()
    trainer.encoder.zero_grad()
    loss.backward()
    return loss.detach(), torch.cat([table.grad.to_dense() for table in trainer.encoder.parameters()])


def errors(mixture: str, n: int, loss: dict[str, Any] = LOSS) -> tuple[float, float]:
    """Of the mean over many draws: what the loss is off, and how far the gradient is, as a part of its length."""
    specs = MIXTURES[mixture](n)
    sampled, full = trainer_of(specs, loss), trainer_of([{"name": "all_items", "exclude": "seen"}])
    off = torch.zeros((), dtype=torch.float64)
    gradients = torch.zeros(2, TRAIN.num_users + TRAIN.num_items, 8, dtype=torch.float64)
    for draw in range(DRAWS):
        for spec, source in zip(specs, sampled.sources, strict=True):
            if isinstance(source, Memory):  # other rows of the log, at random
                source.push(first_batch(spec["size"], epoch=1000 + draw))
        batch = first_batch(n if specs == [IN_BATCH] else ROWS, epoch=draw)
        (value, gradient), (wanted, exact) = (loss_and_gradient(each, batch) for each in (sampled, full))
        off += (value - wanted) / DRAWS
        gradients += torch.stack([gradient - exact, exact]) / DRAWS
    difference, whole = gradients.flatten(1).norm(dim=1).tolist()
    return abs(float(off)), difference / whole


@pytest.mark.parametrize("mixture", MIXTURES)
def test_the_bias_vanishes_as_candidates_grow(mixture: str) -> None:
    (value_few, gradient_few), (value_many, gradient_many) = (errors(mixture, n) for n in (FEW, MANY))
    assert value_many < 0.02
    assert gradient_many < 0.05
    if mixture not in ("in-batch and bank", "all"):  # which have a batch in any case
        assert value_few > 4 * value_many
        assert gradient_few > 3 * gradient_many
    else:
        assert value_few > value_many
        assert gradient_few > gradient_many


def test_the_bias_of_stale_vectors_grows_with_their_way_and_is_bounded_by_it() -> None:
    """No score is off by more than |v_then - v_now| / temperature, so no row's loss is; fresh ids have no such bias."""
    offs, ways = [], []
    for step in (0.0, 0.1, 0.3, 1.0):
        losses, moved = [], torch.zeros(())
        for kept in (True, False):
            trainer = trainer_of([{**bank(MANY), "stale": kept}])
            (source,), encoder, fill = trainer.sources, trainer.encoder, first_batch(MANY, epoch=1000)
            then_BD = encoder.items(fill.items_B).vectors.detach()
            source(fill, then_BD)
            source.push(fill)
            with torch.no_grad():
                table = encoder.item_table
                noise = torch.randn(table.shape, generator=torch.Generator().manual_seed(1), dtype=table.dtype)
                table.add_(step * table.std() * noise)
            moved = (encoder.items(fill.items_B).vectors.detach() - then_BD).norm(dim=1).max()
            losses.append(trainer.objective(first_batch(ROWS, epoch=0)).loss_B.detach())
        off_B = (losses[0] - losses[1]).abs()
        assert float(off_B.max()) <= float(moved) / LOSS["temperature"] + 1e-12
        offs.append(float(off_B.mean()))
        ways.append(float(moved))
    assert (offs[0], ways[0]) == (pytest.approx(0, abs=1e-12), 0)
    assert offs == sorted(offs)
    assert offs[-1] > 0.1 > offs[1] > 1e-4


def test_without_logq_it_stays() -> None:
    value, gradient = errors("all", MANY, {**LOSS, "logq": False})
    assert value > 1
    assert gradient > 0.2
