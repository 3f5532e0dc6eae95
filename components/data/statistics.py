"""What a dataset is like: density, history lengths, popularity law, cold rows. Summed over shards, never a full table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.data.splits import TRAIN

Ints = NDArray[np.int64]


@dataclass
class Tally:
    """Rows of some items: `counts` at `ids`."""

    ids: Ints
    counts: Ints

    @classmethod
    def of(cls, items: Ints) -> Tally:
        return cls(*np.unique(items, return_counts=True))


@dataclass
class ShardStatistics:
    """One shard's share. `lengths` counts users by their rows in train; `warm` are held-out rows of users who train."""

    users: int
    single: int  # users with one row in all
    rows: dict[str, int]
    lengths: Counter[int]
    train: Tally
    warm: dict[str, Tally] = field(default_factory=dict)

    @classmethod
    def of(cls, user: Ints, item: Ints, split: NDArray[np.int8], names: Sequence[str]) -> ShardStatistics:
        """From one shard's rows, users numbered 0 to n - 1."""
        users = int(user.max(initial=-1)) + 1
        degree = np.bincount(user[split == TRAIN], minlength=users)
        values, counts = np.unique(degree, return_counts=True)
        return cls(
            users,
            single=int((np.bincount(user, minlength=users) == 1).sum()),
            rows={name: int((split == code).sum()) for code, name in enumerate(names)},
            lengths=Counter(dict(zip(values.tolist(), counts.tolist(), strict=True))),
            train=Tally.of(item[split == TRAIN]),
            warm={n: Tally.of(item[(split == c) & (degree[user] > 0)]) for c, n in enumerate(names) if c != TRAIN},
        )


@dataclass
class DatasetStatistics:
    """The sum over shards. `degree` is [items] rows in train, `warm[split]` [items] held-out rows of users who train."""

    degree: Ints
    users: int = 0
    single: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    warm: dict[str, Ints] = field(default_factory=dict)

    def add(self, shard: ShardStatistics) -> None:
        self.users += shard.users
        self.single += shard.single
        self.rows.update(shard.rows)
        self.lengths.update(shard.lengths)
        self.degree[shard.train.ids] += shard.train.counts
        for name, tally in shard.warm.items():
            self.warm.setdefault(name, np.zeros_like(self.degree))[tally.ids] += tally.counts

    def describe(self) -> dict[str, Any]:
        """What the manifest says."""
        items, rows = len(self.degree), self.rows.total()
        return {
            "density": rows / (self.users * items),
            "rows_per_user": rows / self.users,
            "rows_per_item": rows / items,
            "history_length": quantiles(self.lengths),
            "users_with_one_row": self.single,
            "users_with_one_train_row": self.lengths[1],
            "users_without_train_rows": self.lengths[0],
            "items_without_train_rows": int((self.degree == 0).sum()),
            "cold_rows": {name: self.rows[name] - int(warm[self.degree > 0].sum()) for name, warm in self.warm.items()},
            "popularity": popularity(self.degree),
        }


def quantiles(lengths: Counter[int]) -> dict[str, float]:
    """Of a histogram value -> count: the mean, and the smallest value with at least that share at or below it."""
    values = np.array(sorted(lengths), np.int64)
    counts = np.array([lengths[int(v)] for v in values], np.int64)
    shares = {"min": 0.0, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "q99": 0.99, "max": 1.0}
    reached = np.cumsum(counts)
    out = {name: int(values[np.searchsorted(reached, max(1, np.ceil(q * reached[-1])))]) for name, q in shares.items()}
    return {"mean": float(values @ counts / counts.sum()), **out}


def popularity(degree: Ints) -> dict[str, float | None]:
    """How unequal items are in train: shares of the most popular, Gini's coefficient, and the slope of a power law.

    `slope` is that of log degree over log rank, least squares on the items of positive degree in the top half of ranks (the
    tail bends down in every log); null with fewer than ten.
    """
    ascending = np.sort(degree)
    n, total = len(degree), int(degree.sum())
    if not total:
        return {"top_1_percent_share": None, "top_10_percent_share": None, "gini": None, "slope": None}
    head = ascending[::-1][: max(1, n // 2)]
    head = head[head > 0].astype(float)
    slope = None
    if len(head) >= 10:
        slope = float(np.polyfit(np.log(np.arange(1, len(head) + 1)), np.log(head), 1)[0])
    return {
        "top_1_percent_share": float(ascending[n - max(1, round(n * 0.01)) :].sum() / total),
        "top_10_percent_share": float(ascending[n - max(1, round(n * 0.1)) :].sum() / total),
        "gini": gini(degree),
        "slope": slope,
    }


def gini(counts: Ints) -> float:
    """sum_r (2 r - n - 1) c_(r) / (n sum c), c_(r) ascending: 0 if all n are alike, 1 - 1/n if one is all. Not of nothing."""
    n = len(counts)
    return int((2 * np.arange(1, n + 1) - n - 1) @ np.sort(counts)) / (n * int(counts.sum()))
