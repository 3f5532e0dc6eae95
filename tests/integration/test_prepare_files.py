"""Sources of many files, prepared on a real local Ray: the same rows however they are written, and bad ones put aside."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.errors import InputError
from ray_jobs import _dataflow
from tests.integration.preparing import SMALL, prepare, raw_rows, recipe

RULES = {"columns": {"time": "t"}, "split": {"by": "leave_one_out"}, "k_core": {"users": 3}}
SPLITS = ("train", "valid", "test")


def frame(rows: int = 1200) -> pl.DataFrame:
    random = np.random.default_rng(0)
    columns = {"user_id": random.integers(0, 60, rows), "item_id": random.integers(0, 90, rows), "t": np.arange(rows)}
    return pl.DataFrame(columns).with_columns(pl.col("user_id", "item_id").cast(pl.String))


def test_the_same_log_in_other_files_is_the_same_dataset(cluster: None, tmp_path: Path) -> None:
    log = frame()
    one, two, many = tmp_path / "one.csv", tmp_path / "two", tmp_path / "many"
    log.write_csv(one)
    for folder in (two, many):
        folder.mkdir()
    (two / "a.jsonl.gz").write_bytes(gzip.compress(log[:700].write_ndjson().encode()))
    log[700:].write_ndjson(two / "b.jsonl")
    for n in range(300):
        log[4 * n : 4 * n + 4].write_parquet(many / f"{n:03d}.parquet")
    first, _ = prepare(one, tmp_path / "1", **RULES)
    for source in (two, many):
        folder, manifest = prepare(source, tmp_path / f"of_{source.name}", **RULES)
        assert [raw_rows(folder, name) for name in SPLITS] == [raw_rows(first, name) for name in SPLITS]
        assert manifest["counts"]["read"] == len(log)


def test_bad_files_are_put_aside_with_every_row_of_theirs(cluster: None, tmp_path: Path) -> None:
    """One has a broken footer, one a broken second half: of neither is a row kept, wherever the parts were cut."""
    log, folder = frame(), tmp_path / "log"
    folder.mkdir()
    for n in range(4):
        pq.write_table(log[300 * n : 300 * n + 300].to_arrow().cast(TYPES), folder / f"{n}.parquet", **WHOLE)
    footer, middle = folder / "1.parquet", folder / "2.parquet"
    footer.write_bytes(footer.read_bytes()[:-9])
    content = bytearray(middle.read_bytes())
    start = pq.ParquetFile(middle).metadata.row_group(7).column(0).data_page_offset
    content[start : start + 200] = b"\xff" * 200
    middle.write_bytes(content)
    with pytest.raises(InputError, match=r"1\.parquet: not a readable Parquet file"):
        prepare(folder, tmp_path, **RULES)
    lines: list[str] = []
    rules = {**RULES, "on_bad_file": "quarantine"}
    _dataflow.prepare(recipe(folder, tmp_path, **rules), lines.append, SMALL)
    assert [line for line in lines if line.startswith("warning: 2 of 4 files put aside, as ")]
    found, manifest = prepare(folder, tmp_path / "again", **rules)
    assert set(manifest["bad_files"]) == {str(footer), str(middle)}
    assert manifest["counts"]["read"] == 600
    log[:300].vstack(log[900:]).write_parquet(tmp_path / "good.parquet")
    good, _ = prepare(tmp_path / "good.parquet", tmp_path / "good", **RULES)
    assert [raw_rows(found, name) for name in SPLITS] == [raw_rows(good, name) for name in SPLITS]


def test_a_refused_line_of_json_is_found_where_it_says(cluster: None, tmp_path: Path) -> None:
    lines = frame().write_ndjson().splitlines()
    lines[4] = "no json"
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    folder, manifest = prepare(tmp_path / "log.jsonl", tmp_path, **RULES)
    (refused,) = pq.read_table(folder / "quarantine").to_pylist()
    assert (refused["line"], refused["raw"]) == (5, "no json")
    assert manifest["counts"]["kept"] == len(lines) - 1


TYPES = pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("t", pa.int64())])
WHOLE = {"row_group_size": 30, "use_dictionary": False, "compression": "none"}
