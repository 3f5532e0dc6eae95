"""Shares by popularity and their divergence against definitions and cases whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from components.evaluation import popularity_shift


def test_train_has_a_tenth_of_its_rows_in_each_tenth_and_cold_items_apart() -> None:
    degree = np.random.default_rng(0).integers(0, 30, 5000)
    assert popularity_shift.shares(degree, degree) == pytest.approx([0] + [0.1] * 10, abs=0.002)
    assert popularity_shift.shares((degree == 0).astype(np.int64), degree).tolist() == [1] + [0] * 10
    assert popularity_shift.shares((degree == degree.max()).astype(np.int64), degree)[10] == pytest.approx(1)


def test_shares_are_of_rows_and_equally_popular_items_count_by_their_part_of_a_tenth() -> None:
    degree = np.array([0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1])  # of the last ten, one lies in each tenth
    assert popularity_shift.shares(np.array([3, 7, *9 * [0]]), degree) == pytest.approx([0.3] + [0.07] * 10)
    degree, rows = np.arange(1, 41), np.random.default_rng(0).integers(0, 9, 40)
    first, last = popularity_shift.shares(rows, degree)[[1, 10]]
    assert last == pytest.approx(rows[37:].sum() / rows.sum())  # from 38 on, which ends at 741 of 820
    assert first == pytest.approx(rows[:12].sum() / rows.sum())  # to 12, which ends at 78


def test_shares_do_not_depend_on_how_items_are_numbered() -> None:
    random = np.random.default_rng(0)
    degree, rows = random.integers(0, 5, 300), random.integers(0, 9, 300)
    order = random.permutation(300)
    assert popularity_shift.shares(rows[order], degree[order]).tolist() == popularity_shift.shares(rows, degree).tolist()


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
