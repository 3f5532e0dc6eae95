"""What the benchmark of bulk scoring counts and says."""

from __future__ import annotations

import pytest

from tests.benchmarks import _report_speed, recommend


@pytest.mark.parametrize("start", [0.0, 500.0])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_starting_is_apart_from_users_per_second(start: float, workers: int) -> None:
    """Workers that write 100 users a second each, one after the other, whenever they began."""
    parts = [(start + number / (10 * workers), 10.0) for number in range(60)]
    assert recommend.users_per_second(reversed(parts), workers) == pytest.approx(100 * workers)


def test_a_few_parts_are_not_timed() -> None:
    with pytest.raises(AssertionError, match="2 parts are too few to time"):
        recommend.users_per_second([(0.0, 1.0), (1.0, 1.0)], 1)


def test_the_section_has_a_row_for_each_number_of_users() -> None:
    told = {"users_per_second": 900.0, "bare_users_per_second": 1200.0, "seconds": 70.4, "peak_gib": 2.5, "tables_gib": 0.75}
    runs = {"250": told, "1000": {**told, "users_per_second": 600.0}}
    figures = {"items": 5000, "width": 64, "k": 20, "workers": 2, "runs": runs, "ratio": 0.5}
    lines = list(_report_speed.recommend({"figures": figures}))
    assert lines[0] == "## Lists for 1,000 users out of 5,000 items (2 workers of one thread)"
    assert lines[-2:] == [
        "| 250 | 900 | 1,200 | 0.75 | 70 | 2.50 | 0.75 |",
        "| 1,000 | 600 | 1,200 | 0.50 | 70 | 2.50 | 0.75 |",
    ]
