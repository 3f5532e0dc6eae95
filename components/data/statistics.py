"""What a dataset is like: density, history lengths, popularity, time, what is cold. Summed over shards, never a full table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.data import temporal
from components.data.activity import Activity
from components.data.splits import TRAIN

Ints = NDArray[np.int64]
Times = NDArray[np.int64] | NDArray[np.float64]


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

    def describe(self, time_kind: str | None) -> dict[str, Any]:
        first, last = (temporal.written(time, time_kind) for time in (self.first, self.last))
        return {"first": first, "last": last, "behind": self.behind}


@dataclass
class Overlap:
    """Of a split that is held out: its users, those who do not train, and its rows whose user has the same item in train."""

    users: int
    strangers: int
    repeats: int

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(self.users + other.users, self.strangers + other.strangers, self.repeats + other.repeats)


@dataclass
class ShardStatistics:
    """One shard's share. `lengths` counts users by their rows in train.

    `held` are the rows of splits that are held out, `strangers` those of them whose users do not train. `spans` and `activity`
    are of splits with rows, where the log has times; `dropped` counts held-out rows that a cut by time left out.
    """

    users: int
    single: int  # users with one row in all
    rows: dict[str, int]
    lengths: Counter[int]
    train: Tally
    held: dict[str, Tally] = field(default_factory=dict)
    strangers: dict[str, Tally] = field(default_factory=dict)
    overlaps: dict[str, Overlap] = field(default_factory=dict)
    spans: dict[str, Span] = field(default_factory=dict)
    activity: dict[str, Activity] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        user: Ints,
        item: NDArray[np.integer],
        split: NDArray[np.int8],
        names: Sequence[str],
        times: Times | None = None,
        dropped: dict[str, int] | None = None,
        given: bool = True,
    ) -> ShardStatistics:
        """From one shard's rows, users numbered 0 to n - 1. Only where the split is `given` may train have a row again."""
        users = int(user.max(initial=-1)) + 1
        rows = {name: np.flatnonzero(split == code) for code, name in enumerate(names)}
        train, held = rows[names[TRAIN]], {name: rows[name] for code, name in enumerate(names) if code != TRAIN}
        degree = np.bincount(user[train], minlength=users)
        values, counts = np.unique(degree, return_counts=True)
        return cls(
            users,
            single=int((np.bincount(user, minlength=users) == 1).sum()),
            rows={name: len(own) for name, own in rows.items()},
            lengths=Counter(dict(zip(values.tolist(), counts.tolist(), strict=True))),
            train=Tally.of(item[train]),
            held={name: Tally.of(item[own]) for name, own in held.items()},
            strangers={name: Tally.of(item[own[degree[user[own]] == 0]]) for name, own in held.items()},
            overlaps=_overlaps(user, item, train if given else train[:0], held, degree),
            spans={} if times is None else _spans(user, split, names, times),
            activity={} if times is None else {name: Activity.of(times[own]) for name, own in rows.items() if len(own)},
            dropped=dropped or {},
        )


def _overlaps(user: Ints, item: NDArray[np.integer], train: Ints, held: Mapping[str, Ints], degree: Ints) -> dict[str, Overlap]:
    """`train` and `held` are places of rows, `degree` is [users] rows in train."""
    pairs = user * (int(item.max(initial=-1)) + 1) + item
    known = np.sort(pairs[train])
    out: dict[str, Overlap] = {}
    for name, own in held.items():
        users = np.unique(user[own])
        at = np.searchsorted(known, pairs[own])
        repeats = known[np.minimum(at, len(known) - 1)] == pairs[own] if len(known) else np.zeros(0, bool)
        out[name] = Overlap(len(users), int((degree[users] == 0).sum()), int(repeats.sum()))
    return out


def _spans(user: Ints, split: NDArray[np.int8], names: Sequence[str], times: Times) -> dict[str, Span]:
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
    """The sum over shards. `degree` is [items] rows in train, `held[split]` [items] rows of a split that is held out.

    `strangers[split]` are those of them whose users do not train; of splits that have some.
    """

    degree: Ints
    users: int = 0
    single: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    held: dict[str, Ints] = field(default_factory=dict)
    strangers: dict[str, Ints] = field(default_factory=dict)
    overlaps: dict[str, Overlap] = field(default_factory=dict)
    spans: dict[str, Span] = field(default_factory=dict)
    activity: dict[str, Activity] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)

    def add(self, shard: ShardStatistics) -> None:
        self.users += shard.users
        self.single += shard.single
        self.rows.update(shard.rows)
        self.lengths.update(shard.lengths)
        self.degree[shard.train.ids] += shard.train.counts
        for name, tally in shard.held.items():
            self.held.setdefault(name, np.zeros_like(self.degree))[tally.ids] += tally.counts
        for name, tally in shard.strangers.items():
            if len(tally.ids):
                self.strangers.setdefault(name, np.zeros_like(self.degree))[tally.ids] += tally.counts
        _add(self.overlaps, shard.overlaps)
        _add(self.spans, shard.spans)
        _add(self.activity, shard.activity)
        self.dropped.update(shard.dropped)

    def values(self) -> dict[str, Any]:
        """As text and arrays, from which `of` makes it again."""
        own = {name: getattr(self, name) for name in ("users", "single", "rows", "dropped")}
        own |= {name: {n: vars(each) for n, each in getattr(self, name).items()} for name in ("spans", "overlaps")}
        own["activity"] = {name: {"power": each.power, "first": each.first} for name, each in self.activity.items()}
        arrays = {f"held.{name}": rows for name, rows in self.held.items()}
        arrays |= {f"strangers.{name}": rows for name, rows in self.strangers.items()}
        arrays |= {f"activity.{name}": each.counts for name, each in self.activity.items()}
        return {**own, "lengths": list(self.lengths.items()), "degree": self.degree, **arrays}

    @classmethod
    def of(cls, values: dict[str, Any]) -> DatasetStatistics:
        def arrays(of: str) -> dict[str, Ints]:
            return {name.removeprefix(f"{of}."): each for name, each in values.items() if name.startswith(f"{of}.")}

        return cls(
            values["degree"],
            users=values["users"],
            single=values["single"],
            rows=Counter(values["rows"]),
            lengths=Counter(dict(values["lengths"])),
            held=arrays("held"),
            strangers=arrays("strangers"),
            overlaps={name: Overlap(**each) for name, each in values["overlaps"].items()},
            spans={name: Span(**each) for name, each in values["spans"].items()},
            activity={name: Activity(counts=counts, **values["activity"][name]) for name, counts in arrays("activity").items()},
            dropped=Counter(values["dropped"]),
        )

    def leaks(self, time_kind: str | None = None) -> list[str]:
        """What train knows of the time of each split that is held out, a line each; none where train ends before it begins."""
        train = self.spans.get("train")
        lines = []
        for name, span in self.spans.items():
            if train is not None and name != "train" and span.first < train.last:
                own = f"{span.behind:,} of {self.rows[name]:,} rows are earlier than a row of the same user in train"
                first, last = (temporal.written(time, time_kind) for time in (span.first, train.last))
                lines.append(f"{name} begins at {first} and train ends at {last}; {own}")
        return lines

    def describe(self, time_kind: str | None = None) -> dict[str, Any]:
        """What the manifest says."""
        items, rows = len(self.degree), self.rows.total()
        warm = {name: held - self.strangers.get(name, 0) for name, held in self.held.items()}  # rows of users who train
        return {
            "density": rows / (self.users * items),
            "rows_per_user": rows / self.users,
            "rows_per_item": rows / items,
            "history_length": quantiles(self.lengths),
            "users_with_one_row": self.single,
            "users_with_one_train_row": self.lengths[1],
            "users_without_train_rows": self.lengths[0],
            "items_without_train_rows": int((self.degree == 0).sum()),
            "cold_rows": {name: self.rows[name] - int(own[self.degree > 0].sum()) for name, own in warm.items()},
            "held_out": {name: self._held_out(name) for name in self.held},
            "popularity": popularity(self.degree),
            "top_10_percent_shares": {name: self._head_share(own) for name, own in warm.items()},
            "times": {name: span.describe(time_kind) for name, span in self.spans.items()},
        }

    def _held_out(self, name: str) -> dict[str, int]:
        """Users and items of a split, those of them without a row in train, and its rows that are rows of train too."""
        overlap, has = self.overlaps[name], self.held[name] > 0
        return {
            "users": overlap.users,
            "users_not_in_train": overlap.strangers,
            "items": int(has.sum()),
            "items_not_in_train": int((has & (self.degree == 0)).sum()),
            "rows_also_in_train": overlap.repeats,
        }

    def _head_share(self, rows: Ints) -> float | None:
        """Of a split's rows of users who train, the share that is of the tenth of items that are most popular in train."""
        head = np.argsort(-self.degree, kind="stable")[: max(1, round(len(self.degree) * 0.1))]
        return float(rows[head].sum() / rows.sum()) if rows.sum() else None


def _add(sums: dict[str, Any], found: Mapping[str, Any]) -> None:
    for name, value in found.items():
        sums[name] = sums[name] + value if name in sums else value


def quantiles(lengths: Counter[int]) -> dict[str, float]:
    """Of a histogram value -> count: the mean, and the smallest value with at least that share at or below it."""
    values = np.array(sorted(lengths), np.int64)
    counts = np.array([lengths[int(v)] for v in values], np.int64)
    shares = {"min": 0.0, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "q99": 0.99, "max": 1.0}
    reached = np.cumsum(counts)
    out = {name: int(values[np.searchsorted(reached, max(1, np.ceil(q * reached[-1])))]) for name, q in shares.items()}
    return {"mean": float(values @ counts / counts.sum()), **out}


def popularity(degree: Ints) -> dict[str, Any]:
    """How unequal items are in train: shares of the most popular, Gini's coefficient, and the power law (long_tail) or null."""
    from components.data import long_tail  # scipy: every task of a preparation imports this file

    ascending = np.sort(degree)
    n, total = len(degree), int(degree.sum())
    if not total:
        return {"top_1_percent_share": None, "top_10_percent_share": None, "gini": None, "power_law": None}
    law = long_tail.fit(degree)
    return {
        "top_1_percent_share": float(ascending[n - max(1, round(n * 0.01)) :].sum() / total),
        "top_10_percent_share": float(ascending[n - max(1, round(n * 0.1)) :].sum() / total),
        "gini": gini(degree),
        "power_law": None if law is None else asdict(law),
    }


def gini(counts: Ints) -> float:
    """sum_r (2 r - n - 1) c_(r) / (n sum c), c_(r) ascending: 0 if all n are alike, 1 - 1/n if one is all. Not of nothing."""
    n = len(counts)
    return int((2 * np.arange(1, n + 1) - n - 1) @ np.sort(counts)) / (n * int(counts.sum()))
