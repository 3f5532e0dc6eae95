"""The power law that the rows of popular items follow: its exponent, and from how many rows on it holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import zeta

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
FEWEST_ITEMS, FEWEST_VALUES = 50, 3  # of a tail that is fitted: fewer items tell no exponent, and two values fit any law
MOST_STARTS = 100
STEEPEST = 20.0  # an exponent there is that of no power law


@dataclass(frozen=True)
class PowerLaw:
    """p(x) = x^-exponent / zeta(exponent, start) of the `items` that have x >= start rows; zeta(a, q) = sum_{k>=0} (k+q)^-a.

    `distance` is that of Kolmogorov and Smirnov: over x, the largest difference between the shares of these items that have
    x rows or more, as they are and by the law.
    """

    exponent: float
    start: int
    items: int
    distance: float

    @property
    def slope(self) -> float:
        """Of log rows over log rank, -1 / (exponent - 1): of items whose rank has x rows or more there are ~ x^(1-exponent)."""
        return -1 / (self.exponent - 1)

    def ranks(self, rows: Ints) -> Floats:
        """How many items have so many rows or more, by the law."""
        return self.items * zeta(self.exponent, rows) / zeta(self.exponent, self.start)


def fit(degree: Ints) -> PowerLaw | None:
    """By maximum likelihood: of the starts that are tried, the one with the least distance. None where there is no law.

    L(exponent) = -n ln zeta(exponent, start) - exponent sum ln x_i over the n items with x_i >= start.

    Args:
        degree: [items] rows of each; those without any do not count.
    Source: Clauset, Shalizi, Newman 2009, arXiv 0706.1062, section 3 (discrete case; the choice of x_min).
    Differs: of more than MOST_STARTS different numbers of rows, as many are tried, evenly spaced in their logarithm.
    """
    values, counts = np.unique(degree[degree > 0], return_counts=True)
    items = np.cumsum(counts[::-1])[::-1]  # with at least so many rows
    logs = np.cumsum((counts * np.log(values))[::-1])[::-1]
    starts = np.flatnonzero((items >= FEWEST_ITEMS) & (np.arange(len(values)) <= len(values) - FEWEST_VALUES))
    if not len(starts):
        return None
    spaced = np.geomspace(values[starts[0]], values[starts[-1]], MOST_STARTS)
    tried = starts if len(starts) <= MOST_STARTS else np.unique(np.searchsorted(values[starts], spaced))
    laws = [_fit_from(values[n:], items[n:], float(logs[n])) for n in tried]
    return min((law for law in laws if law.exponent < STEEPEST - 0.01), key=lambda law: law.distance, default=None)


def _fit_from(values: Ints, items: Ints, logs: float) -> PowerLaw:
    n, start = int(items[0]), int(values[0])
    found = minimize_scalar(
        lambda exponent: n * np.log(zeta(exponent, start)) + exponent * logs, bounds=(1.0, STEEPEST), method="bounded"
    )
    exponent = float(found.x)  # pyright: ignore[reportAttributeAccessIssue]
    law = zeta(exponent, values) / zeta(exponent, start)
    after = law - values**-exponent / zeta(exponent, start)  # the share with more rows than that
    distances = np.abs(law - items / n), np.abs(after - np.append(items[1:], 0) / n)  # extremes are at jumps of the items'
    return PowerLaw(exponent, start, n, float(np.max(distances)))
