"""Numbers that are times since 1970: of which unit by their size, in seconds, and whether they are yet to come."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
NAMES = ("other", "seconds", "milliseconds", "microseconds", "nanoseconds")  # the first: of no such size, a counter say
SCALES = np.array([1, 1, 10**3, 10**6, 10**9], np.int64)
FIRST, LAST = 10**8, 10**10  # seconds: 1973 and 2286; ranges of different units do not meet
DAY = 86_400  # clocks differ, and zones do


def of(whole: Ints) -> NDArray[np.int8]:
    """[rows] positions in NAMES."""
    unit = np.zeros(len(whole), np.int8)
    for n in range(1, len(NAMES)):
        scale = int(SCALES[n])
        unit[(whole >= FIRST * scale) & (whole < LAST * scale)] = n  # beyond int64 numpy compares exactly
    return unit


def in_seconds(whole: Ints, fraction: Floats, unit: NDArray[np.int8]) -> tuple[Ints, Floats]:
    """(whole, fraction) of seconds; numbers of no unit stay as they are."""
    scale = SCALES[unit]
    return whole // scale, (whole % scale + fraction) / scale


def later_than(whole: Ints, unit: NDArray[np.int8], mtime_ns: int) -> NDArray[np.bool_]:
    """Rows more than a day after their file was written; never those of no unit."""
    return (unit > 0) & (whole // SCALES[unit] > mtime_ns // 10**9 + DAY)


def warnings(found: Counter[str], column: str, converted: bool) -> list[str]:
    """What a log's times let suspect, a line each. `found` counts rows by NAMES, and `future` ones."""
    lines = []
    units = [name for name in NAMES[1:] if found[name]]
    if len(units) > 1:
        rows = " and ".join(f"{_rows(found[name])} look{'s' * (found[name] == 1)} like {name}" for name in units)
        done = "all of these are seconds now" if converted else "data.time_units: seconds converts them"
        rest = f"; {_rows(found['other'])} of no such size stay{'s' * (found['other'] == 1)}" if found["other"] else ""
        lines.append(f"data.columns.time: {column}: {rows}; {done}{rest}")
    if found["future"]:
        are = "is later than its" if found["future"] == 1 else "are later than their"
        lines.append(f"data.columns.time: {column}: {_rows(found['future'])} {are} file, by more than a day")
    return lines


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"
