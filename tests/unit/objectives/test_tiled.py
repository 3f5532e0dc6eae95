"""Tiles against plain loops, how much of the scores exists at once, and when there are tiles at all."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from components import catalog
from components.data.interactions import Interactions
from components.losses import EXCLUDED
from components.masks import Mask
from components.objectives import _drawn, _fold, _tiled
from components.objectives._drawn import Drawn
from components.objectives._log_count import LogCount
from components.objectives._shared import Shared
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.worlds import recipe, small_log, tiles


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_log_sum_exp_in_loops() -> None:
    queries_BD, vectors_CD = random(7, 4).requires_grad_(), random(9, 4, seed=1).requires_grad_()
    rows_B1, columns_C = random(7, 1, seed=2).exp(), random(9, seed=3).exp()
    masked = random(7, 9, seed=4) > 0.5
    masked[2] = True
    rows, columns = masked.nonzero(as_tuple=True)
    excluded = Mask.of_pairs(rows, columns, 7, 9)
    log_count = LogCount([rows_B1, columns_C], torch.float64)
    with tiles():
        found_B = _tiled.log_sum_exp(Shared(9), queries_BD, vectors_CD, excluded, log_count)
    totals = []
    for b in range(7):
        total = torch.zeros((), dtype=torch.float64)
        for c in range(9):
            if not masked[b, c]:
                score = torch.zeros((), dtype=torch.float64)
                for k in range(4):
                    score = score + queries_BD[b, k] * vectors_CD[c, k]
                total = total + score.exp() / (rows_B1[b, 0] + columns_C[c])
        totals.append(total)
    assert found_B[2].item() == pytest.approx(EXCLUDED, rel=1e-12)
    some = [b for b in range(7) if b != 2]
    wanted_B = torch.stack([totals[b] for b in some]).log()
    assert found_B[some].tolist() == pytest.approx(wanted_B.tolist(), rel=1e-12)
    found = torch.autograd.grad((found_B * torch.arange(7)).sum(), (queries_BD, vectors_CD))
    wanted = torch.autograd.grad((wanted_B * torch.tensor(some)).sum(), (queries_BD, vectors_CD))
    assert (found[0][2] == 0).all()
    for ours, by_hand in zip(found, wanted, strict=True):
        assert by_hand.abs().max() > 0.1
        assert (ours - by_hand).abs().max() < 1e-12


def test_rows_may_have_temperatures_of_their_own() -> None:
    """Learned ones too: a fold divides queries, not scores."""
    temperature_B1 = (random(7, 1, seed=2) / 4).exp().requires_grad_()
    queries_BD, vectors_CD = random(7, 4), random(9, 4, seed=1)
    weights_B = torch.arange(1.0, 8.0, dtype=torch.float64)
    wanted_B = torch.logsumexp(queries_BD @ vectors_CD.T / temperature_B1, dim=1)
    (wanted,) = torch.autograd.grad((wanted_B * weights_B).sum(), temperature_B1)
    with tiles():
        found_B = _tiled.log_sum_exp(Shared(9), queries_BD / temperature_B1, vectors_CD)
    (found,) = torch.autograd.grad((found_B * weights_B).sum(), temperature_B1)
    assert (found_B - wanted_B).abs().max() < 1e-12
    assert wanted.abs().max() > 0.1
    assert (found - wanted).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_logits_far_apart_neither_overflow_nor_vanish(dtype: torch.dtype) -> None:
    """At the lowest temperature: the largest logit is the log-sum-exp, and has the whole gradient."""
    queries_BD = torch.eye(4, dtype=dtype) * 1e4
    vectors_CD = torch.tensor([[1, 0.5, -1, 0], [-1, 0.25, -0.5, 0], [0.5, 1, -0.75, 0]], dtype=dtype).requires_grad_()
    with tiles(rows=2, columns=2):
        found_B = _tiled.log_sum_exp(Shared(3), queries_BD, vectors_CD)
        found_B.sum().backward()
    assert found_B.tolist() == pytest.approx([1e4, 1e4, -5e3, math.log(3)], rel=1e-2 if dtype is torch.bfloat16 else 1e-6)
    assert vectors_CD.grad is not None
    assert (vectors_CD.grad[:, :3] / 1e4).tolist() == [
        pytest.approx(row, abs=0.01) for row in ([1, 0, 0], [0, 0, 1], [0, 1, 0])
    ]


@pytest.mark.parametrize("name", catalog.names("loss"))
def test_a_vector_that_is_not_finite_is_hidden_by_no_tile(name: str) -> None:
    loss = catalog.build("loss", {"name": name})
    queries_BD, vectors_CD = random(7, 4), random(9, 4)
    vectors_CD[8, 1] = math.nan
    with tiles():
        state = _tiled.added(loss, _fold.start(loss, queries_BD, queries_BD), Shared(9), queries_BD, vectors_CD)
    loss_B = loss.finish(state)
    assert state[1].isnan().all()
    assert loss_B.isnan().all()


class Largest(TorchDispatchMode):
    """The most numbers that any tensor's memory has had."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for each in tree_leaves(found):
            if isinstance(each, Tensor):
                each = each._indices() if each.is_sparse else each
                self.numbers = max(self.numbers, each.untyped_storage().nbytes() // each.element_size())
        return found


ROWS, POOL, DRAWN, WIDTH = 500, 600, 40, 8
DRAWS = [torch.randint(n, (5000,), generator=torch.Generator().manual_seed(n)).numpy() for n in (2000, POOL)]
LOG = Interactions.of(DRAWS[0], DRAWS[1], 2000, POOL)
IN_BATCH = [{"name": "in_batch", "exclude": exclude} for exclude in ("seen", "same_item", "nothing")]
LOGQ = {"name": "sampled_softmax", "temperature": 0.2, "logq": True}
OWN = {"name": "uniform", "count": DRAWN, "per": "row"}
LAST_LEFT_OUT = {"source": "log.csv", "split": {"by": "leave_one_out"}}
MEAN_POOL = {"name": "mean_pool", "dim": 8, "inner_dim": 8, "max_length": 3, "init_std": 0.5}
SCHEMES: dict[str, dict[str, Any]] = {
    **{f"in_batch, {source['exclude']} out": {"negatives": [source]} for source in IN_BATCH},
    **{name: {"loss": {"name": name}, "negatives": [{"name": "uniform", "count": POOL}]} for name in catalog.names("loss")},
    "all_items": {"negatives": [{"name": "all_items"}]},
    "all_items, seen out": {"negatives": [{"name": "all_items", "exclude": "seen"}]},
    "mixture with logQ": {"loss": LOGQ, "negatives": [*IN_BATCH[:1], {"name": "popularity", "count": POOL}, OWN]},
    "mixture with L2": {
        "negatives": [*IN_BATCH[:1], {"name": "uniform", "count": POOL}, OWN],
        "optimizer": {"l2": {"weight": 0.1, "on": "rows"}},
    },
    "rows": {"negatives": [OWN]},
    "mclrec": {
        "data": LAST_LEFT_OUT,
        "encoder": MEAN_POOL,
        "objective": {"name": "mclrec", "lambda_": 0.5, "beta": 1.0},
        "views": [{"name": "crop"}, {"name": "reorder"}],
    },
    "ccl4rec": {
        "data": LAST_LEFT_OUT,
        "encoder": MEAN_POOL,
        "objective": {"name": "ccl4rec", "warm_up": 0, "positive_views": 1, "negative_views": 1},
        "views": [{"name": "replace"}, {"name": "replace", "replaces": "indispensable"}],
        "negatives": [*IN_BATCH[:1], {"name": "memory_bank", "size": 20}],
    },
    "adv_infonce": {"objective": {"name": "adv_infonce", "adv_interval": 1, "dim": 4}, "negatives": [OWN]},
}


def step(scheme: str, learner: str = "model") -> tuple[dict[str, Tensor], int]:
    """Loss and gradients of a whole step, in an epoch with hardness where there is one, and the largest tensor's numbers."""
    training = {"batch_size": ROWS, "precision": "float64"}
    trainer = Trainer(recipe(training=training, **SCHEMES[scheme]), LOG, None, Workers(), torch.device("cpu"))
    trainer.position.epoch = 2
    batch = next(trainer.batches())
    with Largest() as largest:
        loss = trainer.step(batch, learner)
    module = trainer.learners[learner].module
    return {"loss": loss, **{name: p.grad for name, p in module.named_parameters() if p.grad is not None}}, largest.numbers


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_step_holds_queries_by_candidates(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each row has its own, their ids are rows x candidates; their vectors, and the scores of all items, are more."""
    monkeypatch.setattr(_drawn, "DENSE", 0)
    own = "uniform" in str(SCHEMES[scheme]) and "'row'" in str(SCHEMES[scheme])
    whole, most = (ROWS * DRAWN * WIDTH, ROWS * DRAWN) if own else (ROWS * ROWS, ROWS * ROWS / 8)
    dense, at_once = step(scheme)
    with tiles(rows=64, columns=32, numbers=2**12):
        tiled, in_tiles = step(scheme)
    assert in_tiles <= most
    assert at_once >= whole, "what would be held is seen"
    assert set(tiled) == set(dense) > {"loss", "item_table"}
    for name in dense:
        assert dense[name].abs().max() > 1e-6
        assert (tiled[name] - dense[name]).abs().max() < 1e-12 * max(dense[name].abs().max(), 1)


@pytest.mark.parametrize("hardness", ["embed", "mlp"])
@pytest.mark.parametrize("distinct", [0, 10**9])
def test_the_adversary_in_tiles(hardness: str, distinct: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_drawn, "DENSE", distinct)
    monkeypatch.setitem(SCHEMES["adv_infonce"]["objective"], "hardness", hardness)
    for learner in ("model", "hardness"):
        dense, _ = step("adv_infonce", learner)
        with tiles(numbers=2**14):
            tiled, _ = step("adv_infonce", learner)
        for name in dense:
            assert dense[name].abs().max() > 1e-6
            assert (tiled[name] - dense[name]).abs().max() < 1e-12 * max(dense[name].abs().max(), 1)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_there_are_tiles_where_there_are_many_numbers(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as are held are dense, one more row is tiled; both give the same."""
    monkeypatch.setattr(_fold, "NUMBERS_AT_ONCE", 40 * 30)
    settings = recipe(negatives=[{"name": "uniform", "count": 30}], training={"batch_size": 41, "precision": precision})
    trainer = Trainer(settings, small_log().seen, None, Workers(), torch.device("cpu"))
    products: list[int] = []
    monkeypatch.setattr(Shared, "products", lambda self, q, v: products.append(len(q)) or q @ v.T)
    batch = next(trainer.batches())
    trainer.objective(batch)
    assert products == []
    fewer = type(batch)(batch.users_B[:40], batch.items_B[:40], 0, 40, batch.key)
    trainer.objective(fewer)
    assert products == [40]


def test_a_pools_numbers_are_what_its_products_hold() -> None:
    queries_BD, vectors = random(5, 3), random(9, 3)
    drawn = Drawn(torch.arange(9).repeat(5, 1)[:, :7] + torch.arange(5)[:, None] % 3)
    for pool, dense in ((Shared(9), 16), (drawn, 16), (drawn, 0)):
        with pytest.MonkeyPatch.context() as patch, Largest() as largest:
            patch.setattr(_drawn, "DENSE", dense)
            pool.products(queries_BD, vectors)
        assert largest.numbers == 5 * pool.numbers_of_a_row(3)
