"""Dirty logs of every format: each row is kept, filtered or refused, and what is kept is what plain polars keeps."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.config import Data
from components.data import accounts, cleaning, sources
from tests.unit.data.cleaned import clean, file
from tests.unit.data.dirty import BROKEN, ROWS, RULES, Row, polars_keeps, polars_reads, rules, write


@pytest.mark.parametrize("kind", BROKEN)
@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(rows=ROWS, data=st.data())
def test_every_row_is_accounted_for_and_kept_as_polars_keeps_it(kind: str, rows: list[Row], data: Any) -> None:
    broken = data.draw(st.lists(st.sampled_from(BROKEN[kind]), max_size=5)) if BROKEN[kind] else []
    part_bytes = data.draw(st.sampled_from([16, 100, 1 << 20]))
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), kind, rows, broken)
        found = clean(path, part_bytes=part_bytes, part_rows=part_bytes, **rules(kind))
        read = polars_reads(path, kind)
        wanted, good = polars_keeps(read)
        counts = found.counts
        assert counts.read == len(read) + len(broken)
        assert counts.read == counts.kept + counts.filtered.total() + counts.quarantined.total()
        assert len(found.refused) == counts.quarantined.total() == counts.read - good
        assert counts.filtered.total() == good - len(wanted)
        kept = found.kept
        assert (kept["user"].to_pylist(), kept["item"].to_pylist()) == (
            wanted["user_id"].to_list(),
            wanted["item_id"].to_list(),
        )
        if "time" in kept.column_names:
            times = [whole + part for whole, part in zip(*(kept[n].to_pylist() for n in ("time", "fraction")), strict=True)]
            assert times == wanted["t"].to_list()
        if kind != "parquet":
            packed = file(Path(folder), gzip.compress(path.read_bytes()), f"packed/{path.name}.gz")
            again = clean(packed, **rules(kind))
            assert again.kept.equals(kept)
            assert again.counts == counts


TYPED = st.tuples(
    st.sampled_from([None, 2**60 + 1, -7, 0, 3]),
    st.sampled_from([None, "x", "7", ""]),
    st.sampled_from([None, 1.0, 2.0, 4.5, float("nan"), float("inf")]),
    st.sampled_from([None, 12, -3, 2**53 + 1, 1_500_000_000]),
)
RATINGS: dict[str, Any] = {"float64": pa.float64(), "float32": pa.float32(), "string": pa.string(), "none": None}
FILE = st.tuples(st.lists(TYPED, min_size=1, max_size=25), st.sampled_from(sorted(RATINGS)))


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(files=st.lists(FILE, min_size=1, max_size=3))
def test_typed_files_of_several_schemas_are_kept_as_polars_keeps_them(files: list[tuple[list[Any], str]]) -> None:
    """Nullable integers that no float holds, ratings of another type in each file or in none; by file and in all."""
    if all(kind == "none" for _, kind in files):
        return
    with tempfile.TemporaryDirectory() as name:
        wanted: list[tuple[Any, ...]] = []
        by_file: dict[str, dict[str, int]] = {}
        for n, (rows, kind) in enumerate(files):
            users, items, ratings, times = (list(column) for column in zip(*rows, strict=True))
            columns = {"user_id": pa.array(users, pa.int64()), "item_id": pa.array(items, pa.string())}
            if (own := RATINGS[kind]) is not None:
                columns["rating"] = pa.array(ratings, pa.float64()).cast(own)
            columns["t"] = pa.array(times, pa.int64())
            path = Path(name) / f"{n}.parquet"
            pq.write_table(pa.table(columns), path, row_group_size=7, compression="zstd")
            frame = pl.read_parquet(path)
            good = frame.filter(pl.col("user_id").is_not_null() & (pl.col("item_id") != "") & pl.col("t").is_not_null())
            if kind == "none":
                good = good.clear()
            else:
                good = good.with_columns(pl.col("rating").cast(pl.Float64, strict=False)).filter(pl.col("rating").is_finite())
                wanted += good.filter(pl.col("rating") >= 2).select("user_id", "item_id", "t").iter_rows()
            by_file[str(path)] = {"read": len(rows), "quarantined": len(rows) - len(good)}
        data = Data.model_validate({"source": name, **RULES})
        found, plan = clean(name, **RULES), sources.inspect(data)
        assert list(zip(*(found.kept[each].to_pylist() for each in ("user", "item", "time")), strict=True)) == wanted
        assert "fraction" not in found.kept.column_names
        parts = [(part.file.path, block.counts) for part in plan.parts() for block in cleaning.clean_part(part, data, plan)]
        told = {each["file"]: each for each in accounts.of_files(parts, {})}
        for path, numbers in by_file.items():
            refused = sum(told[path]["quarantined"].values())
            assert {"read": told[path]["read"], "quarantined": refused} == numbers
            assert told[path]["read"] == told[path]["kept"] + sum(told[path]["filtered"].values()) + refused
        assert sum(each["kept"] for each in told.values()) == found.counts.kept == len(wanted)
