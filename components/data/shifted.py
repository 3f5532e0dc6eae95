"""Tests whose popularity is shifted: the fewer rows are left of popular items, the smaller gamma is; at 1 all count alike.

Items are in GROUPS groups by their rows, i = 0 the most popular. A split of exponent gamma takes a row of an item that has
c rows with probability min(1, n gamma^(-(i-1)/(GROUPS-1)) / c), n such that the split has its share of all rows; splits draw
one after another from what is left. An item with one row trains.

Source: the sampler of InvCF (Zhang et al. 2023, arXiv 2302.04053) and AdvInfoNCE (Zhang et al. 2023, arXiv 2310.18700, Tencent:
gamma 200, 10, 2).
Differs: items of equally many rows are in the same group, that of their mean rank, so that no order of items decides; c is what
the splits before are expected to leave; a row's draw is keyed by (seed, user, position), not by the order of visits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.data.splits import TRAIN, Codes, Hashes
from components.errors import InputError
from components.split_rules import ShiftedSplit, tested

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
GROUPS = 50


@dataclass(frozen=True)
class Draw:
    """One split: `gamma` None draws from all rows alike. `scale` is n, or that one probability."""

    name: str
    gamma: int | None
    scale: float

    def taken(self, group: Ints, left: Floats) -> Floats:
        """[items] expected rows, of those that are left."""
        return left * self.scale if self.gamma is None else np.minimum(left, self.scale * factors(group, self.gamma))


@dataclass(frozen=True)
class Shift:
    """The law of a log: `group` and `count` are [items], `draws` in the order in which they are made."""

    group: NDArray[np.int8]
    count: Ints
    draws: tuple[Draw, ...]

    def codes(self, item: Ints, keys: Hashes, names: list[str]) -> Codes:
        """[rows] positions in `names`; `keys` is one random 64-bit number for each row."""
        mine, at = np.unique(item, return_inverse=True)
        uniform = (keys >> np.uint64(11)).astype(np.float64) * 2.0**-53
        group, count = self.group[mine].astype(np.int64), self.count[mine].astype(np.float64)
        left = np.where(count > 1, count, 0.0)
        codes = np.full(len(item), TRAIN, np.int8)
        end = np.zeros(len(mine))
        for draw in self.draws:
            taken = draw.taken(group, left)
            start, end, left = end, end + taken / count, left - taken
            codes[(uniform >= start[at]) & (uniform < end[at])] = names.index(draw.name)
        return codes


def names(rule: ShiftedSplit) -> list[str]:
    """The splits beside train, valid and test."""
    return [*(name for name in tested(rule) or () if name != "test"), "valid_shifted"]


def law(rule: ShiftedSplit, count: Ints) -> Shift:
    """From the rows of each item, [items], all positive.

    Raises:
        InputError: there are too few rows of items with two for all shares.
    """
    group, rows = groups(count), int(count.sum())
    left = np.where(count > 1, count, 0).astype(np.float64)
    gammas = [*rule.gammas, rule.valid_gamma]
    keys = ["each"] * len(rule.gammas) + ["valid"]
    wanted = [*zip(names(rule), gammas, keys, strict=True), ("test", None, "test"), ("valid", None, "valid")]
    draws: list[Draw] = []
    for name, gamma, key in wanted:
        share: float = getattr(rule, key)
        if share * rows > left.sum():
            raise InputError(
                f"data.split.{key}: got {share}, {share * rows:,.0f} rows of {name}, takes at most {left.sum() / rows:.4f}: "
                f"{left.sum():,.0f} rows are left of items with two or more"
            )
        scale = share * rows / max(left.sum(), 1) if gamma is None else _scale(left, factors(group, gamma), share * rows)
        draws.append(Draw(name, gamma, scale))
        left = left - draws[-1].taken(group, left)
    return Shift(group.astype(np.int8), count, tuple(draws))


def groups(count: Ints) -> Ints:
    """[items] 0, the most popular, to GROUPS - 1: of the mean rank of the items with equally many rows."""
    _, at, equal = np.unique(-count, return_inverse=True, return_counts=True)
    more = np.cumsum(equal) - equal
    return ((more + equal / 2) * GROUPS // len(count)).astype(np.int64)[at]


def factors(group: Ints, gamma: int) -> Floats:
    return float(gamma) ** (-(group - 1) / (GROUPS - 1))


def _scale(left: Floats, factor: Floats, rows: float) -> float:
    """n with sum min(left, n factor) = rows: the left side ascends by pieces, each item up to n = left / factor."""
    order = np.argsort(left / factor)
    full = np.cumsum(left[order])
    open_ = factor.sum() - np.cumsum(factor[order])
    reached = full + open_ * (left / factor)[order]
    n = min(int(np.searchsorted(reached, rows)), len(order) - 1)
    before = full[n - 1] if n else 0.0
    return float((rows - before) / (open_[n] + factor[order][n]))
