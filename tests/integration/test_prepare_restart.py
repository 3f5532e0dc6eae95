"""Prepare, interrupted or out of room: what is finished is not done again, nothing runs on, and the bytes are the same."""

from __future__ import annotations

import errno
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from components import storage
from components.config import Recipe
from components.data.manifest import WORK, dataset_path
from components.errors import FullError
from ray_jobs import _dataflow, _tasks
from ray_jobs._dataflow import Sizes
from ray_jobs._tasks import Stage
from tests.integration.preparing import RULES, SMALL, contents, prepare, raw_rows, recipe, write_log

STAGES = ("read", "gather", "collect", "vocabulary", "k-core", "cut", "write", "items")
EVERY = {**RULES, "split": {"by": "temporal", "valid": 0.2, "test": 0.2}}  # has every stage
GATHERED = Sizes(rows_per_shard=300, part_bytes=4000, part_rows=300, opened=2)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("restarted") / "log.csv", rows=4000)


@pytest.fixture(scope="module")
def undisturbed(cluster: None, log: Path) -> dict[str, str]:
    return contents(prepare(log, log.parent, GATHERED, **EVERY)[0])


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """What a file would not keep if it were written again."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def interrupted(given: Recipe, behind: str, sizes: Sizes) -> list[str]:
    """Runs until a stage has told its last line; the stages that were finished before."""
    before: list[str] = []

    def report(line: str) -> None:
        before.extend([line.split()[0]] if line.endswith("was finished before") else [])
        if line.startswith(f"{behind:<10} ") and line.endswith(" s)"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _dataflow.prepare(given, report, sizes)
    return before


def test_a_run_interrupted_behind_every_stage_does_none_twice(tmp_path: Path, log: Path, undisturbed: dict[str, str]) -> None:
    given = recipe(log, tmp_path, **EVERY)
    folder = dataset_path(given)
    seen: dict[str, tuple[int, int]] = {}
    for n, stage in enumerate(STAGES):
        assert interrupted(given, stage, GATHERED) == list(STAGES[:n])
        assert not storage.is_finished(folder)
        assert not (folder / storage.LOCK).exists()
        now = files(folder)
        rewritten = [name for name in seen.keys() & now.keys() if now[name] != seen[name]]
        assert not rewritten, f"written again on the way to {stage}"
        assert now.keys() - seen.keys(), f"{stage} left something"
        seen = now
    lines: list[str] = []
    _dataflow.prepare(given, lines.append, GATHERED)
    done = [line.split()[0] for line in lines if line.endswith(" s)")]
    assert done == ["report"], "all that was left was to write the report and the manifest"
    now = files(folder)
    assert all(now[name] == seen[name] for name in now if name in seen)
    assert contents(folder) == undisturbed
    assert not (folder / WORK).exists()


def test_gathering_in_two_steps_gives_the_same_bytes(tmp_path: Path, log: Path, undisturbed: dict[str, str]) -> None:
    assert contents(prepare(log, tmp_path, SMALL, **EVERY)[0]) == undisturbed


def test_other_sizes_begin_anew(tmp_path: Path, log: Path, undisturbed: dict[str, str]) -> None:
    given = recipe(log, tmp_path, **EVERY)
    interrupted(given, "collect", SMALL)
    assert interrupted(given, "read", GATHERED) == []
    assert contents(_dataflow.prepare(given, lambda line: None, GATHERED)) == undisturbed


@pytest.mark.parametrize("seed", range(3))
def test_an_interruption_in_mid_stage_ends_every_task(
    tmp_path: Path, cluster: None, log: Path, undisturbed: dict[str, str], seed: int
) -> None:
    given, seconds = recipe(log, tmp_path, **EVERY), random.Random(seed).uniform(0.1, 1.5)
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(seconds, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    try:
        _dataflow.prepare(given, lambda line: None, GATHERED)
    except KeyboardInterrupt:
        folder = dataset_path(given)
        assert not storage.is_finished(folder)
        left = files(folder)
        assert not [name for name in left if "/." in name.removeprefix(".")], "no halves"
        time.sleep(0.5)
        assert files(folder) == left, f"a task ran on after the interruption at {seconds:.2f} s"
    finally:
        timer.cancel()
    assert contents(_dataflow.prepare(given, lambda line: None, GATHERED)) == undisturbed


@pytest.mark.parametrize("last", [10, 600])
def test_what_runs_is_awaited_and_killed_where_it_does_not_end(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    monkeypatch.setattr(_tasks, "END_SECONDS", 60.0 if last == 10 else 3.0)
    path = tmp_path / "beats"

    def beat(times: int) -> None:
        for _ in range(times):
            with path.open("a") as file:
                file.write("x")
            time.sleep(0.05)

    with pytest.raises(ZeroDivisionError), Stage("beats", lambda line: None) as stage:
        for _ in stage.each(beat, [(last,), (1,), (last,)]):
            raise ZeroDivisionError
    beats = path.stat().st_size
    assert (beats == 2 * last + 1) == (last == 10)
    time.sleep(0.5)
    assert path.stat().st_size == beats


def test_a_task_that_fails_by_the_machines_fault_is_tried_again(cluster: None, tmp_path: Path) -> None:
    def fails_first(path: Path) -> int:
        if not path.exists():
            path.touch()
            raise OSError(errno.EIO, "Input/output error")
        return 7

    with Stage("tried", lambda line: None) as stage:
        assert sorted(stage.each(fails_first, [(tmp_path / name,) for name in "abc"])) == [(0, 7), (1, 7), (2, 7)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a small file system takes root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_one_error_and_with_room_it_goes_on(cluster: None, tmp_path: Path, small_disk: Path) -> None:
    source = write_log(tmp_path / "log.csv", rows=30_000)
    sizes = Sizes(rows_per_shard=5000, part_bytes=100_000)
    given = recipe(source, small_disk, **RULES)
    message = r"^scale\.storage_path: .*/small/.*: got a full disk \([\d,]+ bytes are free there\), takes more room; finished"
    with pytest.raises(FullError, match=message):
        _dataflow.prepare(given, lambda line: None, sizes)
    folder = dataset_path(given)
    assert [path.name for path in folder.iterdir() if path.name != "quarantine"] in ([], [WORK]), "no part of a dataset"
    assert not [name for name in files(folder) if "/." in name.removeprefix(".")], "no halves"
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    apart, _ = prepare(source, tmp_path / "apart", sizes, **RULES)
    assert contents(_dataflow.prepare(given, lambda line: None, sizes)) == contents(apart)


def test_every_stage_tells_how_far_it_is(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    monkeypatch.setattr(_tasks, "PROGRESS_SECONDS", 0.01)
    lines: list[str] = []
    pl.read_csv(log, infer_schema=False, truncate_ragged_lines=True).write_parquet(tmp_path / "log.parquet")
    _dataflow.prepare(recipe(tmp_path / "log.parquet", tmp_path, **EVERY), lines.append, GATHERED)
    for stage in STAGES:
        *running, last = [line for line in lines if line.startswith(f"{stage:<10} ")]
        assert last.endswith(" s)")
        assert running, f"{stage} tells nothing while it runs"
        assert all("/s" in line for line in running)
    for stage in ("read", "collect", "write"):
        assert any(line.startswith(stage) and line.endswith(" s left") for line in lines), stage
    assert any(" of 4,000 rows, " in line for line in lines if line.startswith("read "))


def test_every_file_is_accounted_for(cluster: None, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    rows: dict[str, dict[str, int]] = {}
    for n in range(3):
        lines = write_log(folder / f"{n}.csv", rows=1450 + n, seed=n).read_text().splitlines()[1:]
        ratings = [line.split(",")[2] for line in lines if line.count(",") == 3 and line[0] != ","]
        low, bad = ratings.count("1"), ratings.count("bad")
        rows[str(folder / f"{n}.csv")] = {"read": 1450 + n, "filtered": low, "kept": len(ratings) - low - bad}
    found, manifest = prepare(folder, tmp_path, **RULES)
    for file in manifest["by_file"]:
        assert file["read"] == file["kept"] + sum(file["filtered"].values()) + sum(file["quarantined"].values())
        assert {"read": file["read"], "filtered": sum(file["filtered"].values()), "kept": file["kept"]} == rows[file["file"]]
    assert len(manifest["by_file"]) == 3
    assert not (found / "files.parquet").exists()


def test_many_files_are_accounted_for_beside_the_manifest(cluster: None, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    frame: dict[str, Any] = {"user_id": [1, 2, 3], "item_id": [1, 1, None]}
    for n in range(120):
        pl.DataFrame(frame).write_parquet(folder / f"{n:03d}.parquet")
    found, manifest = prepare(folder, tmp_path, split=RULES["split"])
    assert manifest["by_file"] == "files.parquet"
    table = pl.DataFrame(pq.read_table(found / "files.parquet").to_pydict())
    assert table["file"].n_unique() == 120
    assert table.filter(pl.col("outcome") == "kept")["rows"].to_list() == [2] * 120
    assert set(table.filter(pl.col("outcome") == "quarantined").select("reason", "rows").rows()) == {("item_id is null", 1)}
    assert raw_rows(found, "train")
