"""Intervals against closed forms, their coverage of known differences, and what pairing takes out of them."""

from __future__ import annotations

import numpy as np
import pytest

from components.evaluation import comparison
from components.evaluation.comparison import System, differences

Z = 1.959964  # of the normal distribution's middle 95 %


def system(values_SU: np.ndarray, first_seed: int = 1) -> System:
    return System(tuple(range(first_seed, first_seed + len(values_SU))), {"recall@20": values_SU})


def against(baseline: System, other: System, resamples: int = 2000) -> comparison.Difference:
    return differences([baseline, other], resamples)[0]["recall@20"]


def width(bounds: tuple[float, float] | None) -> float:
    assert bounds is not None
    return bounds[1] - bounds[0]


def test_over_many_users_the_interval_is_the_normal_one() -> None:
    random = np.random.default_rng(1)
    baseline_U, other_U = random.random(4000), random.random(4000) ** 2
    got = against(system(baseline_U[None]), system(other_U[None]), resamples=10_000)
    gap_U = other_U - baseline_U
    error = gap_U.std(ddof=1) / len(gap_U) ** 0.5
    assert got.value == pytest.approx(gap_U.mean(), abs=1e-12)
    assert got.relative == pytest.approx(gap_U.mean() / baseline_U.mean())
    assert got.over_users == pytest.approx((got.value - Z * error, got.value + Z * error), abs=0.06 * error)
    assert got.over_seeds_and_users is None, "one seed says nothing about others"


def test_over_many_seeds_the_interval_is_the_normal_one_and_counts_both_causes() -> None:
    """Systems of different seeds: var = (v_seeds + v'_seeds) / S + v_users / U, without noise of seed and user together."""
    random = np.random.default_rng(2)
    seeds, users = 60, 500
    base_SU = random.normal(0, 0.3, (seeds, 1)) + np.zeros((1, users))
    other_SU = random.normal(0, 0.2, (seeds, 1)) + random.normal(0, 1.0, (1, users))
    got = against(system(base_SU), system(other_SU, first_seed=100), resamples=10_000)
    variance = (base_SU[:, 0].var(ddof=1) + other_SU[:, 0].var(ddof=1)) / seeds + other_SU[0].var(ddof=1) / users
    assert width(got.over_seeds_and_users) == pytest.approx(2 * Z * variance**0.5, rel=0.05)
    assert width(got.over_users) == pytest.approx(2 * Z * (other_SU[0].var(ddof=1) / users) ** 0.5, rel=0.05)


@pytest.mark.parametrize("number", [2, 3, 5])
def test_drawn_seeds_have_the_unbiased_variance_of_a_mean_over_few(number: int) -> None:
    values_S = np.random.default_rng(number).normal(size=number)
    drawn_R = comparison.seed_weights(40_000, number, (0, 1)) @ values_S
    assert drawn_R.mean() == pytest.approx(values_S.mean(), abs=0.02)
    assert drawn_R.var() == pytest.approx(values_S.var(ddof=1) / number, rel=0.05)


def test_nineteen_intervals_of_twenty_hold_the_difference_of_the_users_they_are_drawn_from() -> None:
    random = np.random.default_rng(3)
    held = 0
    for _ in range(300):
        user_U = random.normal(0, 2, 120)
        baseline_SU, other_SU = (user_U + random.exponential(1, (2, 120)) for _ in range(2))
        low, high = against(system(baseline_SU), system(0.3 + other_SU), resamples=400).over_users
        held += low < 0.3 < high
    assert 0.91 <= held / 300 <= 0.98


def test_where_seeds_differ_only_the_interval_over_seeds_holds_the_true_difference() -> None:
    random = np.random.default_rng(4)
    held = {"users": 0, "both": 0}
    for _ in range(300):
        runs = [random.normal(0, 0.3, (8, 1)) + random.normal(0, 1, (8, 60)) for _ in range(2)]
        got = against(system(runs[0]), system(runs[1], first_seed=50), resamples=400)
        assert got.over_seeds_and_users is not None
        held["users"] += got.over_users[0] < 0 < got.over_users[1]
        held["both"] += got.over_seeds_and_users[0] < 0 < got.over_seeds_and_users[1]
    assert held["both"] / 300 >= 0.92
    assert held["users"] / 300 < 0.75, "the test shows nothing where seeds do not matter"


def test_noise_that_both_share_changes_no_interval() -> None:
    random = np.random.default_rng(5)
    baseline_SU, other_SU = random.random((3, 200)), random.random((3, 200))
    noise_U, seed_S1 = random.normal(0, 10, 200), random.normal(0, 10, (3, 1))
    plain = against(system(baseline_SU), system(other_SU))
    users = against(system(baseline_SU + noise_U), system(other_SU + noise_U))
    assert users.value == pytest.approx(plain.value, abs=1e-12)
    assert users.over_users == pytest.approx(plain.over_users, abs=1e-12)
    assert users.over_seeds_and_users == pytest.approx(plain.over_seeds_and_users, abs=1e-12)

    seeds = against(system(baseline_SU + seed_S1), system(other_SU + seed_S1))
    assert seeds.over_seeds_and_users == pytest.approx(plain.over_seeds_and_users, abs=1e-12), "seeds are paired"
    apart = against(system(baseline_SU + seed_S1), system(other_SU + seed_S1, first_seed=2))
    assert width(apart.over_seeds_and_users) > 2 * width(plain.over_seeds_and_users), "other seeds are not"


def test_a_comparison_is_the_same_again_and_whoever_else_takes_part() -> None:
    random = np.random.default_rng(6)
    systems = [System((1, 2), {"a@5": random.random((2, 70)), "b@5": random.random((2, 70))}) for _ in range(3)]
    both = differences(systems, 300)
    assert both == differences(systems, 300)
    assert both != differences(systems, 300, key=1)
    (alone,) = differences([systems[0], systems[2]], 300)
    for metric, found in both[1].items():
        assert alone[metric].over_users == pytest.approx(found.over_users, abs=1e-12)
        assert alone[metric].over_seeds_and_users == pytest.approx(found.over_seeds_and_users, abs=1e-12)
    assert both[1]["a@5"] != both[1]["b@5"]


def test_means_and_deviations_are_over_seeds() -> None:
    given = system(np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]))
    assert given.by_seed("recall@20") == [0.5, 1.0, 0.0]
    assert given.mean("recall@20") == pytest.approx(0.5)
    assert given.deviation("recall@20") == pytest.approx(0.5)
    assert system(np.ones((1, 2))).deviation("recall@20") is None


def test_nothing_is_relative_to_nothing() -> None:
    got = against(system(np.zeros((1, 9))), system(np.ones((1, 9))))
    assert (got.value, got.relative) == (1.0, None)
    assert got.over_users == (1.0, 1.0)


@pytest.mark.parametrize(
    ("low", "high", "excluded"), [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (0, 0.1, False)]
)
def test_zero_outside(low: float, high: float, excluded: bool) -> None:
    assert comparison.excludes_zero((low, high)) == excluded
