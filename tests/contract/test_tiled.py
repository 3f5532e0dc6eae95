"""Every loss, folded over tiles, is the loss folded over all scores at once: value, gradient, masks and counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from components import catalog
from components.masks import Mask
from components.objectives import _drawn, _tiled
from components.objectives._drawn import Drawn
from components.objectives._fold import add, start
from components.objectives._log_count import LogCount
from components.objectives._products import of_sums
from components.objectives._shared import Shared
from tests.contract.test_parts import LOSSES, Spec, of
from tests.worlds import tiles

ROWS, WIDTH = 7, 5
POOLS = ("shared", "shared, fewer than a tile", "of rows, gathered", "of rows, from all")
MASKS = ("nothing", "some", "a whole row", "everything")
COUNTS = ("one", "of candidates", "of rows", "of both")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class World:
    """Queries, positives and vectors of unit length, a pool, a mask and counts."""

    def __init__(self, pool: str, mask: str, counts: str, logq: bool) -> None:
        self.queries_BD, self.positives_BD = (torch.nn.functional.normalize(random(ROWS, WIDTH, seed=n)) for n in (1, 2))
        if pool.startswith("shared"):
            self.pool: Any = Shared(3 if "fewer" in pool else 11)
            distinct = self.pool.candidates
        else:
            self.pool = Drawn(torch.randint(0, 9, (ROWS, 6), generator=torch.Generator().manual_seed(3)) * 3)
            distinct = len(self.pool.items_U)
            assert distinct > 6
        self.vectors = torch.nn.functional.normalize(random(distinct, WIDTH, seed=4))
        wide = self.pool.candidates
        masked = torch.zeros(ROWS, wide, dtype=torch.bool)
        if mask in ("some", "a whole row"):
            masked = random(ROWS, wide, seed=5) > 0.3
            masked[0] = False
        masked[3] |= mask == "a whole row"
        masked |= mask == "everything"
        shuffled = torch.randperm(int(masked.sum()), generator=torch.Generator().manual_seed(6))
        rows, columns = masked.nonzero(as_tuple=True)
        self.excluded = None if mask == "nothing" else Mask.of_pairs(rows[shuffled], columns[shuffled], ROWS, wide)
        self.masked = masked
        # draws of each row have counts of their own, those of a pool do not: the two together are of rows and candidates
        own, some = random(ROWS, wide, seed=7).exp(), random(wide, seed=8).exp()
        terms = {
            "one": [torch.tensor(0.7).double()],
            "of candidates": [some if isinstance(self.pool, Shared) else own],
            "of rows": [random(ROWS, 1, seed=9).exp()],
            "of both": [random(ROWS, 1, seed=9).exp(), some, torch.tensor(0.3).double()],
        }
        self.counts = terms[counts] if logq else None
        self.count_B = torch.ones(ROWS).double() * 2 if logq else None

    def inputs(self, dtype: torch.dtype) -> list[Tensor]:
        return [each.to(dtype).requires_grad_() for each in (self.queries_BD, self.positives_BD, self.vectors)]

    def fold(self, loss: Any, queries_BD: Tensor, positives_BD: Tensor, vectors: Tensor) -> Tensor:
        queries_BD = queries_BD / loss.temperature
        log_count = None if self.counts is None else LogCount(self.counts, of_sums(queries_BD.dtype))
        state = start(loss, queries_BD, positives_BD, None if self.count_B is None else self.count_B.log())
        for _ in range(2):  # two sources
            pool = Shared(self.pool.candidates) if isinstance(self.pool, Shared) else self.pool
            state = add(loss, state, pool, queries_BD, vectors, self.excluded, log_count)
        return loss.finish(state)

    def told(self, loss: Any, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
        """The loss of each row, and the gradient of a weighted sum of them."""
        inputs = self.inputs(dtype)
        loss_B = self.fold(loss, *inputs)
        return loss_B.detach(), list(torch.autograd.grad((loss_B * torch.arange(1, ROWS + 1)).sum(), inputs))


@pytest.fixture(params=POOLS)
def pool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(_drawn, "DENSE", 0 if "gathered" in request.param else 16)
    return request.param


def agree(found: Tensor, wanted: Tensor, to: float) -> None:
    assert found.dtype == wanted.dtype
    assert (found - wanted).abs().max() <= to * wanted.abs().max()


@of(LOSSES)
@pytest.mark.parametrize("mask", MASKS)
def test_value_and_gradient_are_those_of_all_scores_at_once(spec: Spec, pool: str, mask: str) -> None:
    loss = catalog.build("loss", spec)
    for counts in COUNTS if loss.logq else ("one",):
        world = World(pool, mask, counts, loss.logq)
        for dtype, to in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
            value_B, gradients = world.told(loss, dtype)
            with tiles():
                found_B, found = world.told(loss, dtype)
            agree(found_B, value_B, to)
            for ours, wanted in zip(found, gradients, strict=True):
                agree(ours, wanted, to)
            nothing = (value_B == 0) & world.masked.all(dim=1)
            assert torch.equal(found_B[nothing], value_B[nothing]), "to the bit: loss 0 of a row without candidates"
            assert torch.equal(found[0][nothing], gradients[0][nothing])
            if isinstance(world.pool, Shared):
                assert (found[2][world.masked.all(dim=0)] == 0).all(), "of a candidate that counts nowhere"


@of(LOSSES)
def test_a_tiled_gradient_is_that_of_its_value(spec: Spec, pool: str) -> None:
    loss = catalog.build("loss", {**spec, **({"temperature": 0.5} if hasattr(catalog.build("loss", spec), "ratio") else {})})
    world = World(pool, "a whole row", "of both", loss.logq)
    with tiles():
        assert torch.autograd.gradcheck(lambda *inputs: world.fold(loss, *inputs), world.inputs(torch.float64))


@of(LOSSES)
def test_sums_of_bfloat16_are_in_float32(spec: Spec, pool: str) -> None:
    """The gradient of float32 copies of the same numbers, rounded once."""
    loss = catalog.build("loss", spec)
    loss.temperature = 0.5 if loss.family == "log_sum_exp" else 1.0  # a power of two: queries divided by it are not rounded
    world = World(pool, "some", "of both", loss.logq)
    world.queries_BD, world.positives_BD, world.vectors = (
        each.bfloat16().double() for each in (world.queries_BD, world.positives_BD, world.vectors)
    )
    with tiles():
        wanted_B, wanted = world.told(loss, torch.float32)
        found_B, found = world.told(loss, torch.bfloat16)
    assert found_B.dtype == torch.float32
    agree(found_B, wanted_B, 1e-6)
    for ours, gradient in zip(found, wanted, strict=True):
        assert ours.dtype == torch.bfloat16
        agree(ours.float(), gradient, 0.02)


@of(LOSSES)
def test_a_worker_without_rows(spec: Spec, pool: str) -> None:
    loss = catalog.build("loss", spec)
    pool_ = Drawn(torch.zeros(0, 6, dtype=torch.int64)) if "rows" in pool else Shared(5)
    vectors = torch.zeros(5 if isinstance(pool_, Shared) else 0, WIDTH, requires_grad=True)
    queries_BD = torch.zeros(0, WIDTH, requires_grad=True)
    with tiles():
        state = _tiled.added(loss, start(loss, queries_BD, queries_BD), pool_, queries_BD, vectors)
    loss.finish(state).sum().backward()
    assert vectors.grad is not None
    assert not vectors.grad.any()
