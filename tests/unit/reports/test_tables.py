from __future__ import annotations

import io

from rich.console import Console

from components.evaluation.comparison import Difference
from components.evaluation.metrics import NAMES
from components.reports import tables


def drawn(table, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(table)
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def results(recall: float) -> dict[str, float]:
    values = {f"{name}@{k}": recall for name in NAMES for k in (10, 20)}
    return values | {"coverage@20": 0.51, "mean_popularity_rank@20": 1234.5}


def test_the_comparison_fits_eighty_columns_untruncated():
    text = drawn(tables.comparison({"model": results(0.125), "most popular": results(0.0625)}, [10, 20], "title"))
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    row = next(line.split() for line in text.splitlines() if "most popular" in line)
    assert row == ["most", "popular", *["0.0625"] * 5, "51.0%", "1,234"]


def test_recommendations_of_unequal_length():
    text = drawn(tables.recommendations({"7": ["Alien (1979)", "Brazil (1985)"], "9": ["Heat (1995)"]}, "title"))
    assert [line.split()[0] for line in text.splitlines() if "(19" in line] == ["1", "2"]
    assert "user 7" in text
    assert "Heat (1995)" in text


def test_a_star_stands_where_zero_lies_outside():
    values = {name: {"mean": 0.25, "deviation": None} for name in ("plain", "better", "unsure")}
    found = {
        "better": Difference(0.0123, 0.05, (0.0045, 0.02), None),
        "unsure": Difference(-0.001, None, (-0.0045, 0.003), (-0.5, -0.25)),
    }
    rows = [line.split() for line in drawn(tables.differences(values, found, "recall@20")).splitlines()]
    assert ["plain", "0.2500", "-"] in rows
    assert ["better", "0.2500", "-", "+.0123", "+5.0", "+.0045", "+.0200*", "one", "seed"] in rows
    assert ["unsure", "0.2500", "-", "-.0010", "-", "-.0045", "+.0030", "-.5000", "-.2500*"] in rows


def test_what_a_system_cost():
    cost = {"epochs": 37.5, "seconds_per_epoch": 4.5678, "seconds": 3725.2}
    system = {"name": "a [b]", "runs": [1, 2], "fit_on": "train+valid", "workers": "2 GPU", "cost": cost}
    system |= {"chosen_on": "test, seen items masked"}
    alone = {**system, "cost": {"epochs": 1, "seconds_per_epoch": None, "seconds": None}}
    text = drawn(tables.systems([system, alone], "title"))
    assert max(map(len, text.splitlines())) <= 80
    rows = [line.split() for line in text.splitlines() if "a [b]" in line]
    assert rows[0][2:] == ["2", "train+valid", "test,", "seen", "37.5", "4.57", "1:02:05", "2", "GPU"]
    assert rows[1][6:9] == ["1", "-", "-"]
    assert text.count("items masked") == 2
