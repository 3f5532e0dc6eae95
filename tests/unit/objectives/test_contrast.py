"""InfoNCE of two views and MetAug's margins, held against loops and the facts of MCLRec's specification (section 11)."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from components.objectives._contrast import Contrast, View
from components.training.batches import Batch
from components.training.collectives import Workers
from tests.unit.objectives import contrast_loops as loops
from tests.worlds import tiles

EYE, SAME = torch.eye(2).double(), torch.ones(3, 2).double()
TOY = EYE, torch.tensor([[0.8, 0.6], [0.6, 0.8]], dtype=torch.float64)


def contrast(x_BD: Tensor, y_BD: Tensor) -> Contrast:
    ids = torch.zeros(len(x_BD), dtype=torch.int64)
    return Contrast(View(x_BD, x_BD), View(y_BD, y_BD), Batch(ids, ids, 0, len(ids), (0, 0, 0)), Workers())


def vectors(rows: int, width: int = 3, scale: float = 1.0) -> list[Tensor]:
    random = torch.Generator().manual_seed(rows)
    return [torch.randn(rows, width, generator=random).double().mul(scale).requires_grad_() for _ in range(2)]


def lcon(x_BD: Tensor, y_BD: Tensor) -> float:
    return contrast(x_BD, y_BD).loss(1.0).mean().item()


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 3, 7])
@pytest.mark.parametrize(
    ("mine", "by_hand"),
    [
        (lambda c: c.loss(1.0), lambda x, y: loops.info_nce(x, y, 1.0)),
        (lambda c: c.loss(0.3), lambda x, y: loops.info_nce(x, y, 0.3)),
        (lambda c: c.margin("anchor"), loops.anchor_margin),
        (lambda c: c.margin("global"), loops.global_margin),
    ],
    ids=["loss", "loss at .3", "anchor", "global"],
)
def test_the_formula_in_loops_and_its_gradient(mine: Any, by_hand: Any, rows: int, tiled: bool) -> None:
    for scale in (0.3, 2.0):
        x_BD, y_BD = vectors(rows, scale=scale)
        wanted = by_hand(x_BD, y_BD)
        with tiles() if tiled else nullcontext():
            value = mine(contrast(x_BD, y_BD)).mean()
            assert value.item() == pytest.approx(wanted.item(), rel=1e-11, abs=1e-12)
            if not value.requires_grad:
                assert not wanted.requires_grad
                continue
            found = torch.autograd.grad(value, [x_BD, y_BD])
        for mine_BD, theirs_BD in zip(found, torch.autograd.grad(wanted, [x_BD, y_BD]), strict=True):
            assert torch.allclose(mine_BD, theirs_BD, rtol=1e-9, atol=1e-11)


def test_the_specifications_values() -> None:
    assert lcon(EYE[:1], EYE[:1]) == pytest.approx(0, abs=1e-15)
    for rows in (2, 3, 256):
        same = torch.ones(rows, 4).double() / 2
        assert lcon(same, same) == pytest.approx(math.log(2 * rows - 1))
        other = torch.eye(rows).double()
        assert lcon(other, other) == pytest.approx(math.log(math.e + 2 * (rows - 1)) - 1)
    assert lcon(EYE, EYE.flip(0)) == pytest.approx(1.5514447, abs=5e-8)
    assert lcon(*TOY) == pytest.approx(0.9574738, abs=5e-8)
    assert lcon(*TOY[::-1]) == pytest.approx(0.9574738, abs=5e-8)


@pytest.mark.parametrize(
    ("x", "y", "anchor", "together"),
    [(SAME, SAME, 0, 0), (EYE, EYE, 2, 2), (EYE, EYE.flip(0), 0.5, 0.5), (*TOY, 0.44, 0.42)],
)
def test_the_specifications_margins(x: Tensor, y: Tensor, anchor: float, together: float) -> None:
    assert contrast(x, y).margin("anchor").mean().item() == pytest.approx(anchor, abs=1e-12)
    assert contrast(x, y).margin("global").mean().item() == pytest.approx(together, abs=1e-12)


def test_a_margin_lowers_a_positive_that_stands_out() -> None:
    x_BD, y_BD = (F.normalize(each.detach(), dim=1).requires_grad_() for each in vectors(4))
    close = x_BD.detach().clone().requires_grad_()
    contrast(x_BD, close).margin("anchor").sum().backward()
    assert close.grad is not None
    assert ((close.grad * x_BD.detach()).sum(dim=1) > 0).all(), "to descend is to move a partner away"
    assert y_BD.grad is None
