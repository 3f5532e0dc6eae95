"""The fit of a power law against samples of known exponents, and against the definition in plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import zeta

from components.data import long_tail


@pytest.mark.parametrize("exponent", [1.8, 2.2, 3.0])
def test_the_exponent_of_a_sample_of_the_law_comes_back(exponent: float) -> None:
    degree = np.random.default_rng(0).zipf(exponent, 20_000)
    found = long_tail.fit(degree)
    assert found is not None
    assert found.exponent == pytest.approx(exponent, abs=0.05)
    assert found.distance < 0.02
    assert found.items == (degree >= found.start).sum()


@pytest.mark.parametrize("by_rank", [0.7, 1.0, 1.3])
def test_rows_drawn_by_zipfs_law_of_ranks_give_its_slope(by_rank: float) -> None:
    """A row's item is r with probability ~ r^-s: rows fall as rank^-s, and the exponent is 1 + 1 / s."""
    law = np.arange(1, 20_001) ** -by_rank
    degree = np.random.default_rng(1).multinomial(2_000_000, law / law.sum())
    found = long_tail.fit(degree)
    assert found is not None
    assert found.slope == pytest.approx(-by_rank, abs=0.03)
    assert found.exponent == pytest.approx(1 + 1 / by_rank, abs=0.06)
    least = int(np.sort(degree)[::-1][999])  # rows of the thousandth item
    assert found.ranks(np.array([least]))[0] == pytest.approx(1000, rel=0.05)


def test_what_lies_below_the_law_does_not_bend_it() -> None:
    """Twice as many items have few rows each: the law begins above them."""
    random = np.random.default_rng(2)
    tail = 20 * random.zipf(2.5, 400_000)
    tail = tail[tail >= 200] + random.integers(0, 20, (tail >= 200).sum())  # the law holds from about 200 on
    found = long_tail.fit(np.concatenate([tail, random.integers(1, 150, 2 * len(tail))]))
    assert found is not None
    assert found.start >= 200
    assert found.exponent == pytest.approx(2.5, abs=0.15)


def test_likelihood_and_distance_are_those_of_their_definitions() -> None:
    degree = np.random.default_rng(3).zipf(2.0, 300).clip(max=10_000)
    found = long_tail.fit(degree)
    assert found is not None
    rows = [int(x) for x in degree if x >= found.start]

    def likelihood(exponent: float) -> float:
        log_zeta = math.log(zeta(exponent, found.start))
        return sum(-log_zeta - exponent * math.log(x) for x in rows)

    grid = np.arange(1.2, 4, 0.001)
    assert found.exponent == pytest.approx(max(grid, key=likelihood), abs=0.0011)
    apart = [
        abs(sum(x >= least for x in rows) / len(rows) - zeta(found.exponent, least) / zeta(found.exponent, found.start))
        for least in range(found.start, max(rows) + 2)
    ]
    assert found.distance == pytest.approx(max(apart))


@pytest.mark.parametrize("degree", [np.full(500, 7), np.arange(1, 40), np.array([0] * 99 + [50]), np.array([1, 2] * 300)])
def test_there_is_no_law_of_equal_few_or_two_kinds_of_items(degree: np.ndarray) -> None:
    assert long_tail.fit(degree) is None
