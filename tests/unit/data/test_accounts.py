"""Every row of every file is accounted for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import polars as pl

from components.data import accounts
from components.data.cleaning import Counts

PARTS = [
    ("a", Counts(read=5, kept=3, filtered=Counter({"r at least 4": 1}), quarantined=Counter({"t is null": 1}))),
    ("b", Counts(read=2, kept=2)),
    ("a", Counts(read=4, kept=1, quarantined=Counter({"t is null": 2, "r is null": 1}))),
]


def test_parts_add_up_to_their_file() -> None:
    first, second, aside = accounts.of_files(PARTS, {"c": "not readable"})
    assert first == {
        "file": "a",
        "read": 9,
        "kept": 4,
        "filtered": {"r at least 4": 1},
        "quarantined": {"t is null": 3, "r is null": 1},
    }
    assert (second["file"], second["read"], second["filtered"]) == ("b", 2, {})
    assert aside == {"file": "c", "put_aside": "not readable"}


def test_beside_the_manifest_rows_of_a_file_sum_up_to_what_was_read(tmp_path: Path) -> None:
    accounts.write_beside(accounts.of_files(PARTS, {"c": "not readable"}), tmp_path)
    table = pl.read_parquet(tmp_path / accounts.BESIDE / "*.parquet")
    read = dict(table.group_by("file").agg(pl.col("rows").sum()).iter_rows())
    assert (read["a"], read["b"]) == (9, 2)
    assert table.filter(pl.col("file") == "c").rows() == [("c", "put aside", "not readable", None)]
    assert table.filter(pl.col("reason") == "t is null")["rows"].to_list() == [3]
