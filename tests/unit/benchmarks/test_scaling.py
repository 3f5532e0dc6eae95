"""What more workers would give, on paper: the law, and the parts that it is of."""

from __future__ import annotations

import math

import pytest

from tests.benchmarks import _report_speed, scaling
from tests.benchmarks.scaling import Parts, parts_of, seconds
from tests.worlds import small_log

ONE = {"seconds": 1.05, "compute": 1.0, "data": 0.05, "exchange": 0.0, "received": 0.0, "rounds": 0.0}
TWO = {"seconds": 0.75, "compute": 0.6, "data": 0.025, "exchange": 0.125, "received": 4e6, "rounds": 10.0}
HERE = {"latency": 1e-3, "rate": 1e8}  # of the exchange 0.01 s of rounds, 0.04 s of bytes; the rest is waiting


def test_the_law_gives_what_was_measured() -> None:
    parts = parts_of(ONE, TWO, **HERE)
    assert seconds(parts, 1, **HERE) == pytest.approx(1.05)
    assert seconds(parts, 2, **HERE) == pytest.approx(0.75)
    assert parts.shared == pytest.approx(0.85)
    assert parts.waited == pytest.approx(0.075)


def test_what_every_worker_repeats_is_the_bound() -> None:
    parts = parts_of(ONE, TWO, **HERE)
    free = [seconds(parts, workers, 0.0, math.inf) - parts.waited for workers in (2, 64, 10**6)]
    assert free == sorted(free, reverse=True)
    assert free[-1] == pytest.approx(parts.repeated, rel=1e-4)


def test_rounds_grow_with_the_workers_and_bytes_do_not() -> None:
    rounds, received = (Parts(0.0, 0.0, 0.0, *each) for each in ((0.0, 3.0), (8.0, 0.0)))
    assert [seconds(rounds, workers, 2.0, 1.0) for workers in (2, 3, 64)] == [6.0, 12.0, 63 * 6.0]
    assert [seconds(received, workers, 2.0, 1.0) for workers in (2, 4, 64)] == [4.0, 6.0, 8 * 63 / 64]


def test_two_that_are_no_faster_share_nothing() -> None:
    parts = parts_of(ONE, {**TWO, "compute": 1.2}, **HERE)
    assert (parts.repeated, parts.shared) == (1.05, 0.0)
    assert seconds(parts, 64, 0.0, math.inf) == pytest.approx(1.05 + 0.075)


def test_a_steps_seconds_are_its_parts() -> None:
    told = scaling.worker(scaling.recipe_of(scaling.MODELS["MF"], 50).to_json(), small_log().seen, 4)
    assert told["seconds"] == pytest.approx(told["compute"] + told["data"] + told["exchange"])
    assert 0 < told["data"] < told["seconds"]
    assert (told["exchange"], told["received"], told["rounds"]) == (0, 0, 0), "there is no other"


def test_a_report_says_whether_its_target_is_reached() -> None:
    beside = {**ONE, "seconds": 1.2, "compute": 1.15}
    turned = {scaling.ALONE: [ONE], scaling.BESIDE: [beside], scaling.TOGETHER: [TWO]}
    models = {model: scaling.told_of(turned, HERE) for model in scaling.MODELS}
    assert models["MF"]["parts"]["shared"] == pytest.approx(1.2 - 0.05), "what two halve, on a machine as busy"
    figures = {"log": "gowalla", "batch": 8192, "threads": 1, "limit": 1.6, "here": HERE, "models": models}
    text = "\n".join(_report_speed.scaling({"figures": figures}))
    assert "| MF | 2 | 10,923 | 1.40 | 750 | 600 | 125 | 25 | 3.8 |" in text
    assert "| MF | 1 beside another | 13,653 | 1.75 |" in text
    assert "MF at 1.40 times (1.40 to 1.40 over the turns), 0.80 of what the" in text
    assert "the target of 1.6 is **not reached**." in text
    assert "| LightGCN | this machine's | 1.0 | 1.6 |" in text
