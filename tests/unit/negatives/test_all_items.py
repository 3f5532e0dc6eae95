"""Every item as a candidate: full softmax, against torch's cross-entropy over the catalogue."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from components import catalog
from components.training.batches import Batch, batches
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.worlds import recipe, small_log

TRAIN = small_log().seen


def batch_of(rows: int = 64) -> Batch:
    return next(batches(TRAIN, batch_size=rows, seed=3, epoch=0, workers=Workers(), device=torch.device("cpu")))


@pytest.mark.parametrize("exclude", ["same_item", "seen"])
@pytest.mark.parametrize("logq", [False, True])
def test_with_sampled_softmax_it_is_the_full_softmax(logq: bool, exclude: str) -> None:
    loss = {"name": "sampled_softmax", "temperature": 0.2, "logq": logq}
    settings = recipe(loss=loss, negatives=[{"name": "all_items", "exclude": exclude}])
    trainer = Trainer(settings, TRAIN, None, Workers(), torch.device("cpu"))
    batch = batch_of()
    loss_B = trainer.objective(batch).loss_B
    loss_B.sum().backward()

    tables = [table.detach().clone().requires_grad_() for table in trainer.encoder.parameters()]
    users_UD, items_ID = (F.normalize(table, dim=1) for table in tables)
    logits_BI = users_UD[batch.users_B] @ items_ID.T / 0.2
    if exclude == "seen":
        seen_UI = torch.zeros(TRAIN.num_users, TRAIN.num_items, dtype=torch.bool)
        seen_UI[TRAIN.users, TRAIN.items] = True
        seen_BI = seen_UI[batch.users_B]
        seen_BI[torch.arange(64), batch.items_B] = False
        logits_BI = logits_BI.masked_fill(seen_BI, -torch.inf)
    wanted_B = F.cross_entropy(logits_BI, batch.items_B, reduction="none")
    wanted_B.sum().backward()

    assert torch.allclose(loss_B, wanted_B, rtol=1e-12)
    for ours, theirs in zip(trainer.encoder.parameters(), tables, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        gradient = ours.grad.to_dense()
        assert gradient.abs().max() > 0.1
        assert (gradient - theirs.grad).abs().max() < 1e-12


def test_each_item_is_there_once_and_only_the_positive_is_out() -> None:
    source = catalog.build("negatives", {"name": "all_items"}, TRAIN, Workers(), "negatives.0")
    batch = batch_of()
    candidates = source(batch, torch.zeros(64, 4))
    assert candidates.items.tolist() == [*range(TRAIN.num_items)]
    counts = torch.ones(64, TRAIN.num_items, dtype=torch.bool)
    counts[candidates.excluded.pairs()] = False
    assert torch.equal(counts, torch.arange(TRAIN.num_items)[None, :] != batch.items_B[:, None])
    assert source.expected_count(batch, candidates.items).expand(TRAIN.num_items).tolist() == [1] * TRAIN.num_items
