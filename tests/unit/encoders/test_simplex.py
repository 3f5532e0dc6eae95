"""SimpleX against its formulas in plain loops: both pools, the row's own item left out, users without a history."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from components.data.interactions import Interactions
from components.encoders import simplex
from components.encoders.mf import MF
from components.encoders.simplex import Simplex
from components.training.batches import Batch
from tests.worlds import small_log

# user 0 has item 1 twice, users 1 and 3 a single item, users 2 and 5 none
TRAIN = Interactions.of([0, 0, 0, 0, 1, 3, 4, 4], [1, 2, 1, 4, 3, 0, 0, 2], 6, 5)
POOLS = pytest.mark.parametrize("pool", ["mean", "user_attention"])
SHARED = pytest.mark.parametrize("shared_items", [True, False])
D = 3


def encoder_of(train: Interactions = TRAIN, **settings: Any) -> Simplex:
    """In float64, with vectors and biases large enough for the attention to matter."""
    settings = {"dim": D, "dropout": 0.0, "init_std": 1.0, "gamma": 0.7, **settings}
    encoder = Simplex(train, torch.Generator().manual_seed(0), **settings).double()
    if hasattr(encoder, "key_bias"):
        torch.nn.init.normal_(encoder.key_bias, generator=torch.Generator().manual_seed(1))
    return encoder


def batch_of(users: list[int], items: list[int]) -> Batch:
    ids = (torch.tensor(column, dtype=torch.int64) for column in (users, items))
    return Batch(*ids, first_row=0, rows=max(1, len(users)), key=(0, 0, 0))


def dot(a: list[Any], b: list[Any]) -> Any:
    return sum(x * y for x, y in zip(a, b, strict=True))


def in_loops(encoder: Simplex, user: int, without: int | None) -> Tensor:
    """gamma e_u + (1 - gamma) W_v pool, before it is normalised, number by number."""
    e_u = list(encoder.user_table[user])
    table = encoder.item_table if encoder.shared_items else encoder.history_table
    history = [list(table[i]) for i in TRAIN.items_of(user).tolist() if i != without]
    weights: list[Any] = [1 / len(history) for _ in history]
    if encoder.pool == "user_attention":
        keys = []
        for h in history:
            hidden = [dot(list(encoder.key_weight[d]), h) + encoder.key_bias[d] for d in range(D)]
            keys.append([torch.tanh(x) for x in hidden])
        raised = [torch.exp(dot(key, e_u)) for key in keys]
        weights = [each / sum(raised) for each in raised]
    pool = [sum((w * h[d] for w, h in zip(weights, history, strict=True)), start=torch.zeros(())) for d in range(D)]
    value = [dot(list(encoder.value_weight[d]), pool) for d in range(D)]
    return torch.stack([encoder.gamma * e_u[d] + (1 - encoder.gamma) * value[d] for d in range(D)])


ROWS = [(0, 1), (0, 4), (0, 2), (4, 2), (1, 3), (3, 0), (4, 0), (0, 1)]  # users and items of a batch; 1 and 3 have no others


@POOLS
@SHARED
def test_queries_and_gradients_are_those_of_the_formula_in_loops(pool: str, shared_items: bool) -> None:
    encoder, loops = (encoder_of(pool=pool, shared_items=shared_items) for _ in range(2))
    factors = torch.randn(len(ROWS), D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    query = encoder.queries(batch_of(*map(list, zip(*ROWS, strict=True))))
    vectors = [in_loops(loops, user, without) for user, without in ROWS]
    wanted = torch.stack([vector / dot(list(vector), list(vector)).sqrt() for vector in vectors])
    assert torch.allclose(query.vectors, wanted, rtol=1e-12)
    assert torch.equal(query.rows, encoder.user_table[[user for user, _ in ROWS]])
    (query.vectors * factors).sum().backward()
    (wanted * factors).sum().backward()
    wanted_gradients = {name: p.grad for name, p in loops.named_parameters() if p.grad is not None}
    tables = {"user_table", "item_table" if shared_items else "history_table"}
    linear = {"value_weight", "key_weight", "key_bias"} if pool == "user_attention" else {"value_weight"}
    assert set(wanted_gradients) == tables | linear
    for name, parameter in encoder.named_parameters():
        if name in wanted_gradients:
            assert parameter.grad is not None
            assert parameter.grad.is_sparse == (name in tables), name
            assert torch.allclose(parameter.grad.to_dense(), wanted_gradients[name], rtol=1e-10, atol=1e-14), name


@POOLS
@pytest.mark.parametrize("at_once", [1, 3, 2**18])
def test_ranking_has_whole_histories_in_chunks_of_any_size(pool: str, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplex, "HISTORY_ROWS_AT_ONCE", at_once)
    encoder = encoder_of(pool=pool, score_similarity="dot")
    users_UD, items_ID = encoder.scoring_tables()
    wanted = torch.stack([in_loops(encoder, user, without=None) for user in range(TRAIN.num_users)])
    assert torch.allclose(users_UD, wanted.detach(), rtol=1e-12)
    assert torch.equal(items_ID, encoder.item_table)
    unit, _ = encoder_of(pool=pool).scoring_tables()
    assert torch.allclose(unit, users_UD / users_UD.norm(dim=1, keepdim=True), rtol=1e-12)


def test_no_chunk_holds_more_histories_than_the_bound_and_one_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplex, "HISTORY_ROWS_AT_ONCE", 50)
    train, asked = small_log().seen, []

    class Counting(Simplex):
        def _users(self, users_B: Tensor, rows_BD: Tensor, without_B: Tensor | None) -> Tensor:
            asked.append(sum(len(train.items_of(int(user))) for user in users_B))
            return super()._users(users_B, rows_BD, without_B)

    Counting(train, torch.Generator()).scoring_tables()
    longest = max(len(train.items_of(user)) for user in range(train.num_users))
    assert sum(asked) == len(train)
    assert max(asked) < 50 + longest
    assert len(asked) > 5


@POOLS
def test_a_rows_own_item_has_no_part_in_its_query(pool: str) -> None:
    encoder = encoder_of(pool=pool)
    batch = batch_of([0, 0], [1, 2])
    before = encoder.queries(batch).vectors.detach()
    with torch.no_grad():
        encoder.history_table[1] += 1
    after = encoder.queries(batch).vectors.detach()
    assert torch.equal(before[0], after[0])
    assert (before[1] - after[1]).abs().max() > 1e-3


@POOLS
def test_without_other_items_the_pool_is_0(pool: str) -> None:
    encoder = encoder_of(pool=pool, train_similarity="dot")
    query = encoder.queries(batch_of([1, 3], [3, 0]))
    assert torch.allclose(query.vectors, 0.7 * encoder.user_table[[1, 3]])
    query.vectors.sum().backward()
    assert all(torch.isfinite(p.grad.to_dense()).all() for p in encoder.parameters() if p.grad is not None)


@POOLS
def test_a_worker_without_rows_has_gradients_of_the_same_kinds(pool: str) -> None:
    """Workers exchange rows of sparse gradients and the whole of dense ones: they must agree which is which."""
    kinds = []
    for rows in ([], ROWS):
        encoder = encoder_of(pool=pool, dropout=0.5)
        encoder.queries(batch_of([user for user, _ in rows], [item for _, item in rows])).vectors.sum().backward()
        kinds.append({name: p.grad.is_sparse for name, p in encoder.named_parameters() if p.grad is not None})
    assert kinds[0] == kinds[1]


@POOLS
def test_attention_to_large_scores_is_finite(pool: str) -> None:
    encoder = encoder_of(pool=pool, train_similarity="dot", init_std=1e4)
    query = encoder.queries(batch_of([0, 4], [1, 2]))
    assert torch.isfinite(query.vectors).all()


@POOLS
def test_gamma_1_is_mf(pool: str) -> None:
    settings: Any = {"dim": 5, "dropout": 0.4, "init": "normal", "init_std": 0.1}
    encoder = Simplex(TRAIN, torch.Generator().manual_seed(3), gamma=1.0, pool=pool, **settings)  # pyright: ignore[reportArgumentType]
    mf = MF(TRAIN, torch.Generator().manual_seed(3), dropout_on="vectors", **settings)
    assert {name for name, _ in encoder.named_parameters()} == {name for name, _ in mf.named_parameters()}
    batch = batch_of([0, 1, 4], [1, 3, 2])
    assert torch.equal(encoder.queries(batch).vectors, mf.queries(batch).vectors)
    assert torch.equal(encoder.items(batch.items_B).vectors, mf.items(batch.items_B).vectors)
    assert all(torch.equal(a, b) for a, b in zip(encoder.scoring_tables(), mf.scoring_tables(), strict=True))


def test_dropout_is_on_the_normalised_vector_and_not_when_ranking() -> None:
    batch = batch_of([0, 4] * 200, [1, 2] * 200)
    plain, query = (encoder_of(dim=32, dropout=dropout).queries(batch).vectors for dropout in (0.0, 0.25))
    dropped = query == 0
    assert dropped.double().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.allclose(query[~dropped], plain[~dropped] / 0.75)
    assert (encoder_of(dim=32, dropout=0.25).scoring_tables()[0] != 0).all()


def test_tables_begin_as_normal_and_linear_layers_as_xaviers() -> None:
    encoder = Simplex(small_log().seen, torch.Generator().manual_seed(0), dim=64)
    for table in (encoder.user_table, encoder.item_table, encoder.history_table):
        assert table.std().item() == pytest.approx(1e-4, rel=0.05)
    for weight in (encoder.value_weight, encoder.key_weight):
        assert weight.std().item() == pytest.approx((2 / (64 + 64)) ** 0.5, rel=0.05)
    assert not encoder.key_bias.any()


@SHARED
def test_parameters_are_the_published_number(shared_items: bool) -> None:
    """For Gowalla: tables, W_v 4,096 and W_k 4,160, without rows for padding and unknown ids."""
    empty = Interactions.of([], [], 298, 409)
    encoder = Simplex(empty, torch.Generator(), shared_items=shared_items)
    tables = (298 + 409 * (1 if shared_items else 2)) * 64
    assert sum(p.numel() for p in encoder.parameters()) == tables + 4096 + 4160
