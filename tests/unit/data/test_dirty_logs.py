"""Dirty logs of every format: each row is kept, filtered or refused, and what is kept is what plain polars keeps."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.data.cleaned import clean, file

IDS = st.sampled_from(["a", "b", "007", "7", "é", " x", ""])
RATINGS = st.sampled_from(["1", "2", "4.5", "-2", "5", "nan", "", "five", "1e2"])
TIMES = st.sampled_from(["0", "12", "-3", "1500000000", "soon", "", "inf"])
ROWS = st.lists(st.tuples(IDS, IDS, RATINGS, TIMES), min_size=1, max_size=60)
BROKEN = {"csv": ["a", "a,b,c,1,9", 'a,"b,3,1'], "tsv": ["a", "a\tb\tc\t1\t9"], "jsonl": ["{", "[1]", "7"], "parquet": []}
NAMES = ("user_id", "item_id", "rating", "t")
RULES: dict[str, Any] = {"columns": {"time": "t"}, "keep": [{"column": "rating", "at_least": 2}]}


def write(folder: Path, kind: str, rows: list[tuple[str, ...]], broken: list[str]) -> Path:
    """The broken lines are in the middle."""
    if kind == "parquet":
        path = folder / "log.parquet"
        pl.DataFrame(rows, schema=dict.fromkeys(NAMES, pl.String), orient="row").write_parquet(path, row_group_size=7)
        return path
    if kind == "jsonl":
        lines, header = [json.dumps(dict(zip(NAMES, row, strict=True))) for row in rows], []
    else:
        between = "," if kind == "csv" else "\t"
        lines, header = [between.join(row) for row in rows], [between.join(NAMES)]
    middle = len(lines) // 2
    text = "\n".join([*header, *lines[: middle + 1], *broken, *lines[middle + 1 :]]).encode()
    return file(folder, text, f"log.{kind}")


def expected(rows: list[tuple[str, ...]]) -> dict[str, Any]:
    """Plain polars: casts that give null where there is no number, and filters."""
    frame = pl.DataFrame(rows, schema=dict.fromkeys(NAMES, pl.String), orient="row")
    numbers = [pl.col(name).cast(pl.Float64, strict=False) for name in ("rating", "t")]
    good = frame.with_columns(numbers).filter(
        (pl.col("user_id") != "") & (pl.col("item_id") != "") & pl.col("rating").is_finite() & pl.col("t").is_finite()
    )
    kept = good.filter(pl.col("rating") >= 2)
    return {"kept": kept.select("user_id", "item_id", "t").rows(), "filtered": len(good) - len(kept), "good": len(good)}


@pytest.mark.parametrize("kind", BROKEN)
@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(rows=ROWS, data=st.data())
def test_every_row_is_accounted_for_and_kept_as_polars_keeps_it(kind: str, rows: list[tuple[str, ...]], data: Any) -> None:
    broken = data.draw(st.lists(st.sampled_from(BROKEN[kind]), max_size=5)) if BROKEN[kind] else []
    part_bytes = data.draw(st.sampled_from([16, 100, 1 << 20]))
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), kind, rows, broken)
        found = clean(path, part_bytes=part_bytes, part_rows=part_bytes, **RULES)
        counts, wanted = found.counts, expected(rows)
        assert counts.read == len(rows) + len(broken)
        assert counts.read == counts.kept + counts.filtered.total() + counts.quarantined.total()
        assert len(found.refused) == counts.quarantined.total() == counts.read - wanted["good"]
        assert counts.filtered.total() == wanted["filtered"]
        kept = found.kept.sort_by("order")
        times = [float(time) for time in kept["time"].to_pylist()]
        assert list(zip(kept["user"].to_pylist(), kept["item"].to_pylist(), times, strict=True)) == wanted["kept"]
        if kind != "parquet":
            packed = file(Path(folder), gzip.compress(path.read_bytes()), f"packed/log.{kind}.gz")
            again = clean(packed, **RULES)
            assert again.kept.drop_columns("order").equals(kept.drop_columns("order"))
            assert again.counts == counts
        else:
            assert isinstance(found.kept, pa.Table)
