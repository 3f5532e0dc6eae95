"""Best so far over time, and its mean and range over seeds."""

from __future__ import annotations

import pytest

from tests.benchmarks import asha


def entry(hour: float, value: float | None) -> dict[str, object]:
    metrics = {"loss": 1.0} | ({} if value is None else {"valid_ndcg@20": value})
    return {"time": 1000 + 3600 * hour, "step": 1, "metrics": metrics}


def test_best_so_far_rises_over_all_trials_in_the_order_of_time_and_ends_with_the_budget() -> None:
    first = [entry(0.1, 0.2), entry(0.3, 0.5), entry(0.5, 0.4)]
    second = [entry(0.2, 0.3), entry(0.25, None), entry(0.4, 0.1), entry(0.6, 0.6), entry(1.2, 0.9)]
    curve = asha.best_so_far([*second, *first], "valid_ndcg@20", 1000, 1.0)
    assert [value for _, value in curve] == [0.2, 0.3, 0.5, 0.6]
    assert [hour for hour, _ in curve] == pytest.approx([0.1, 0.2, 0.3, 0.6])


CURVE = [(0.1, 0.2), (0.3, 0.5)]


@pytest.mark.parametrize(("hour", "value"), [(0.05, None), (0.1, 0.2), (0.29, 0.2), (0.3, 0.5), (9.0, 0.5)])
def test_a_curve_stays_where_it_is_until_it_rises(hour: float, value: float | None) -> None:
    assert asha.at(CURVE, hour) == value


@pytest.mark.parametrize(("value", "hour"), [(0.1, 0.1), (0.2, 0.1), (0.3, 0.3), (0.6, None)])
def test_the_first_hour_at_which_a_value_was_reached(value: float, hour: float | None) -> None:
    assert asha.first(CURVE, value) == hour


def test_a_band_begins_where_every_curve_has() -> None:
    other = [(0.2, 0.4)]
    assert asha.band([CURVE, other], [0.1, 0.2, 0.4]) == [
        (0.2, pytest.approx(0.3), 0.2, 0.4),
        (0.4, pytest.approx(0.45), 0.4, 0.5),
    ]
