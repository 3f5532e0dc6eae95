"""Reading in one process: pieces of the shuffle, of which no more than one is held, whatever the size of a file."""

from __future__ import annotations

import gzip
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.config import Data
from components.data import cleaning, lines, partitions, readers, reading, sources
from components.data.partitions import Fan
from components.data.reading import Reading
from components.data.sources import SourcePlan
from tests.unit.data.cleaned import file

BLOCK = 500
ROWS = 20_000


def plan_of(source: Path) -> tuple[SourcePlan, Data]:
    data = Data.model_validate({"source": str(source), "keep": [{"column": "r", "at_least": 0}]})
    return sources.inspect(data), data


def read(source: Path, work: Path, piece_rows: int, shards: int = 3, most: int = 3) -> tuple[dict[str, Any], Reading]:
    """All of the source as the parts of one task."""
    plan, data = plan_of(source)
    job = Reading(data, plan.bare(), work, Fan(shards, most), piece_rows)
    with reading.gate(job):
        return reading.read(0, plan.parts(), job), job


def one_row_group(path: Path, rows: int) -> Path:
    random = np.random.default_rng(0)
    columns = {name: random.integers(0, 1 << 62, rows) for name in ("user_id", "item_id", "r")}  # which do not compress
    pq.write_table(pa.table(columns), path, row_group_size=rows, use_dictionary=False, compression="none")
    return path


def one_gzip(path: Path, rows: int) -> Path:
    text = "\n".join(["user_id,item_id,r", *(f"{n % 977},{n},{n % 5 - 1}" for n in range(rows))])
    path.write_bytes(gzip.compress(text.encode()))
    return path


@pytest.mark.parametrize("make", [one_row_group, one_gzip])
def test_the_largest_table_of_one_big_file_is_a_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    monkeypatch.setattr(readers, "BLOCK_ROWS", BLOCK)
    monkeypatch.setattr(lines, "BLOCK_BYTES", 5 * BLOCK)  # lines have more than five bytes
    held: list[int] = []
    write = partitions.write
    monkeypatch.setattr(partitions, "write", lambda table, *rest: held.append(table.num_rows) or write(table, *rest))
    source = make(tmp_path / ("log.parquet" if make is one_row_group else "log.csv.gz"), ROWS)
    found, job = read(source, tmp_path, piece_rows=2 * BLOCK)
    assert len(plan_of(source)[0].parts()) == 1, "one task has to read it all"
    assert len(found["pieces"]) == len(held) >= ROWS * 0.7 / (3 * BLOCK)
    assert max(held) < 3 * BLOCK
    counts = found["parts"][0]["counts"]
    assert (counts["read"], sum(held)) == (ROWS, counts["kept"])
    tables = [partitions.read_all(job.work / "pieces" / name) for name in found["pieces"]]
    items = [item for table in tables for item in table["item"].to_pylist()]
    assert len(set(items)) == len(items) == counts["kept"], "each row once"


def test_memory_does_not_grow_with_a_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BLOCK_ROWS", 4096)
    monkeypatch.setattr(readers, "BUFFER_BYTES", 1 << 14)
    peaks = []
    before = pa.default_memory_pool()
    for rows in (100_000, 800_000):
        source = one_row_group(tmp_path / f"{rows}.parquet", rows)
        pool = pa.proxy_memory_pool(before)
        pa.set_memory_pool(pool)
        try:
            read(source, tmp_path / str(rows), piece_rows=8192)
        finally:
            pa.set_memory_pool(before)
        peaks.append(pool.max_memory())
    assert 0 < peaks[1] < 1.5 * peaks[0], peaks


def test_refused_rows_are_written_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 100)
    source = file(tmp_path, "user_id,item_id,r\n" + "".join(f"{n},{n},{'x' if n % 3 else n}\n" for n in range(300)))
    found, job = read(source, tmp_path, piece_rows=1000)
    refused = pq.ParquetFile(reading.refused(job.work, 0))
    assert refused.num_row_groups > 10
    assert refused.read()["line"].to_pylist() == [n + 1 for n in range(300) if n % 3]
    assert found["parts"][0]["counts"]["quarantined"] == {"r is not a number": 200}


def test_a_task_with_a_bad_file_says_so_and_has_no_pieces(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    one_row_group(tmp_path / "log" / "0.parquet", 50)
    bad = one_row_group(tmp_path / "log" / "1.parquet", 5000)
    plan, data = plan_of(tmp_path / "log")
    bad.write_bytes(bad.read_bytes()[:9000])
    job = Reading(data, plan.bare(), tmp_path, Fan(1, 1), 10)
    with reading.gate(job):
        found = reading.read(0, plan.parts(), job)
    assert list(found) == ["bad"]
    assert list(found["bad"]) == [str(bad)]


@pytest.mark.parametrize("shards", [1, 2, 5, 8, 17, 100, 256, 257, 1000])
@pytest.mark.parametrize("most", [1, 2, 256])
def test_every_shard_has_a_place_and_opens_few_files(shards: int, most: int) -> None:
    fan = Fan(shards, most)
    places = {(shard // fan.width, shard % fan.width) for shard in range(shards)}
    assert len(places) == shards
    assert max(group for group, _ in places) == fan.groups - 1
    pieces = shards
    if fan.width == 1:
        assert fan.groups == shards
    else:
        runs = -(-pieces // fan.width)
        gathering, collecting = fan.groups * pieces, shards * runs
        assert gathering + collecting <= 2 * shards**1.5 + 3 * shards


def test_rows_gathered_in_two_steps_are_those_of_one(tmp_path: Path) -> None:
    source = one_row_group(tmp_path / "log.parquet", 3000)
    direct, one = read(source, tmp_path / "one", 400, shards=7, most=7)
    grouped, two = read(source, tmp_path / "two", 400, shards=7, most=2)
    assert (one.fan.width, two.fan.width) == (1, 3)
    for shard in range(7):
        wanted = pa.concat_tables([partitions.read(one.work / "pieces" / name, shard) for name in direct["pieces"]])
        group, place = shard // two.fan.width, shard % two.fan.width
        path = tmp_path / f"{shard}.arrow"
        reading.gather([two.work / "pieces" / name for name in grouped["pieces"]], group, two.fan, path)
        assert wanted.num_rows
        assert partitions.read(path, place).equals(wanted)


def test_the_gate_closes_behind_the_last_task_and_lets_none_in_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, data = plan_of(one_row_group(tmp_path / "log.parquet", 50))
    job = Reading(data, plan.bare(), tmp_path, Fan(1, 1), 10)
    begun, go_on = threading.Event(), threading.Event()
    clean_part = cleaning.clean_part

    def slowly(*arguments: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return clean_part(*arguments)

    monkeypatch.setattr(cleaning, "clean_part", slowly)
    with ThreadPoolExecutor(2) as pool:
        opened = reading.gate(job)
        opened.__enter__()
        task = pool.submit(reading.read, 0, plan.parts(), job)
        assert begun.wait(30)
        closing = pool.submit(opened.__exit__, None, None, None)
        with pytest.raises(TimeoutError):
            closing.result(0.3)
        go_on.set()
        closing.result(30)
        assert task.result(30)["pieces"]
    with pytest.raises(FileNotFoundError):
        reading.read(0, plan.parts(), job)
