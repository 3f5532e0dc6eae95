"""What is found out before a row is read, and each mistake's one message."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.config import Data
from components.data import sources
from components.data.sources import SourcePlan
from components.errors import InputError
from tests.unit.data.cleaned import file


def inspect(source: Any, **data: Any) -> SourcePlan:
    as_text = {k: str(v) for k, v in source.items()} if isinstance(source, dict) else str(source)
    return sources.inspect(Data.model_validate({"source": as_text, **data}))


def table(folder: Path, name: str = "log.parquet", row_group_size: int | None = None, **columns: Any) -> Path:
    path = folder / name
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.source: .*nowhere\.csv: no such file"):
        inspect(tmp_path / "nowhere.csv")


@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.inter", "train.txt"])
def test_an_empty_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}: got an empty file"):
        inspect(file(tmp_path, "", name), split={"by": "given"})


@pytest.mark.parametrize("header", ["user_id,item_id", "user_id,item_id\n", "user_id,item_id\r\n", "\ufeffuser_id,item_id\n"])
def test_a_header_without_rows_is_named(tmp_path: Path, header: str) -> None:
    with pytest.raises(InputError, match=r"log\.csv: got a header without rows"):
        inspect(file(tmp_path, header))


@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.inter"])
def test_lines_that_end_in_a_carriage_return_alone_are_named(tmp_path: Path, name: str) -> None:
    between = "," if name == "log.csv" else "\t"
    text = f"user_id{between}item_id\r1{between}2\r"
    with pytest.raises(InputError, match=rf"{name}: got a header with a carriage return in it, takes lines that end in a line"):
        inspect(file(tmp_path, text, name))


def test_a_header_that_is_no_csv_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"log\.csv: got a header that is no line of CSV: field larger"):
        inspect(file(tmp_path, "user_id,item_id," + "x" * 131_073 + "\n1,2,3\n"))


def test_parquet_without_rows_is_named(tmp_path: Path) -> None:
    empty = pa.array([], pa.int64())
    with pytest.raises(InputError, match=r"log\.parquet: got no rows"):
        inspect(table(tmp_path, user_id=empty, item_id=empty))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"columns": {"user": "uid"}}, r"data\.columns\.user: got 'uid', not in .*; takes one of user_id, item_id, rating"),
        ({"columns": {"time": "when"}}, r"data\.columns\.time: got 'when', not in"),
        ({"keep": [{"column": "stars", "at_least": 4}]}, r"data\.keep\.0\.column: got 'stars', not in"),
        ({"split": {"by": "given"}}, r"data\.split\.column: got 'split', not in"),
    ],
)
def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path, data: dict[str, Any], message: str) -> None:
    path = file(tmp_path, "user_id,item_id,rating\n1,2,3\n")
    with pytest.raises(InputError, match=message):
        inspect(path, **data)
    pq.write_table(pa.table({"user_id": [1], "item_id": [2], "rating": [3]}), tmp_path / "log.parquet")
    with pytest.raises(InputError, match=message):
        inspect(tmp_path / "log.parquet", **data)


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.columns\.item: got 'item_id', twice in"):
        inspect(file(tmp_path, "user_id,item_id,item_id\n1,2,3\n"))


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_truncated_parquet_is_named(tmp_path: Path, keep: float) -> None:
    path = table(tmp_path, user_id=list(range(1000)), item_id=list(range(1000)))
    os.truncate(path, int(path.stat().st_size * keep))
    with pytest.raises(InputError, match=r"log\.parquet: not a readable Parquet file"):
        inspect(path)


def test_ids_of_a_useless_type_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.columns\.item: 'item_id' of .* is list<.*>, takes integer"):
        inspect(table(tmp_path, user_id=[1], item_id=[[1, 2]]))


def test_a_footer_tells_rows_and_text_does_not(tmp_path: Path) -> None:
    plan = inspect(table(tmp_path, user_id=[1, 2], item_id=[3, 4]))
    assert (plan.rows, plan.bytes) == (2, (tmp_path / "log.parquet").stat().st_size)
    assert inspect(file(tmp_path, "user_id,item_id\n1,2\n")).rows is None


def test_ids_are_integers_where_every_file_has_integers(tmp_path: Path) -> None:
    table(tmp_path, "a.parquet", user_id=[1], item_id=[1])
    table(tmp_path, "b.parquet", user_id=[1], item_id=["x"])
    plan = inspect(tmp_path)
    assert (plan.user_type, plan.item_type) == ("int64", "string")
    assert inspect(file(tmp_path / "text", "user_id,item_id\n1,2\n")).user_type == "string"


def test_integers_beyond_int64_are_kept_as_text(tmp_path: Path) -> None:
    fits, huge = pa.array([1, 2**63 - 1], pa.uint64()), pa.array([1, 2**63], pa.uint64())
    plan = inspect(table(tmp_path, user_id=fits, item_id=huge))
    assert (plan.user_type, plan.item_type) == ("int64", "string")


def test_a_folder_is_its_files_in_order_and_hidden_ones_are_none(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "sub/c.csv", "_SUCCESS", ".crc.csv", "_tmp/d.csv"):
        file(tmp_path, "user_id,item_id\n1,2\n", name)
    assert [Path(f.path).relative_to(tmp_path).as_posix() for f in inspect(tmp_path).files] == ["a.csv", "b.csv", "sub/c.csv"]


def test_a_folder_of_two_formats_asks_for_one(tmp_path: Path) -> None:
    file(tmp_path, "user_id,item_id\n1,2\n", "a.csv")
    file(tmp_path, "user_id\titem_id\n1\t2\n", "b.tsv")
    with pytest.raises(InputError, match="got csv and tsv files together"):
        inspect(tmp_path)
    assert [f.format for f in inspect(tmp_path, format="tsv").files] == ["tsv"]


def test_a_folder_without_data_says_what_it_takes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"got a folder without data, takes \.csv"):
        inspect(file(tmp_path, "x", "notes.md").parent)


def test_an_unknown_suffix_takes_a_format(tmp_path: Path) -> None:
    path = file(tmp_path, "user_id,item_id\n1,2\n", "log.dat")
    with pytest.raises(InputError, match=r"data\.format: .*log\.dat: 'auto' does not know '\.dat'"):
        inspect(path)
    assert inspect(path, format="csv").files[0].format == "csv"


def test_the_files_of_a_mapping_have_its_splits(tmp_path: Path) -> None:
    names = ("test_unbiased", "test", "train")
    source = {split: file(tmp_path, "user_id,item_id\n1,2\n", f"{split}.csv") for split in names}
    assert [f.split for f in inspect(source, split={"by": "given"}).files] == ["train", "test", "test_unbiased"]
    with pytest.raises(InputError, match=r"data\.split\.by: got 'ratio', takes 'given'"):
        inspect(source)


def test_a_mapping_without_train_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.source: got test, takes train"):
        inspect({"test": file(tmp_path, "user_id,item_id\n1,2\n")}, split={"by": "given"})


def test_lightgcn_files_have_the_splits_of_their_names(tmp_path: Path) -> None:
    for name in ("test.txt", "train.txt", "item_list.txt"):
        file(tmp_path, "0 1 2\n", name)
    assert [(f.format, f.split) for f in inspect(tmp_path).files] == [("lightgcn", "test"), ("lightgcn", "train")]
    with pytest.raises(InputError, match="takes neither: lightgcn has users and items alone"):
        inspect(tmp_path, columns={"time": "t"})


def test_parts_cover_each_file_once(tmp_path: Path) -> None:
    text = file(tmp_path, "user_id,item_id\n" + "1,2\n" * 100)
    parts = inspect(text).parts(part_bytes=64)
    assert len(parts) > 3
    assert [p.start for p in parts] == [parts[0].file.data_start, *(p.stop for p in parts[:-1])]
    assert parts[-1].stop == parts[0].file.bytes
    groups = table(tmp_path, row_group_size=10, user_id=list(range(100)), item_id=list(range(100)))
    assert [(p.start, p.stop) for p in inspect(groups).parts(part_rows=25)] == [(0, 3), (3, 6), (6, 9), (9, 10)]


def test_numbers_and_dates_in_different_files_are_refused(tmp_path: Path) -> None:
    table(tmp_path, "a.parquet", user_id=[1], item_id=[1], t=[5])
    table(tmp_path, "b.parquet", user_id=[1], item_id=[1], t=pa.array([5], pa.timestamp("s")))
    with pytest.raises(InputError, match="'t' is numbers in some files and dates in others"):
        inspect(tmp_path, columns={"time": "t"})
