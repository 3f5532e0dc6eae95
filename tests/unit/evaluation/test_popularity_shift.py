"""Shares by popularity and their divergence against definitions and cases whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from components.evaluation import popularity_shift


def test_train_has_a_tenth_of_its_rows_in_each_tenth_and_cold_items_apart() -> None:
    degree = np.random.default_rng(0).integers(0, 30, 5000)
    tenth = popularity_shift.tenths(degree)
    assert set(tenth[degree == 0]) == {0}
    assert set(tenth[degree > 0]) == set(range(1, 11))
    for group in range(1, 10):
        assert degree[tenth == group].max() <= degree[tenth == group + 1].min()
    assert popularity_shift.shares(degree, tenth) == pytest.approx([0] + [0.1] * 10, abs=0.002)


def test_shares_are_of_rows() -> None:
    rows, tenth = np.array([1, 0, 2, 5, 0, 2]), np.array([0, 1, 1, 10, 10, 4])
    found = popularity_shift.shares(rows, tenth)
    assert found.tolist() == [0.1, 0.2, 0, 0, 0.2, 0, 0, 0, 0, 0, 0.5]


def test_the_divergence_is_its_definition() -> None:
    random = np.random.default_rng(0)
    p, q = random.dirichlet(np.ones(11)), random.dirichlet(np.ones(11))
    p[0], q[3] = 0, 0
    p, q = p / p.sum(), q / q.sum()

    def entropy(shares: list[float]) -> float:
        return -sum(share * math.log2(share) for share in shares if share)

    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    expected = entropy(middle) - (entropy(p.tolist()) + entropy(q.tolist())) / 2
    assert popularity_shift.divergence(p, q) == pytest.approx(expected)
    assert popularity_shift.divergence(q, p) == pytest.approx(expected)


def test_it_is_0_of_the_same_and_1_of_what_never_meets() -> None:
    half = np.array([0.5, 0.5, 0, 0])
    assert popularity_shift.divergence(half, half) == 0
    assert popularity_shift.divergence(half, half[::-1]) == pytest.approx(1)
