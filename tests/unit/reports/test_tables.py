from __future__ import annotations

import io

from rich.console import Console

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
