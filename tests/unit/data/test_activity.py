"""Rows over time: shards add up to what one pass counts, whatever their times; and a picture shows where the rows are."""

from __future__ import annotations

import functools
import operator

import numpy as np
import pytest

from components.data import activity
from components.data.activity import BINS, MOST_SHOWN, Activity


def same(one: Activity, other: Activity) -> bool:
    return (one.power, one.first, one.counts.tolist()) == (other.power, other.first, other.counts.tolist())


def times(kind: str) -> np.ndarray:
    random = np.random.default_rng(0)
    return {
        "seconds": random.integers(1_200_000_000, 1_600_000_000, 900),
        "nanoseconds": random.integers(1_200_000_000, 1_600_000_000, 900) * 10**9 + random.integers(0, 10**9, 900),
        "few": random.integers(-3, 4, 900),
        "fractions": random.uniform(-5e6, 5e6, 900),
        "all of int64": random.integers(-(2**63), 2**63 - 1, 900),
    }[kind]


@pytest.mark.parametrize("kind", ["seconds", "nanoseconds", "few", "fractions", "all of int64"])
def test_parts_add_up_to_the_whole_in_any_order(kind: str) -> None:
    given = times(kind)
    whole = Activity.of(given)
    parts = [Activity.of(part) for part in np.array_split(np.sort(given), [1, 7, 400])]
    assert same(functools.reduce(operator.add, parts), whole)
    assert same(functools.reduce(operator.add, parts[::-1]), whole)
    assert len(whole.counts) <= BINS
    for place, rows in enumerate(whole.counts.tolist()):
        low, high = ((whole.first + n) << whole.power for n in (place, place + 1))
        assert rows == sum(low <= time < high for time in given.tolist())


def test_bins_are_as_fine_as_they_can_be() -> None:
    assert Activity.of(np.array([0, BINS - 1])).power == 0
    assert Activity.of(np.array([0, BINS])).power == 1


def test_every_row_is_shown_in_its_span() -> None:
    given = {"train": times("seconds")[:700], "test": times("seconds")[700:]}
    shown = activity.shown({name: Activity.of(own) for name, own in given.items()})
    assert shown is not None
    assert shown.outside == 0
    for name, own in given.items():
        assert 20 < len(shown.counts[name]) <= MOST_SHOWN
        spans = (own - shown.start) // shown.width
        assert shown.counts[name].tolist() == np.bincount(spans, minlength=len(shown.counts[name])).tolist()


def test_a_rare_row_of_long_ago_does_not_hide_the_others() -> None:
    given = np.append(np.random.default_rng(0).integers(1_500_000_000, 1_600_000_000, 5000), [0, 0])
    shown = activity.shown({"train": Activity.of(given)})
    assert shown is not None
    end = shown.start + shown.width * len(shown.counts["train"])
    assert shown.outside == ((given < shown.start) | (given >= end)).sum()
    assert 2 <= shown.outside <= 10
    assert shown.counts["train"].sum() == len(given) - shown.outside
    assert shown.start > 1_490_000_000


def test_one_moment_is_no_activity_over_time() -> None:
    assert activity.shown({"train": Activity.of(np.full(9, 1_500_000_000))}) is None
