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
    def of(cls, items: NDArray[np.integer]) -> Tally:
        ids, counts = np.unique(items, return_counts=True)
        return cls(ids.astype(np.int64), counts)


@dataclass
class Span:
    """From when to when a split's rows are; `behind` counts those that are earlier than a row of their user in train."""

    first: float
    last: float
    behind: int = 0

    def __add__(self, other: Span) -> Span:
        return Span(min(self.first, other.first), max(self.last, other.last), self.behind + other.behind)


@dataclass
class ShardStatistics:
    """One shard's share. `lengths` counts users by their rows in train; `warm` are held-out rows of users who train.

    `spans` are of splits with rows, where the log has times; `dropped` counts held-out rows that a cut by time left out.
    """

    users: int
    single: int  # users with one row in all
    rows: dict[str, int]
    lengths: Counter[int]
    train: Tally
    warm: dict[str, Tally] = field(default_factory=dict)
    spans: dict[str, Span] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        user: Ints,
        item: NDArray[np.integer],
        split: NDArray[np.int8],
        names: Sequence[str],
        times: NDArray[np.int64] | NDArray[np.float64] | None = None,
        dropped: dict[str, int] | None = None,
    ) -> ShardStatistics:
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
            spans={} if times is None else _spans(user, split, names, times),
            dropped=dropped or {},
        )


def _spans(
    user: Ints, split: NDArray[np.int8], names: Sequence[str], times: NDArray[np.int64] | NDArray[np.float64]
) -> dict[str, Span]:
    """A user's train ends at the time of the last of its rows there; rows of one moment are not behind each other."""
    train = np.flatnonzero(split == TRAIN)
    train = train[np.lexsort((times[train], user[train]))]
    last = np.flatnonzero(np.diff(user[train], append=-1))
    ends, trains = np.zeros(int(user.max(initial=-1)) + 1, times.dtype), np.zeros(int(user.max(initial=-1)) + 1, bool)
    ends[user[train[last]]], trains[user[train[last]]] = times[train[last]], True
    out: dict[str, Span] = {}
    for code, name in enumerate(names):
        rows = np.flatnonzero(split == code)
        if len(rows):
            behind = int((trains[user[rows]] & (times[rows] < ends[user[rows]])).sum()) if code != TRAIN else 0
            out[name] = Span(times[rows].min().item(), times[rows].max().item(), behind)
    return out


@dataclass
class DatasetStatistics:
    """The sum over shards. `degree` is [items] rows in train, `warm[split]` [items] held-out rows of users who train."""

    degree: Ints
    users: int = 0
    single: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    warm: dict[str, Ints] = field(default_factory=dict)
    spans: dict[str, Span] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)

    def add(self, shard: ShardStatistics) -> None:
        self.users += shard.users
        self.single += shard.single
        self.rows.update(shard.rows)
        self.lengths.update(shard.lengths)
        self.degree[shard.train.ids] += shard.train.counts
        for name, tally in shard.warm.items():
            self.warm.setdefault(name, np.zeros_like(self.degree))[tally.ids] += tally.counts
        for name, span in shard.spans.items():
            self.spans[name] = self.spans[name] + span if name in self.spans else span
        self.dropped.update(shard.dropped)

    def leaks(self) -> list[str]:
        """What train knows of the time of each split that is held out, a line each; none where train ends before it begins."""
        train = self.spans.get("train")
        lines = []
        for name, span in self.spans.items():
            if train is not None and name != "train" and span.first < train.last:
                own = f"{span.behind:,} of {self.rows[name]:,} rows are earlier than a row of the same user in train"
                lines.append(f"{name} begins at {span.first} and train ends at {train.last}; {own}")
        return lines

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
            "top_10_percent_shares": {name: self._head_share(warm) for name, warm in self.warm.items()},
            "times": {name: vars(span) for name, span in self.spans.items()},
        }

    def _head_share(self, rows: Ints) -> float | None:
        """Of a split's rows of users who train, the share that is of the tenth of items that are most popular in train."""
        head = np.argsort(-self.degree, kind="stable")[: max(1, round(len(self.degree) * 0.1))]
        return float(rows[head].sum() / rows.sum()) if rows.sum() else None


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
