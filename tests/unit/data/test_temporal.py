"""A cut by time, against the sorted log: exact shares by counting, no row of train after it, nothing unknown held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.config import Data
from components.data import sources, temporal, values
from components.data.splits import TEST, TRAIN, VALID
from components.data.temporal import Cuts, Search
from components.errors import InputError
from components.split_rules import TemporalSplit
from tests.unit.data.cleaned import file

FLOATS = np.array([-np.finfo(float).max, -3.5, -1e-300, -0.0, 0.0, 1e-300, 0.25, 1.0, np.nextafter(1.0, 2.0), 1e300])


def test_moments_are_in_the_order_of_times_and_go_back() -> None:
    keys = temporal.moments(FLOATS)
    assert (np.greater.outer(FLOATS, FLOATS) == np.greater.outer(keys, keys)).all()
    assert [temporal.time_of(int(key), True) for key in keys] == FLOATS.tolist()
    whole = np.array([-(2**63), 2**53 + 1, 2**63 - 1])
    assert temporal.moments(whole).tolist() == whole.tolist() == [temporal.time_of(int(n), False) for n in whole]


@pytest.mark.parametrize(("time", "is_float", "first"), [(5, False, 5), (4.5, False, 5), (-4.5, False, -4), (4.5, True, 4.5)])
def test_a_written_time_is_the_first_moment_not_before_it(time: float, is_float: bool, first: float) -> None:
    assert temporal.time_of(temporal.moment_of(time, is_float), is_float) == first


def order_statistic(moments: np.ndarray, rank: int) -> tuple[int, int]:
    """(what is found, passes), the rows counted in three shards."""
    search, passes = Search(rank), 0
    while search.low < search.high:
        counts = [search.count(shard) for shard in np.array_split(moments, 3)]
        search = search.narrowed(np.sum(counts, axis=0))
        passes += 1
    return search.low, passes


@pytest.mark.parametrize("law", ["seconds", "microseconds", "everything", "one", "floats"])
def test_counting_finds_the_order_statistic_in_four_passes(law: str) -> None:
    random = np.random.default_rng(0)
    found = {
        "seconds": random.integers(1_500_000_000, 1_600_000_000, 900),
        "microseconds": np.repeat(random.integers(0, 2**51, 300), 3),
        "everything": np.append(random.integers(-(2**63), 2**63 - 1, 898), [-(2**63), 2**63 - 1]),
        "one": np.full(900, 7),
        "floats": temporal.moments(random.normal(size=900)),
    }[law]
    for rank in (0, 1, 449, 898, 899):
        value, passes = order_statistic(found, rank)
        assert value == np.sort(found)[rank]
        assert passes <= 4


def cuts_of(times: np.ndarray, **rule: Any) -> Cuts:
    searches = temporal.searches(TemporalSplit.model_validate({"by": "temporal", **rule}), len(times))
    valid, test = (order_statistic(times, search.rank)[0] + 1 for search in searches)
    return Cuts(valid, test, True)


@pytest.mark.parametrize(("valid", "test"), [(0.1, 0.2), (0.0, 0.5), (0.3, 0.0), (0.29, 0.29)])
@pytest.mark.parametrize("tied", [1, 7, 100])
def test_a_share_is_the_most_that_whole_moments_fill(valid: float, test: float, tied: int) -> None:
    """Against the definition: of all moments the earliest from which on there is at most the share of the rows."""
    times = np.random.default_rng(1).permutation(np.arange(700) // tied * 10)
    cuts = cuts_of(times, valid=valid, test=test)
    codes = cuts.codes(times)
    for held_out, share in (((TEST,), test), ((VALID, TEST), valid + test)):
        rows = [int((times >= moment).sum()) for moment in (*np.unique(times), times.max() + 1)]
        assert np.isin(codes, held_out).sum() == max(n for n in rows if n <= share * 700 + 1e-9)


def test_no_row_of_train_is_after_a_row_held_out() -> None:
    times = np.random.default_rng(2).integers(0, 50, 1000)
    codes = cuts_of(times, valid=0.2, test=0.2).codes(times)
    assert times[codes == TRAIN].max() < times[codes == VALID].min()
    assert times[codes == VALID].max() < times[codes == TEST].min()


DAY = 86_400_000_000


def test_a_time_is_written_as_the_log_has_it() -> None:
    assert temporal.written(18_262 * DAY, "date") == "2020-01-01T00:00:00Z"
    assert temporal.written(18_262 * DAY + 1, "date") == "2020-01-01T00:00:00.000001Z"
    assert [temporal.written(time, "number") for time in (5, 0.25)] == [5, 0.25]
    for moment in (0, -1, 18_262 * DAY + 3_000_000, -(2**50)):
        assert values.date(str(temporal.written(moment, "date"))) == moment, "what is said can be written in a recipe"


def test_unknown_rows_are_those_of_users_or_items_that_train_has_not() -> None:
    random = np.random.default_rng(4)
    user, item = random.integers(0, 40, 300), random.integers(0, 60, 300)
    codes = random.choice([TRAIN, VALID, TEST], 300, p=[0.3, 0.3, 0.4]).astype(np.int8)
    users, items = set(user[codes == TRAIN].tolist()), set(item[codes == TRAIN].tolist())
    expected = [c != TRAIN and (u not in users or i not in items) for u, i, c in zip(user, item, codes, strict=True)]
    assert 0 < sum(expected) < 300
    assert temporal.unknown(user, np.isin(item, list(items)), codes).tolist() == expected


@pytest.mark.parametrize(
    ("times", "cut", "message"),
    [
        ("5", ["2020-01-01", "2020-02-01"], r"valid_from: got '2020-01-01', takes a number, which data\.columns\.time has"),
        ("2020-01-05", [1, 2], r"valid_from: got 1, takes an ISO date, which"),
        ("2020-01-05", ["2020-01-01", "soon"], r"test_from: got 'soon', takes an ISO date, which"),
        ("5", [9, 8], r"valid_from: got 9, takes a time before test_from, 8"),
    ],
)
def test_cuts_of_another_kind_than_the_times_are_refused(tmp_path: Path, times: str, cut: list[Any], message: str) -> None:
    path = file(tmp_path, f"user_id,item_id,t\n1,2,{times}\n")
    split = {"by": "temporal", "valid_from": cut[0], "test_from": cut[1]}
    data = Data.model_validate({"source": str(path), "columns": {"time": "t"}, "split": split})
    with pytest.raises(InputError, match=rf"^data\.split\.{message}"):
        sources.inspect(data)
