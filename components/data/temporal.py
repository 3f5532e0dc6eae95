"""A split of the whole log by time: what each shard counts so that the driver finds the cuts, and the codes that they give.

Times are compared as moments: int64 in the order of the times. A cut by share is found exactly, by passes that count rows in
BINS equal ranges of the moments that are still possible: at most four passes, whatever the times are like.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.data import values
from components.data.splits import TEST, TRAIN, VALID, Codes
from components.errors import InputError
from components.split_rules import TemporalSplit

Ints = NDArray[np.int64]
Times = NDArray[np.int64] | NDArray[np.float64]
BINS = 1 << 16
LOWEST, HIGHEST = -(2**63), 2**63 - 1
EPSILON = 1e-9  # 0.29 * 100 is 28.999999999999996


def moments(times: Times) -> Ints:
    """int64 in the order of the times: integers as they are, floats by their bits."""
    if times.dtype == np.int64:
        return times.astype(np.int64)
    return _flip((times.astype(np.float64) + 0.0).view(np.int64))  # -0.0 + 0.0 is 0.0


def time_of(moment: int, is_float: bool) -> float | int:
    """The time of a moment."""
    return float(_flip(np.array([moment], np.int64)).view(np.float64)[0]) if is_float else moment


def written(time: float, time_kind: str | None) -> float | str:
    """A time as people write it: where the log has dates, which are microseconds since 1970, in ISO 8601."""
    if time_kind != "date":
        return time
    unit = "us" if int(time) % 10**6 else "s"
    return f"{np.datetime_as_string(np.datetime64(int(time), 'us'), unit=unit)}Z"


def moment_of(time: float, is_float: bool) -> int:
    """The first moment that is not before a time, as a recipe writes it."""
    if is_float:
        return int(moments(np.array([time], np.float64))[0])
    return int(np.clip(int(np.ceil(time)) if isinstance(time, float) else time, LOWEST, HIGHEST))


def _flip(bits: Ints) -> Ints:
    """Bits of floats, of which negative ones descend, and integers in the floats' order; its own inverse."""
    return np.where(bits < 0, bits ^ np.int64(HIGHEST), bits)


def times_of_rule(rule: TemporalSplit, time_kind: str | None) -> tuple[float, float]:
    """(valid_from, test_from) as the log's times: numbers, or microseconds since 1970 where it has dates.

    Raises:
        InputError: a date where the log has numbers, or the reverse; or valid_from is not the earlier one.
    """
    found = []
    for name, value in (("valid_from", rule.valid_from), ("test_from", rule.test_from)):
        time = values.date(value) if isinstance(value, str) else value
        if time is None or isinstance(value, str) != (time_kind == "date"):
            takes = "an ISO date" if time_kind == "date" else "a number"
            raise InputError(f"data.split.{name}: got {value!r}, takes {takes}, which data.columns.time has")
        found.append(time)
    if found[0] >= found[1]:
        raise InputError(f"data.split.valid_from: got {rule.valid_from!r}, takes a time before test_from, {rule.test_from!r}")
    return found[0], found[1]


@dataclass(frozen=True)
class Cuts:
    """Rows from the moment `test` on are test, those before them from `valid` on valid, the rest train."""

    valid: int
    test: int
    drop_unknown: bool

    def codes(self, moments: Ints) -> Codes:
        out = np.full(len(moments), TRAIN, np.int8)
        out[moments >= self.valid] = VALID
        out[moments >= self.test] = TEST
        return out


@dataclass(frozen=True)
class Search:
    """The moment with `rank` (from 0) among those from `low` to `high`, where alone it can be."""

    rank: int
    low: int = LOWEST
    high: int = HIGHEST

    @property
    def width(self) -> int:
        return -(-(self.high - self.low + 1) // BINS)

    def count(self, moments: Ints) -> Ints:
        """[BINS] rows in each range of `width` moments from `low` on, none beyond `high`."""
        inside = moments[(moments >= self.low) & (moments <= self.high)]
        since = inside.view(np.uint64) - np.array(self.low, np.int64).view(np.uint64)  # exact even over all of int64
        return np.bincount((since // np.uint64(self.width)).astype(np.int64), minlength=BINS)

    def narrowed(self, counts: Ints) -> Search:
        """To the range that has the rank, by the counts of all rows."""
        ends = np.cumsum(counts)
        n = int(np.searchsorted(ends, self.rank, side="right"))
        low = self.low + n * self.width
        before = int(ends[n - 1]) if n else 0
        return replace(self, rank=self.rank - before, low=low, high=min(self.high, low + self.width - 1))


def searches(rule: TemporalSplit, rows: int) -> list[Search]:
    """Of valid and test: the last moment that stays before the cut, so that at most the share of the rows is from it on."""
    shares = (rule.valid + rule.test, rule.test)
    return [Search(max(0, rows - 1 - int(np.floor(share * rows + EPSILON)))) for share in shares]


def unknown(user: NDArray[np.integer], item_known: NDArray[np.bool_], codes: Codes) -> NDArray[np.bool_]:
    """Rows held out whose user has no row in train, or whose item is not known there."""
    trains = np.bincount(user[codes == TRAIN], minlength=int(user.max(initial=-1)) + 1) > 0
    return (codes != TRAIN) & ~(trains[user] & item_known)


def times_of(table: pa.Table, is_float: bool) -> Times:
    """A shard's times as they are written: whole numbers, or floats where any row of the log has a fraction."""
    whole = np.asarray(table["time"]).astype(np.int64)
    return whole.astype(np.float64) + np.asarray(table["fraction"]) if is_float else whole
