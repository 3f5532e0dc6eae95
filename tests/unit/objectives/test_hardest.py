"""The hardest of a larger draw, against loops; rows without a candidate, which are counted; candidates that nobody draws."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from components import catalog
from components.data.interactions import Interactions
from components.errors import InputError
from components.masks import Mask
from components.objectives._log_count import LogCount
from components.training.batches import Batch, batches
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.worlds import in_processes, recipe, small_log, tiles

TRAIN = small_log().seen
DRAWS: dict[str, dict[str, Any]] = {
    "pool": {"name": "uniform", "count": 30},
    "pool, of which a row has few left": {"name": "popularity", "count": 12},
    "rows": {"name": "uniform", "count": 30, "per": "row"},
}


def trainer_of(negatives: list[dict[str, Any]], train: Interactions = TRAIN, **sections: Any) -> Trainer:
    return Trainer(recipe(negatives=negatives, **sections), train, None, Workers(), torch.device("cpu"))


def batch_of(rows: int, train: Interactions = TRAIN) -> Batch:
    return next(batches(train, batch_size=rows, seed=0, epoch=0, workers=Workers(), device=torch.device("cpu")))


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("hardest", [1, 7])
@pytest.mark.parametrize("draw", DRAWS)
def test_the_hardest_of_a_draw_against_loops(draw: str, hardest: int, tiled: bool) -> None:
    """Value and gradient: of each row's candidates that count, in the order of their scores, the first."""
    trainer, batch = trainer_of([{**DRAWS[draw], "hardest": hardest}]), batch_of(20)
    items = trainer.sources[0](batch, torch.zeros(20, 8))
    with tiles() if tiled else nullcontext():
        loss_B = trainer.objective(batch).loss_B
        loss_B.sum().backward()

    tables = [table.detach().clone().requires_grad_() for table in trainer.encoder.parameters()]
    users_UD, items_ID = (F.normalize(table, dim=1) for table in tables)
    short, wanted = 0, []
    for b, (user, item) in enumerate(zip(batch.users_B.tolist(), batch.items_B.tolist(), strict=True)):
        own = items.items[b].tolist() if items.items.dim() == 2 else items.items.tolist()
        scores = [users_UD[user] @ items_ID[other] / 0.2 for other in own if other not in TRAIN.items_of(user)]
        scores.sort(key=lambda score: score.item(), reverse=True)
        short += len(scores) < hardest
        positive = users_UD[user] @ items_ID[item] / 0.2
        wanted.append(torch.stack([positive, *scores[:hardest]]).logsumexp(0) - positive)
    assert (short > 0) == ("few left" in draw and hardest == 7)
    torch.stack(wanted).sum().backward()
    assert torch.allclose(loss_B, torch.stack(wanted), rtol=1e-12)
    for ours, theirs in zip(trainer.encoder.parameters(), tables, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert (ours.grad.to_dense() - theirs.grad).abs().max() < 1e-12


def test_more_than_are_drawn_cannot_be_kept() -> None:
    with pytest.raises(InputError, match=r"^negatives\.0\.hardest: got 31, takes at most count, 30$"):
        trainer_of([{**DRAWS["pool"], "hardest": 31}])


def test_logq_refuses_the_hardest() -> None:
    hardest = [{"name": "in_batch"}, {**DRAWS["pool"], "hardest": 3}]
    with pytest.raises(InputError, match=r"^negatives\.1\.hardest: got 3, takes null where loss\.logq is true"):
        trainer_of(hardest, loss={"name": "sampled_softmax", "logq": True})


# user 0 has the three items that anyone has, user 1 all but item 1: of what a batch holds, the one meets nothing
NARROW = Interactions.of([0, 0, 0, 1, 1], [0, 1, 2, 0, 2], 2, 4)
LOSSES = [{"name": "sampled_softmax"}, {"name": "sampled_softmax", "logq": True}, {"name": "bsl"}, {"name": "bpr"}]


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_a_row_without_candidates_has_no_loss_and_no_gradient_and_is_counted(loss: dict[str, Any], tiled: bool) -> None:
    negatives = [{"name": "in_batch"}, {"name": "memory_bank", "size": 5}]
    trainer = trainer_of(negatives, NARROW, loss=loss, training={"batch_size": 5, "epochs": 2, "precision": "float64"})
    batch = batch_of(5, NARROW)
    with tiles() if tiled else nullcontext():
        outcome = trainer.objective(batch)
        outcome.loss_B.sum().backward()
    alone_B = batch.users_B == 0
    assert outcome.alone_B is not None
    assert torch.equal(outcome.alone_B, alone_B)
    assert (outcome.loss_B[alone_B] == 0).all()
    assert (outcome.loss_B[~alone_B] > 0).all()
    gradient_UD = trainer.encoder.user_table.grad.to_dense()
    assert (gradient_UD[0] == 0).all()
    assert gradient_UD[1].any()
    told = [progress.metrics for progress in trainer.run() if progress.metrics]
    assert [metrics["rows_without_candidates"] for metrics in told] == [3, 3]


def test_where_every_row_has_one_nothing_is_told() -> None:
    trainer = trainer_of([{"name": "uniform", "count": 1, "per": "row"}], NARROW)
    told = [progress.metrics for progress in trainer.run() if progress.metrics]
    assert len(told) == trainer.recipe.training.epochs
    assert not [metrics for metrics in told if "rows_without_candidates" in metrics]


def test_pairs_that_come_twice_count_once() -> None:
    twice = Interactions.of([0, 0, 0], [0, 1, 0], 1, 3)
    source = catalog.build("negatives", {"name": "popularity", "count": 2}, twice, Workers(), "negatives.0")
    candidates = source(Batch(torch.tensor([0]), torch.tensor([0]), 0, 1, (0, 0, 0)), torch.zeros(1, 2))
    rows, columns = torch.tensor([0, 0]), torch.tensor([0, 0])
    for items, left in (([0, 2], 1), ([0], 0)):
        excluded = Mask.of_pairs(rows, columns, 1, len(items))
        assert candidates._replace(items=torch.tensor(items), excluded=excluded).left(1).tolist() == [left]


@pytest.mark.parametrize("of_rows", [False, True])
@pytest.mark.parametrize("tiled", [False, True])
def test_a_candidate_that_no_source_draws_has_no_weight(tiled: bool, of_rows: bool) -> None:
    """Neither infinite nor NaN: as if it were excluded."""
    trainer = trainer_of([{"name": "popularity", "count": 6}], loss={"name": "sampled_softmax", "logq": True})
    batch, source, drawn = batch_of(9), trainer.sources[0], trainer.sources[0](batch_of(9), torch.zeros(9, 8))
    never = int(drawn.items[2])

    class Never:
        exclude, excludes_positive = "seen", True

        def __call__(self, batch: Batch, positives_BD: torch.Tensor) -> Any:
            return drawn

        def expected_count(self, batch: Batch, items: torch.Tensor) -> torch.Tensor:
            counts = source.expected_count(batch, items) * (items != never)
            return counts.expand(len(batch.items_B), len(counts)) if of_rows and items.dim() == 1 else counts

    rows, columns = np.nonzero(np.tile(drawn.items.numpy() == never, (9, 1)))
    assert len(rows)
    pairs = torch.from_numpy(rows), torch.from_numpy(columns)
    both_rows, both_columns = (torch.cat(each) for each in zip(drawn.excluded.pairs(), pairs, strict=True))
    without = drawn._replace(excluded=Mask.of_pairs(both_rows, both_columns, 9, len(drawn.items)))
    found = []
    for sources in ([Never()], [type("Out", (), {**vars(Never), "__call__": lambda *_: without})()]):
        trainer.objective.sources = sources
        trainer.encoder.zero_grad()
        with tiles() if tiled else nullcontext():
            loss_B = trainer.objective(batch).loss_B
            loss_B.sum().backward()
        found.append((loss_B.detach(), trainer.encoder.item_table.grad.to_dense()))
    (loss_B, gradient), (wanted_B, wanted) = found
    assert torch.isfinite(gradient).all()
    assert torch.allclose(loss_B, wanted_B, rtol=1e-12)
    assert torch.allclose(gradient, wanted, rtol=1e-12, atol=1e-14)
    assert LogCount([torch.tensor(0.0).double()], torch.float64).tile() > 1e20


def hardest_and_alone() -> dict[str, Any]:
    """The gradient with the hardest of draws, and what an epoch says of rows without candidates."""
    trainer = trainer_of([{**draw, "hardest": 5} for draw in DRAWS.values()])
    loss = trainer.step(next(trainer.batches()))
    negatives, training = [{"name": "memory_bank", "size": 5}], {"batch_size": 5, "epochs": 1, "precision": "float64"}
    narrow = trainer_of(negatives, NARROW, training=training)
    told = [progress.metrics for progress in narrow.run() if progress.metrics]
    return {
        "loss": trainer.workers.sum(loss),
        "gradient": trainer.encoder.item_table.grad,
        "alone": told[0]["rows_without_candidates"],
    }


def test_workers_agree_with_one(tmp_path: Any) -> None:
    alone = hardest_and_alone()
    assert alone["gradient"].abs().max() > 1e-3
    for worker in in_processes(hardest_and_alone, 2, tmp_path / "two"):
        assert worker["loss"].item() == pytest.approx(alone["loss"].item(), rel=1e-12)
        assert (worker["gradient"] - alone["gradient"]).abs().max() < 1e-12
        assert worker["alone"] == alone["alone"] == 3
