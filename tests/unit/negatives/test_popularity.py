"""Draws by popularity: the law of beta, items that nobody has, and the ends of the number line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from components import catalog
from components.data.interactions import Interactions
from components.errors import InputError
from components.training.batches import Batch
from components.training.collectives import Workers

# 0 and 7 are in no row, and neither is 3; the others in 1 to 5 rows
DEGREES = [0, 1, 2, 0, 3, 4, 5, 0]
ITEMS = np.repeat(np.arange(8), DEGREES)
TRAIN = Interactions.of(np.arange(len(ITEMS)), ITEMS, len(ITEMS), 8)


def build(**spec: Any) -> Any:
    return catalog.build("negatives", {"name": "popularity", "exclude": "nothing", **spec}, TRAIN, Workers(), "negatives.0")


def batch_of(cls: type[Batch] = Batch) -> Batch:
    return cls(torch.tensor([0, 1]), torch.tensor([1, 2]), first_row=0, rows=2, key=(0, 0, 0))


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.0])
def test_an_item_is_drawn_as_its_degree_to_the_beta(beta: float) -> None:
    source = build(count=50_000, beta=beta)
    weights = np.array([degree**beta if degree else float(beta == 0) for degree in DEGREES])
    wanted = 50_000 * weights / weights.sum()
    observed = np.bincount(source(batch_of(), torch.zeros(2, 4)).items.numpy(), minlength=8)
    assert (np.abs(observed - wanted) <= 5 * np.sqrt(wanted)).all()
    assert (observed[wanted == 0] == 0).all()
    assert source.expected_count(batch_of(), torch.arange(8)).tolist() == pytest.approx(wanted.tolist())
    assert source.expected_count(batch_of(), torch.tensor([[6], [1]])).shape == (2, 1)


class Ends(Batch):
    """The least and the largest number that a stream can give."""

    def shared_uniforms(self, purpose: str, count: int) -> torch.Tensor:
        return torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)


@pytest.mark.parametrize(("beta", "wanted"), [(1.0, [1, 6]), (0.7, [1, 6]), (0.0, [0, 7])])
def test_the_ends_are_items_that_may_be_drawn(beta: float, wanted: list[int]) -> None:
    assert build(beta=beta)(batch_of(Ends), torch.zeros(2, 4)).items.tolist() == wanted


def test_a_steep_law_draws_the_most_popular_item() -> None:
    items = build(beta=1e4)(batch_of(), torch.zeros(2, 4)).items
    assert (items == 6).all(), "and nothing overflowed"


def test_a_negative_beta_is_refused() -> None:
    with pytest.raises(InputError, match=r"^negatives\.beta: got -0\.5, takes a number >= 0$"):
        build(beta=-0.5)
