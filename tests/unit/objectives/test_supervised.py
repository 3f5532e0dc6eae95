"""The straight line from batch to loss, held against full softmax and loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from components.data.interactions import Interactions
from components.training.batches import Batch, batches
from components.training.collectives import Workers
from components.training.loop import Trainer
from components.training.optimizer import penalty
from tests.worlds import recipe, small_log

TRAIN = small_log().seen


def trainer_of(**sections: Any) -> Trainer:
    return Trainer(recipe(**sections), TRAIN, None, Workers(), torch.device("cpu"))


def batch_of(rows: int, epoch: int = 0) -> Batch:
    return next(batches(TRAIN, batch_size=rows, seed=0, epoch=epoch, workers=Workers(), device=torch.device("cpu")))


def cosines(trainer: Trainer) -> np.ndarray:
    users, items = (table.numpy() for table in trainer.encoder.scoring_tables())  # pyright: ignore[reportCallIssue]
    return users @ items.T


def test_in_batch_ssm_against_loops() -> None:
    """Specification 2.1: every other row's item is a negative, repeats and known positives too."""
    trainer = trainer_of(negatives=[{"name": "in_batch", "exclude": "nothing"}])
    batch = batch_of(20)
    users, items, scores = batch.users_B.tolist(), batch.items_B.tolist(), cosines(trainer) / 0.2
    by_hand = [
        np.log(sum(np.exp(scores[u, other] - scores[u, item]) for other in items)) for u, item in zip(users, items, strict=True)
    ]
    assert trainer.objective(batch).loss_B.tolist() == pytest.approx(by_hand, rel=1e-12)


def test_a_batch_of_one_row_has_loss_zero() -> None:
    trainer = trainer_of()
    assert trainer.objective(batch_of(1)).loss_B.tolist() == [0]
    assert torch.isfinite(trainer.step(batch_of(1)))


def test_the_same_item_twice_in_a_batch_is_log_two_or_nothing() -> None:
    twice = Interactions.of([0, 1], [3, 3], 2, 5)
    for exclude, loss in (("nothing", np.log(2)), ("same_item", 0), ("seen", 0)):
        small = recipe(negatives=[{"name": "in_batch", "exclude": exclude}])
        trainer = Trainer(small, twice, None, Workers(), torch.device("cpu"))
        outcome = trainer.objective(next(trainer.batches()))
        assert outcome.loss_B.tolist() == pytest.approx([loss, loss])


SOURCES: dict[str, list[dict[str, Any]]] = {
    "pool": [{"name": "uniform", "count": 1500}],
    "pool that may hold the positive": [{"name": "uniform", "count": 1500, "exclude": "nothing"}],
    "rows": [{"name": "uniform", "count": 1500, "per": "row"}],
    "in batch": [{"name": "in_batch"}],
    "in batch, nothing out": [{"name": "in_batch", "exclude": "nothing"}],
    "mixture": [{"name": "in_batch"}, {"name": "uniform", "count": 700}, {"name": "uniform", "count": 700, "per": "row"}],
}


@pytest.mark.parametrize("name", SOURCES)
def test_with_logq_every_source_estimates_the_full_softmax(name: str) -> None:
    """The bias against log sum over all (or all unseen) items vanishes with many draws."""
    trainer = trainer_of(negatives=SOURCES[name], loss={"name": "sampled_softmax", "temperature": 0.2, "logq": True})
    scores = cosines(trainer) / 0.2
    unseen = np.ones_like(scores, dtype=bool)
    if all(spec.get("exclude") != "nothing" for spec in SOURCES[name]):
        unseen[TRAIN.users, TRAIN.items] = False
    estimates, wanted = [], []
    for epoch in range(6):
        batch = batch_of(len(TRAIN), epoch)
        estimates.append(trainer.objective(batch).loss_B.detach().numpy())
        users, items = batch.users_B.numpy(), batch.items_B.numpy()
        in_sum = unseen[users]
        in_sum[np.arange(len(users)), items] = True
        total = np.log((np.exp(scores[users]) * in_sum).sum(axis=1))
        reachable = np.bincount(TRAIN.items, minlength=TRAIN.num_items) > 0
        assert reachable.all()  # in-batch draws can reach every item
        wanted.append(total - scores[users, items])
    assert np.mean(estimates) == pytest.approx(np.mean(wanted), abs=0.02)
    biased = trainer_of(negatives=SOURCES[name])
    assert abs(np.mean(biased.objective(batch_of(len(TRAIN))).loss_B.detach().numpy()) - np.mean(wanted)) > 0.5


def test_l2_on_rows_positives_and_tables() -> None:
    """Specification 11: rows (3, 4) and (1, 0) with weight .1 give .1 * (25 + 1) / 2 = 1.3."""
    one = Interactions.of([0], [0], 1, 2)
    for on, reduce, pool, wanted in (
        ("positives", "sum", 4, 1.3),
        ("positives", "mean", 4, 1.3),  # one row: sum and mean are the same
        ("rows", "sum", 0, 1.3),
    ):
        small = recipe(
            encoder={"name": "mf", "dim": 2},
            negatives=[{"name": "uniform", "count": pool}] if pool else [{"name": "in_batch"}],
            optimizer={"l2": {"weight": 0.1, "on": on, "reduce": reduce}},
        )
        trainer = Trainer(small, one, None, Workers(), torch.device("cpu"))
        with torch.no_grad():
            trainer.encoder.user_table.copy_(torch.tensor([[3.0, 4.0]]))  # pyright: ignore
            trainer.encoder.item_table.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))  # pyright: ignore
        outcome = trainer.objective(next(trainer.batches()))
        assert penalty(small.optimizer.l2, outcome, 1, 1).item() == pytest.approx(wanted)
