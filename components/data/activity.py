"""Rows over time, counted shard by shard in bins that add up whatever the shards' times are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
BINS = 4096  # at most; a picture shows fewer, of what may be a small part of the time
MOST_SHOWN = 120
RARE = 0.0005  # of the rows, before and after what is shown, where that makes the time shown half as long or less


@dataclass(frozen=True)
class Activity:
    """`counts[n]` rows have a time t with floor(t / 2^power) = first + n. Power is the least with which BINS bins do."""

    power: int
    first: int
    counts: Ints

    @classmethod
    def of(cls, times: NDArray[np.int64] | NDArray[np.float64]) -> Activity:
        """Of at least one row."""
        whole = np.floor(times).astype(np.int64)
        low, high = int(whole.min()), int(whole.max())
        power = _least_power(low, high, 0)
        first = low >> power
        return cls(power, first, np.bincount((whole >> power) - first, minlength=(high >> power) - first + 1))

    def __add__(self, other: Activity) -> Activity:
        power = max(self.power, other.power)
        mine, its = self.coarser(power), other.coarser(power)
        power = _least_power(min(mine.first, its.first), max(mine.last, its.last), power)
        mine, its = mine.coarser(power), its.coarser(power)
        first, last = min(mine.first, its.first), max(mine.last, its.last)
        return Activity(power, first, mine.between(first, last) + its.between(first, last))

    @property
    def last(self) -> int:
        return self.first + len(self.counts) - 1

    def between(self, first: int, last: int) -> Ints:
        """The counts of bins `first` to `last`, which hold all rows."""
        return np.pad(self.counts, (self.first - first, last - self.last))

    def coarser(self, power: int) -> Activity:
        """In bins of a power that is not less."""
        bins = (self.first + np.arange(len(self.counts))) >> (power - self.power)
        counts = np.zeros(int(bins[-1] - bins[0]) + 1, np.int64)
        np.add.at(counts, bins - bins[0], self.counts)
        return Activity(power, int(bins[0]), counts)


def _least_power(low: int, high: int, power: int) -> int:
    """Of bins `low` to `high` of this power, made coarser until BINS do."""
    while high - low >= BINS:
        low, high, power = low >> 1, high >> 1, power + 1
    return power


@dataclass(frozen=True)
class Shown:
    """Each split's rows in equal spans of `width` from the time `start` on; `outside` rows are before or after."""

    start: int
    width: int
    counts: dict[str, Ints]
    outside: int


def shown(splits: Mapping[str, Activity]) -> Shown | None:
    """At most MOST_SHOWN spans of all splits' time, without the rare rows of a long past or future. None of a single span."""
    total = sum(list(splits.values())[1:], next(iter(splits.values())))
    ends = np.cumsum(total.counts)
    low, high = (int(np.searchsorted(ends, share * ends[-1], side="right")) for share in (RARE, 1 - RARE))
    if 2 * (high - low + 1) > len(ends):
        low, high = 0, len(ends) - 1
    if low == high:
        return None
    bins = -(-(high - low + 1) // MOST_SHOWN)
    edges = np.arange(low, high + 1, bins)
    counts = {}
    for name, own in splits.items():
        same = own.coarser(total.power).between(total.first, total.last)
        counts[name] = np.add.reduceat(same[: high + 1], edges)
    left = sum(int(each.sum()) for each in counts.values())
    return Shown((total.first + low) << total.power, bins << total.power, counts, int(ends[-1]) - left)
