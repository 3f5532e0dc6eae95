"""Where a split by time cuts the log, found by passes over the shards: none brings more to the driver than counts and codes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from components.data import shards, temporal
from components.data.shards import Core, ShardFiles
from components.data.temporal import Cuts
from components.errors import InputError
from components.split_rules import TemporalSplit
from ray_jobs._tasks import Stage


@dataclass(frozen=True)
class Found:
    """The cuts, and what train has: items by code (`known`), users of each shard, and the rows of train, valid and test."""

    cuts: Cuts
    known: NDArray[np.bool_]
    users: list[int]
    rows: list[int]
    float_time: bool
    time_kind: str | None
    unknown_users: int
    unknown_items: int

    def values(self) -> dict[str, Any]:
        """As numbers, lists and arrays, from which `of` makes it again."""
        return {**vars(self), "cuts": list(vars(self.cuts).values())}

    @classmethod
    def of(cls, values: dict[str, Any]) -> Found:
        return cls(**{**values, "cuts": Cuts(*values["cuts"])})

    def describe(self) -> dict[str, Any]:
        """What the manifest says."""
        valid, test = (_written(moment, self.float_time, self.time_kind) for moment in (self.cuts.valid, self.cuts.test))
        unknown = {"unknown_users": self.unknown_users, "unknown_items": self.unknown_items}
        return {"valid_from": valid, "test_from": test, **unknown}

    def line(self) -> str:
        about = self.describe()
        return (
            f"{self.rows[0]:,} rows, {self.rows[1]:,} from {about['valid_from']}, {self.rows[2]:,} from {about['test_from']}; "
            f"{self.unknown_users:,} users and {self.unknown_items:,} items without a row in train"
        )


def _written(moment: int, float_time: bool, time_kind: str | None) -> float | str:
    return temporal.written(temporal.time_of(moment, float_time), time_kind)


def find(
    stage: Stage, rule: TemporalSplit, time_kind: str | None, files: list[ShardFiles], core: Core, users: int, rows: int
) -> Found:
    """`users` and `rows` are those that the k-core left.

    Raises:
        InputError: a part that is asked for gets no row.
    """
    ref = ray.put(core)
    if rule.test_from is None:
        valid, test = _by_share(stage, rule, rows, files, ref)
    else:
        valid, test = (temporal.moment_of(time, core.float_time) for time in temporal.times_of_rule(rule, time_kind))
    cuts = Cuts(valid, test, rule.unknown == "drop")
    stage.begin("users and items of train", rows)
    known, trains, counts = np.zeros(len(core.alive), bool), [0] * len(files), np.zeros(3, np.int64)
    for n, (train_users, items, shard_counts) in stage.each(shards.train_part, [(file, ref, cuts) for file in files]):
        known[items] = True
        trains[n] = train_users
        stage.advance(int(shard_counts.sum()))
        counts += shard_counts
    asked = {"train": True, "valid": rule.valid > 0, "test": rule.test > 0}
    empty = [name for name, count in zip(asked, counts, strict=True) if asked[name] and not count]
    if empty:
        spans = [found for _, found in stage.each(shards.span, [(file, ref) for file in files]) if found]
        first, last = min(low for low, _ in spans), max(high for _, high in spans)
        begin, end, valid, test = (_written(n, core.float_time, time_kind) for n in (first, last, cuts.valid, cuts.test))
        got = f"valid from {valid} and test from {test}, which leave {' and '.join(empty)} without a row"
        what = "shares valid and test" if rule.test_from is None else "valid_from and test_from"
        raise InputError(f"data.split: got {got}, takes {what} that cut the times {begin} to {end}")
    unknown_items = int((core.alive & ~known).sum())
    return Found(cuts, known, trains, counts.tolist(), core.float_time, time_kind, users - sum(trains), unknown_items)


def _by_share(stage: Stage, rule: TemporalSplit, rows: int, files: list[ShardFiles], core: Any) -> tuple[int, int]:
    """The first moments of valid and test; at most four passes, each of which narrows 64 bits by 16."""
    searches = temporal.searches(rule, rows)
    for n in itertools.count(1):
        if not any(search.low < search.high for search in searches):
            break
        stage.begin(f"pass {n} of at most 4", rows)
        counts = np.zeros((len(searches), temporal.BINS), np.int64)
        for _, found in stage.each(shards.count_moments, [(file, core, searches) for file in files]):
            counts += found
            stage.advance(rows // len(files))
        searches = [search.narrowed(row) for search, row in zip(searches, counts, strict=True)]
    valid, test = (search.low + 1 for search in searches)
    return valid, test
