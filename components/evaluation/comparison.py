"""How far systems lie apart on the same users: differences of means, with bootstrap intervals over users and over seeds.

A system is a recipe trained with one seed or more; x_su is a metric of its run of seed s for user u, its mean m = mean_su x_su.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.evaluation import exact

Floats = NDArray[np.float64]
Interval = tuple[float, float]

RESAMPLES = 10_000
LEVEL = 0.95
ENOUGH_SEEDS = 8  # see `differences`
CELLS = 2**21  # weights of users that are held at once
USERS, SEEDS, OTHER_SEEDS = range(3)  # streams of draws


@dataclass(frozen=True)
class System:
    """`values` by metric: [S, U], a row for each of `seeds`, which ascend; the columns are the same users in every system."""

    seeds: tuple[int, ...]
    values: Mapping[str, Floats]

    def __post_init__(self) -> None:
        assert list(self.seeds) == sorted(set(self.seeds)), f"seeds {self.seeds} do not ascend"
        assert all(len(values_SU) == len(self.seeds) for values_SU in self.values.values()), "not a row for each seed"

    def by_seed(self, metric: str) -> list[float]:
        return [exact.mean(values_U) for values_U in self.values[metric]]

    def mean(self, metric: str) -> float:
        return statistics.fmean(self.by_seed(metric))

    def deviation(self, metric: str) -> float | None:
        """Standard deviation over seeds, with S - 1; None of one seed."""
        return statistics.stdev(self.by_seed(metric)) if len(self.seeds) > 1 else None


@dataclass(frozen=True)
class Difference:
    """m_system - m_baseline, the same over m_baseline (None where that is 0), and its intervals at LEVEL.

    `over_seeds_and_users` is None where one of the two has one seed.
    """

    value: float
    relative: float | None
    over_users: Interval
    over_seeds_and_users: Interval | None


def differences(systems: Sequence[System], resamples: int = RESAMPLES, key: int = 0) -> list[dict[str, Difference]]:
    """Each system but the first against the first, metric by metric; what it is does not depend on the others given.

    Over users, paired: users are drawn with replacement, the same for every run; seeds stay as they are. It says what
    other users would have told of these very models. Over seeds and users: both are drawn, independently, so it says
    what other trainings would have told as well; two systems of the same seeds share those that are drawn.

    Source: the product of two factors' weights: Owen 2007, arXiv 0712.1111, and Owen and Eckles 2012, arXiv 1106.2125
    (mildly conservative); percentile intervals.
    Differs: of S seeds S - 1 are drawn, not S: so the variance of a mean over few seeds is not too small by (S - 1) / S.
    Percentiles know nothing of Student's t: where runs differ by their seeds alone, 95 % is in truth about 70 % with two
    seeds, 85 % with three, 88 % with five, 92 % with eight (400 simulated comparisons each).
    """
    metrics = list(systems[0].values)
    stacked_NU = np.concatenate([system.values[metric] for system in systems for metric in metrics])
    means_RN = resampled_means(stacked_NU, resamples, key)
    ends = np.cumsum([len(system.seeds) for system in systems for _ in metrics])
    parts = iter(np.split(means_RN, ends[:-1], axis=1))
    means = [{metric: next(parts) for metric in metrics} for _ in systems]
    return [
        {metric: _difference(systems[0], system, metric, means[0][metric], means[n][metric], key) for metric in metrics}
        for n, system in enumerate(systems[1:], start=1)
    ]


def _difference(baseline: System, other: System, metric: str, base_RS: Floats, other_RS: Floats, key: int) -> Difference:
    reference = baseline.mean(metric)
    value = other.mean(metric) - reference
    over_both = None
    if min(len(baseline.seeds), len(other.seeds)) > 1:
        stream = SEEDS if other.seeds == baseline.seeds else OTHER_SEEDS
        base_R = (base_RS * seed_weights(len(base_RS), len(baseline.seeds), (key, SEEDS))).sum(axis=1)
        other_R = (other_RS * seed_weights(len(other_RS), len(other.seeds), (key, stream))).sum(axis=1)
        over_both = interval(other_R - base_R)
    over_users = interval(other_RS.mean(axis=1) - base_RS.mean(axis=1))
    return Difference(value, value / reference if reference else None, over_users, over_both)


def resampled_means(values_NU: Floats, resamples: int, key: int = 0) -> Floats:
    """[R, N] means of each row over U users drawn with replacement, the same users for every row.

    The draws depend on `key` and U alone. Time: R U draws.
    """
    number = values_NU.shape[1]
    rng = np.random.default_rng((key, USERS))
    means_RN = np.empty((resamples, len(values_NU)))
    chunk = max(1, CELLS // number)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        weights_CU = np.stack([np.bincount(rng.integers(number, size=number), minlength=number) for _ in range(size)])
        means_RN[start : start + size] = weights_CU.astype(np.float64) @ values_NU.T / number
    return means_RN


def seed_weights(resamples: int, number: int, key: tuple[int, ...]) -> Floats:
    """[R, S] shares of S seeds in S - 1 draws with replacement; a row adds up to 1."""
    assert number > 1, "one seed says nothing about others"
    rng = np.random.default_rng(key)
    return rng.multinomial(number - 1, np.full(number, 1 / number), size=resamples) / (number - 1)


def interval(values_R: Floats) -> Interval:
    """The middle LEVEL of the values."""
    low, high = np.quantile(values_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def excludes_zero(bounds: Interval) -> bool:
    return bounds[0] > 0 or bounds[1] < 0
