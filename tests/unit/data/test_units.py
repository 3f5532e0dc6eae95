"""Milliseconds among seconds, and times that are yet to come: seen by their size, said, and converted where asked."""

from __future__ import annotations

import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data import units
from tests.unit.data.cleaned import clean, file

SCALES = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
MOMENTS = [datetime(year, 7, 1, tzinfo=UTC) for year in (1974, 1999, 2020, 2200)]


@pytest.mark.parametrize("name", SCALES)
def test_every_moment_of_two_centuries_is_of_its_unit(name: str) -> None:
    whole = np.array([int(moment.timestamp()) * SCALES[name] + SCALES[name] // 7 for moment in MOMENTS])
    found = units.of(whole)
    assert [units.NAMES[n] for n in found] == [name] * len(MOMENTS)
    seconds, fraction = units.in_seconds(whole, np.full(len(whole), 0.5), found)
    assert seconds.tolist() == [int(moment.timestamp()) for moment in MOMENTS]
    assert fraction == pytest.approx((SCALES[name] // 7 + 0.5) / SCALES[name])


def test_counters_are_of_no_unit_and_stay() -> None:
    whole = np.array([-(2**63), -5, 0, 500, 20_200_101, 99_999_999, 10**10, 10**13])
    assert not units.of(whole).any()
    seconds, fraction = units.in_seconds(whole, np.zeros(len(whole)), units.of(whole))
    assert (seconds.tolist(), fraction.any()) == (whole.tolist(), False)
    assert not units.later_than(whole, units.of(whole), 0).any()


def log(folder: Path, times: list[str]) -> Path:
    path = file(folder, "user_id,item_id,t\n" + "".join(f"u,{n},{time}\n" for n, time in enumerate(times)))
    os.utime(path, (1_600_000_000, 1_600_000_000))
    return path


def test_times_have_a_column_of_fractions_only_where_one_may_be(tmp_path: Path) -> None:
    for n, (times, units_, there) in enumerate(
        [([5, 7], "keep", False), ([5, 7], "seconds", True), ([5.0, 7.5], "keep", True), (["5", "7"], "keep", True)]
    ):
        path = tmp_path / f"{n}.parquet"
        pq.write_table(pa.table({"user_id": [1, 2], "item_id": [1, 2], "t": times}), path)
        kept = clean(path, columns={"time": "t"}, time_units=units_).kept
        assert ("fraction" in kept.column_names) == there, times


def test_milliseconds_among_seconds_are_counted_and_converted(tmp_path: Path) -> None:
    source = log(tmp_path, ["1500000000", "1500000000250", "1500000001", "7", "bad", "1500000000000001"])
    kept = clean(source, columns={"time": "t"})
    assert kept.kept["time"].to_pylist() == [1_500_000_000, 1_500_000_000_250, 1_500_000_001, 7, 1_500_000_000_000_001]
    assert kept.counts.times == Counter(seconds=2, milliseconds=1, microseconds=1, other=1)
    assert not kept.counts.float_time
    converted = clean(source, columns={"time": "t"}, time_units="seconds")
    times = np.add(converted.kept["time"].to_numpy(), converted.kept["fraction"].to_numpy())
    assert times.tolist() == [1_500_000_000, 1_500_000_000.25, 1_500_000_001, 7, 1_500_000_000.000001]
    assert converted.counts.float_time
    assert converted.counts.times == kept.counts.times
    (said,) = units.warnings(kept.counts.times, "t", converted=False)
    assert "2 rows look like seconds and 1 row looks like milliseconds" in said
    assert said.endswith("; data.time_units: seconds converts them; 1 row of no such size stays")
    (said,) = units.warnings(kept.counts.times, "t", converted=True)
    assert "; all of these are seconds now; 1 row" in said


def test_one_unit_is_nothing_to_say(tmp_path: Path) -> None:
    found = clean(log(tmp_path, ["1500000000000", "1500000000001"]), columns={"time": "t"})
    assert not units.warnings(found.counts.times, "t", converted=False)


@pytest.mark.parametrize("times", [["1600086400", "1600086401"], ["2020-09-14T12:26:40", "2020-09-14T12:26:42"]])
def test_times_after_their_file_are_said(tmp_path: Path, times: list[str]) -> None:
    """The file is of 2020-09-13T12:26:40; a day more is not yet the future."""
    found = clean(log(tmp_path, times), columns={"time": "t"})
    assert found.counts.times["future"] == 1
    (said,) = units.warnings(found.counts.times, "t", converted=False)
    assert said == "data.columns.time: t: 1 row is later than its file, by more than a day"
