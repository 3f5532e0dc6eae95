"""Candidates of each row through the distinct items among them: both ways, and against the plain one."""

from __future__ import annotations

import pytest
import torch

from components.objectives import _drawn
from components.objectives._drawn import Drawn


@pytest.mark.parametrize("dense", [0, 10**9])
def test_products_and_gradients_are_those_of_the_draws_themselves(monkeypatch: pytest.MonkeyPatch, dense: int) -> None:
    monkeypatch.setattr(_drawn, "DENSE", dense)
    random = torch.Generator().manual_seed(0)
    items_BN = torch.randint(0, 9, (5, 7), generator=random) * 3  # of 27 ids, with repeats in a row and over rows
    queries, table = (torch.randn(n, 4, generator=random, dtype=torch.float64) for n in (5, 27))
    weights_BN = torch.randn(5, 7, generator=random, dtype=torch.float64)
    found, wanted = ([tensor.clone().requires_grad_() for tensor in (queries, table)] for _ in range(2))
    drawn = Drawn(items_BN)
    products_BN = drawn.products(found[0], found[1][drawn.items_U])
    by_hand_BN = (wanted[1][items_BN] * wanted[0][:, None]).sum(dim=2)
    assert torch.allclose(products_BN, by_hand_BN, rtol=1e-13)
    for products in (products_BN, by_hand_BN):
        (products * weights_BN).sum().backward()
    for one, other in zip(found, wanted, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(one.grad, other.grad, rtol=1e-12)


def test_squares_have_multiplicity() -> None:
    items_BN = torch.tensor([[4, 4, 1], [4, 2, 0]])
    rows = torch.tensor([[3.0], [1.0], [2.0], [9.0], [5.0]], dtype=torch.float64)
    drawn = Drawn(items_BN)
    assert drawn.items_U.tolist() == [0, 1, 2, 4]
    assert drawn.repeated(rows[drawn.items_U]).square().sum().item() == pytest.approx(3 * 25 + 1 + 4 + 9, rel=1e-14)


def test_a_worker_without_rows() -> None:
    drawn = Drawn(torch.zeros(0, 6, dtype=torch.int64))
    assert drawn.products(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 6)
