"""Whole preparations, done at once and without Ray: what the manifest lists, what no task exceeds, which faults are borne."""

from __future__ import annotations

import errno
import gzip
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from components import storage
from components.data import cleaning, locations, readers, reading, shards, sources
from components.data.files import Part
from components.data.lines import Lines
from components.data.locations import StorageError
from components.data.manifest import WORK
from components.errors import InputError
from ray_jobs import _dataflow
from ray_jobs._dataflow import Sizes
from tests import inline as inlined
from tests.inline import inline
from tests.integration.preparing import RULES, SMALL, contents, prepare, recipe, write_log


def test_the_manifest_lists_what_was_written_as_it_is(tmp_path: Path) -> None:
    with inline():
        folder, manifest = prepare(write_log(tmp_path / "log.csv"), tmp_path, **RULES)
    found = {str(path.relative_to(folder)): storage.entry(path) for path in folder.rglob("*") if path.is_file()}
    del found[storage.MANIFEST]
    assert manifest["files"] == found
    assert {name.partition("/")[0] for name in found} >= {"quarantine", "train", "users.parquet", "items.parquet", "report"}
    assert not (folder / WORK).exists()


def test_work_that_is_left_behind_the_manifest_is_removed(tmp_path: Path) -> None:
    """Of a process that was killed just then."""
    lines: list[str] = []
    with inline():
        folder, _ = prepare(write_log(tmp_path / "log.csv"), tmp_path, **RULES)
        (folder / WORK / "rows").mkdir(parents=True)
        (folder / WORK / "rows" / "00000.arrow").write_bytes(b"left")
        _dataflow.prepare(recipe(tmp_path / "log.csv", tmp_path, **RULES), lines.append, SMALL)
    assert lines == [f"{folder}: current, nothing to do"]
    assert not (folder / WORK).exists()
    assert contents(folder)


@pytest.mark.parametrize("passes", [True, False])
def test_a_fault_that_passes_in_mid_file_costs_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: bool) -> None:
    """Every part fails once behind its first lines, as a network's file system may; put aside, its file would be missing."""
    log = write_log(tmp_path / "log.csv")
    lines_of, failed = readers.lines_of, set[int]()

    def faulty(part: Part) -> Iterator[Lines]:
        yield from lines_of(part)
        if part.index not in failed or not passes:
            failed.add(part.index)
            raise OSError(errno.ETIMEDOUT, "Connection timed out")

    monkeypatch.setattr(locations, "PAUSE_SECONDS", 0.0)
    with inline():
        undisturbed, _ = prepare(log, tmp_path / "apart", **RULES)
        monkeypatch.setattr(readers, "lines_of", faulty)
        if passes:
            assert contents(prepare(log, tmp_path, **RULES)[0]) == contents(undisturbed)
            assert len(failed) > 3
            return
        message = "^data.source: got no data in 4 tries, takes a storage that answers: .*Connection timed out"
        with pytest.raises(StorageError, match=message):
            prepare(log, tmp_path, on_bad_file="quarantine", **RULES)


@pytest.mark.parametrize("rows", [200_000, 1_000_000, 5_000_000, 8_500_000, 9_000_000, 100_000_000, 10**9])
def test_no_task_is_made_for_more_than_an_eighth(rows: int) -> None:
    """What is kept before it is written with a block that is read, and a shard of users that are alike."""
    sizes = Sizes().of(rows)
    assert 0 < sizes.part_rows + min(sizes.part_rows, readers.BLOCK_ROWS) <= rows / 8
    assert 0 < rows / sizes.shards(rows) <= min(rows / 16, Sizes().rows_per_shard)
    assert sizes.part_bytes <= rows * sources.BYTES_PER_ROW / 16


@pytest.mark.parametrize("name", ["one.csv.gz", "one.parquet", "16.parquet"])
def test_no_task_holds_more_than_an_eighth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Of one compressed file, one row group, many files: rows at once while reading, and rows of a shard."""
    rows, held, taken = 40_000, list[int](), list[int]()
    random = np.random.default_rng(0)
    log = pl.DataFrame({"user_id": random.integers(0, 2000, rows), "item_id": random.integers(0, 300, rows)})
    (tmp_path / "log").mkdir()
    if name == "one.csv.gz":
        (tmp_path / "log" / name).write_bytes(gzip.compress(log.write_csv().encode(), 1))
    else:
        for n in range(count := 16 if name == "16.parquet" else 1):
            log[n * rows // count : (n + 1) * rows // count].write_parquet(tmp_path / "log" / f"{n}.parquet")
    collect, add = shards.collect, reading._Pieces.add

    def adds(pieces: Any, table: pa.Table) -> None:
        held.append(pieces._rows + table.num_rows)
        add(pieces, table)

    def collects(*arguments: Any) -> Any:
        taken.append((found := collect(*arguments)).taken)
        return found

    monkeypatch.setattr(reading._Pieces, "add", adds)
    monkeypatch.setattr(shards, "collect", collects)
    with inline():
        _, manifest = prepare(tmp_path / "log", tmp_path, Sizes(rows_per_shard=40_000), split={"by": "leave_one_out"})
    assert (manifest["counts"]["kept"], sum(taken)) == (rows, rows)
    assert max(held) <= rows / 8
    assert max(taken) <= rows / 8
    assert len(taken) >= 16


def through_the_driver(folder: Path, length: int) -> int:
    """Bytes of all that is put into the object store and that tasks return, of a log whose ids have so many characters."""
    folder.mkdir()
    random, sent = np.random.default_rng(0), [0]
    numbers = {"user_id": random.integers(0, 200, 8000), "item_id": random.integers(0, 100, 8000)}
    log = {name: [f"{number:0{length}d}" for number in column.tolist()] for name, column in numbers.items()}
    pl.DataFrame(log).write_parquet(folder / "log.parquet")

    class Told(inlined.Ref):
        def __init__(self, value: Any) -> None:
            super().__init__(value)
            sent[0] += len(pickle.dumps(value))

    iterate = inlined.Rows.iter_batches

    def batches(rows: inlined.Rows, **options: Any) -> Iterator[pa.Table]:
        for table in iterate(rows, **options):
            sent[0] += table.nbytes
            yield table

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(inlined, "Ref", Told)
        patched.setattr(inlined.Rows, "iter_batches", batches)
        with inline():
            _, manifest = prepare(folder / "log.parquet", folder, Sizes(rows_per_shard=2000), split={"by": "leave_one_out"})
    assert (manifest["num_users"], manifest["num_items"]) == (200, 100)
    return sent[0]


def test_no_id_goes_through_the_driver(tmp_path: Path) -> None:
    """What tasks get and return does not grow with the ids: nobody makes a dictionary of them there."""
    short, long = (through_the_driver(tmp_path / str(length), length) for length in (10, 210))
    assert short > 4000, "something was counted"
    assert abs(long - short) < 200 * 200 / 10, "a tenth of what the ids of the users alone grew by"


@pytest.mark.parametrize("rule", ["fail", "quarantine"])
def test_a_bad_file_ends_the_reading_where_it_is_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    """The second of a thousand: by name and at once, or put aside with the others read."""
    folder, read = tmp_path / "log", list[str]()
    folder.mkdir()
    for n in range(1001):
        (folder / f"{n:04d}.csv").write_text(f"user_id,item_id\n{n % 50},{n % 20}\n")
    (folder / "0001.csv.gz").write_bytes(gzip.compress(b"user_id,item_id\n" + np.random.default_rng(0).bytes(3 << 20))[:-2000])
    (folder / "0001.csv").unlink()
    clean_part = cleaning.clean_part

    def cleans(part: Part, *rest: Any) -> Any:
        read.append(part.file.path)
        return clean_part(part, *rest)

    monkeypatch.setattr(cleaning, "clean_part", cleans)
    rules: dict[str, Any] = {"on_bad_file": rule, "split": {"by": "leave_one_out"}}
    with inline():
        if rule == "fail":
            with pytest.raises(InputError, match=r"0001\.csv\.gz: not readable \(cut off\?\)"):
                prepare(folder, tmp_path, Sizes(), **rules)
            assert len(read) < 500
            return
        _, manifest = prepare(folder, tmp_path, Sizes(), **rules)
    assert list(manifest["bad_files"]) == [str(folder / "0001.csv.gz")]
    assert manifest["counts"]["read"] == 1000


GIVEN = {"by": "given"}
LEAKS = {
    "ratio": (RULES["split"], {"valid", "test"}),
    "leave_one_out": ({"by": "leave_one_out"}, {"valid", "test"}),
    "temporal": ({"by": "temporal"}, set()),
    "shifted": ({"by": "shifted"}, {"valid", "test", "test_gamma200", "test_gamma10", "test_gamma2", "valid_shifted"}),
    "given, before": (GIVEN, {"test"}),
    "given, after": (GIVEN, set()),
}


@pytest.mark.parametrize("name", LEAKS)
def test_every_split_that_leaks_time_is_warned_of(tmp_path: Path, name: str) -> None:
    """And of given ones those whose test is not behind their train."""
    split, leaking = LEAKS[name]
    lines: list[str] = []
    if split == GIVEN:
        times, later = np.arange(60), 20 if name == "given, before" else 60
        for file, start in (("train", 0), ("test", later)):
            log = {"user_id": times % 9, "item_id": times % 7, "rating": times % 7 + 2, "t": times + start}
            pl.DataFrame(log).write_csv(tmp_path / f"{file}.csv")
        source: Any = {file: str(tmp_path / f"{file}.csv") for file in ("train", "test")}
    else:
        source = write_log(tmp_path / "log.csv", rows=4000)
    with inline():
        rules = {**RULES, "k_core": {"users": 2, "items": 2}, "split": split}
        _dataflow.prepare(recipe(source, tmp_path, **rules), lines.append, SMALL)
    warned = [line for line in lines if line.startswith(f"warning: data.split.by: {split['by']} leaks time: ")]
    assert {line.split(": ")[3].split()[0] for line in warned} == leaking
