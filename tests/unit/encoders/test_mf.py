"""Matrix factorisation: similarities in training and scoring, dropout keyed by the row, sparse gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from components.encoders.mf import MF
from components.training.batches import Batch, batches
from components.training.collectives import Workers
from tests.worlds import small_log

TRAIN = small_log().seen


def mf(**settings: Any) -> MF:
    return MF(TRAIN, torch.Generator().manual_seed(0), **{"dim": 6, **settings})


def batch_of(rows: int = 40) -> Batch:
    return next(batches(TRAIN, batch_size=rows, seed=0, epoch=0, workers=Workers(), device=torch.device("cpu")))


def norms(vectors: Tensor) -> Tensor:
    return vectors.detach().norm(dim=-1)


def test_training_and_scoring_have_a_similarity_each() -> None:
    encoder = mf(train_similarity="cosine", score_similarity="dot")
    assert torch.allclose(norms(encoder.queries(batch_of()).vectors), torch.ones(40))
    assert torch.equal(encoder.scoring_tables()[0], encoder.user_table)
    encoder = mf(train_similarity="dot", score_similarity="cosine")
    assert torch.equal(encoder.items(torch.arange(5)).vectors, encoder.item_table[:5])
    assert torch.allclose(norms(encoder.scoring_tables()[1]), torch.ones(TRAIN.num_items))


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_scores_need_no_gradient(similarity: str) -> None:
    assert not any(table.requires_grad for table in mf(score_similarity=similarity).scoring_tables())


def test_cosines_gradient_is_orthogonal_to_the_vector() -> None:
    """Specification 11: z_u = (3, 4), z_i = (1, 0): s = .6, ds/dz_u = (.128, -.096)."""
    encoder = mf(dim=2)
    with torch.no_grad():
        encoder.user_table[:] = torch.tensor([3.0, 4.0])
        encoder.item_table[:] = torch.tensor([1.0, 0.0])
    batch = batch_of(1)
    score = (encoder.queries(batch).vectors * encoder.items(batch.items_B).vectors).sum()
    score.backward()
    assert score.item() == pytest.approx(0.6)
    assert encoder.user_table.grad is not None
    assert encoder.user_table.grad.to_dense()[batch.users_B[0]].tolist() == pytest.approx([0.128, -0.096])


def test_dropout_hits_its_share_before_normalising_and_not_when_scoring() -> None:
    encoder = mf(dim=32, train_similarity="dot", dropout=0.25)
    batch = batch_of(len(TRAIN))
    query = encoder.queries(batch)
    dropped = query.vectors == 0
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.allclose(query.vectors[~dropped], query.rows[~dropped] / 0.75)
    assert torch.equal(query.vectors, encoder.queries(batch).vectors)  # keyed by the row: the same again
    assert (encoder.scoring_tables()[0] != 0).all()
    assert torch.allclose(norms(mf(dropout=0.5).queries(batch).vectors).max(), torch.tensor(1.0))


def test_dropout_after_normalising_lets_a_cosine_exceed_1() -> None:
    """What is kept of a vector of length 1 is scaled by 1 / (1 - p)."""
    batch = batch_of(len(TRAIN))
    encoder = mf(dim=32, dropout=0.25, dropout_on="vectors")
    query = encoder.queries(batch)
    unit = query.rows / query.rows.norm(dim=1, keepdim=True)
    dropped = query.vectors == 0
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.allclose(query.vectors[~dropped], unit[~dropped] / 0.75)
    assert norms(query.vectors).max() > 1.01
    before = mf(dim=32, dropout=0.25, dropout_on="rows").queries(batch).vectors
    assert torch.equal(before == 0, dropped), "the draws are the same, wherever they fall"
    assert torch.allclose(norms(before), torch.ones(len(TRAIN)))


@pytest.mark.parametrize("std", [1e-4, 0.3])
def test_normal_tables_have_the_spread_that_is_asked_for(std: float) -> None:
    encoder = mf(dim=64, init="normal", init_std=std)
    for table in (encoder.user_table, encoder.item_table):
        assert table.std().item() == pytest.approx(std, rel=0.05)
        assert abs(table.mean().item()) < std / 10


@pytest.mark.parametrize("init", ["xavier_uniform", "xavier_normal"])
def test_initial_tables_have_xaviers_spread(init: str) -> None:
    encoder = mf(dim=64, init=init)
    wanted = (2 / (TRAIN.num_users + 64)) ** 0.5
    assert encoder.user_table.std().item() == pytest.approx(wanted, rel=0.05)


def test_gradients_travel_as_rows() -> None:
    encoder = mf()
    batch = batch_of()
    (encoder.queries(batch).vectors.sum() + encoder.items(batch.items_B).vectors.sum()).backward()
    for table in (encoder.user_table, encoder.item_table):
        assert table.grad is not None
        assert table.grad.is_sparse
        assert table.grad._values().shape == (40, 6)
