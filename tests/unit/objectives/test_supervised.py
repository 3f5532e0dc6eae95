"""The straight line from batch to loss, held against full softmax and loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from components import catalog
from components.data.interactions import Interactions
from components.errors import InputError
from components.masks import Mask
from components.negatives import Candidates
from components.training.batches import Batch, batches
from components.training.collectives import Workers
from components.training.loop import Trainer
from components.training.optimizer import add_table_gradient, penalty
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


@pytest.mark.parametrize("logq", [False, True])
def test_a_batch_of_one_row_has_loss_zero(logq: bool) -> None:
    trainer = trainer_of(loss={"name": "sampled_softmax", "temperature": 0.2, "logq": logq})
    assert trainer.objective(batch_of(1)).loss_B.tolist() == [0]
    assert torch.isfinite(trainer.step(batch_of(1)))
    assert all(torch.isfinite(table).all() for table in trainer.encoder.parameters())


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
    "by popularity": [{"name": "popularity", "count": 1500}],
    "by popularity, not as steeply, that may hold the positive": [
        {"name": "popularity", "count": 1500, "beta": 0.5, "exclude": "nothing"}
    ],
    "rows": [{"name": "uniform", "count": 1500, "per": "row"}],
    "in batch": [{"name": "in_batch"}],
    "in batch, nothing out": [{"name": "in_batch", "exclude": "nothing"}],
    "in batch, repeats of the positive out": [{"name": "in_batch", "exclude": "same_item"}],
    "mixture": [{"name": "in_batch"}, {"name": "uniform", "count": 700}, {"name": "uniform", "count": 700, "per": "row"}],
    "mixture, nothing out": [
        {"name": "in_batch", "exclude": "nothing"},
        {"name": "uniform", "count": 700, "exclude": "nothing"},
        {"name": "uniform", "count": 700, "per": "row", "exclude": "nothing"},
    ],
    "mixture of pool and rows": [{"name": "uniform", "count": 200}, {"name": "uniform", "count": 1200, "per": "row"}],
    "mixture of in-batch ones": [{"name": "in_batch", "exclude": "same_item"}] * 2,
}


@pytest.mark.parametrize("name", SOURCES)
def test_with_logq_every_source_estimates_the_full_softmax(name: str) -> None:
    """The bias against log sum over all (or all unseen) items vanishes with many draws."""
    trainer = trainer_of(negatives=SOURCES[name], loss={"name": "sampled_softmax", "temperature": 0.2, "logq": True})
    scores = cosines(trainer) / 0.2
    unseen = np.ones_like(scores, dtype=bool)
    if all(spec.get("exclude", "seen") == "seen" for spec in SOURCES[name]):
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


def test_logq_refuses_sources_that_exclude_differently() -> None:
    mixed = [{"name": "in_batch"}, {"name": "uniform"}, {"name": "uniform", "exclude": "nothing"}]
    with pytest.raises(InputError, match=r"^negatives\.2\.exclude: got 'nothing', takes 'seen' as in negatives\.0"):
        trainer_of(negatives=mixed, loss={"name": "sampled_softmax", "logq": True})
    trainer_of(negatives=mixed)  # without logQ nothing asks for one expected count


def test_logq_refuses_positives_drawn_for_users() -> None:
    """In the batch, items would then not be as frequent as in the log."""
    with pytest.raises(
        InputError, match=r"^objective\.positives: got 'users', takes 'rows' or 'sequences' where loss\.logq is true$"
    ):
        trainer_of(objective={"name": "supervised", "positives": "users"}, loss={"name": "sampled_softmax", "logq": True})


class PerRow:
    """Two items for each row, of which the second must not count in row 1."""

    exclude, excludes_positive = "seen", True

    def __call__(self, batch: Batch, positives_BD: torch.Tensor) -> Candidates:
        excluded = Mask.of_pairs(torch.tensor([1]), torch.tensor([1]), 3, 2)
        return Candidates(torch.tensor([[0, 1], [2, 3], [4, 5]]), None, excluded)


def test_candidates_of_a_row_are_excluded_too() -> None:
    trainer = trainer_of()
    loss = catalog.build("loss", trainer.recipe.loss)
    objective = catalog.build(
        "objective", {"name": "supervised"}, trainer.encoder, loss, [PerRow()], TRAIN, None, Workers(), []
    )
    batch = batch_of(3)
    loss_B = objective(batch).loss_B
    scores = cosines(trainer)[batch.users_B] / 0.2
    for row, counted in enumerate([[0, 1], [2], [4, 5]]):
        logits = scores[row, [int(batch.items_B[row]), *counted]]
        assert loss_B[row].item() == pytest.approx(np.log(np.exp(logits).sum()) - logits[0], rel=1e-12)
    loss_B.sum().backward()
    assert all(table.grad is not None for table in trainer.encoder.parameters())


def l2_of(on: str, reduce: str, num_workers: int = 1) -> tuple[float, Trainer]:
    """The penalty of a batch of three rows, weight .1: users (3, 4), items (1, 0) and (0, 2), a pool of 4 and 2 per row."""
    log = Interactions.of([0, 1, 2], [0, 0, 1], 3, 2)
    settings = recipe(
        encoder={"name": "mf", "dim": 2},
        negatives=[
            {"name": "uniform", "count": 4, "exclude": "nothing"},
            {"name": "uniform", "count": 2, "per": "row", "exclude": "nothing"},
        ],
        optimizer={"l2": {"weight": 0.1, "on": on, "reduce": reduce}},
    )
    trainer = Trainer(settings, log, None, Workers(), torch.device("cpu"))
    with torch.no_grad():
        users, items = trainer.encoder.parameters()
        users.copy_(torch.tensor([[3.0, 4.0]] * 3))
        items.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    outcome = trainer.objective(next(trainer.batches()))
    return penalty(settings.optimizer.l2, outcome, 3, num_workers).item(), trainer


def test_l2_on_positives_is_the_specifications() -> None:
    """Specification 11 for each row: .1 * (25 + |item|^2) / 2, summed, or divided by the rows."""
    total = 0.1 * (3 * 25 + 1 + 1 + 4) / 2
    assert l2_of("positives", "sum")[0] == pytest.approx(total)
    assert l2_of("positives", "mean")[0] == pytest.approx(total / 3)


def test_l2_on_rows_counts_a_shared_pool_once() -> None:
    base, trainer = l2_of("positives", "sum")
    batch = next(trainer.batches())
    norms = torch.tensor([1.0, 4.0])
    pool, own = (norms[source(batch, torch.zeros(3, 2)).items].sum().item() for source in trainer.sources)
    assert l2_of("rows", "sum")[0] == pytest.approx(base + 0.1 / 2 * (pool + own))
    assert l2_of("rows", "sum", num_workers=2)[0] == pytest.approx(base + 0.1 / 2 * (pool / 2 + own))


@pytest.mark.parametrize(("reduce", "rows"), [("sum", 1), ("mean", 3)])
def test_l2_on_tables_is_added_to_their_gradient(reduce: str, rows: int) -> None:
    nothing, trainer = l2_of("tables", reduce)
    assert nothing == 0
    for table in trainer.encoder.parameters():
        table.grad = torch.ones_like(table)
    add_table_gradient(trainer.recipe.optimizer.l2, trainer.encoder.parameters(), 3)
    for table in trainer.encoder.parameters():
        assert table.grad is not None
        assert torch.allclose(table.grad, 1 + 0.1 / rows * table.detach())
