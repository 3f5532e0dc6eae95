"""Dirty logs of every format: each row is kept, filtered or refused, and what is kept is what plain polars keeps."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.data.cleaned import clean, file
from tests.unit.data.dirty import BROKEN, ROWS, Row, polars_keeps, polars_reads, rules, write


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
