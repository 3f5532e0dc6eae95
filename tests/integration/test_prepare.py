"""The prepare program on a real local Ray: counts add up, bytes do not depend on the cluster, kills leave nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from components import config, storage
from components.config import Recipe
from components.data import interactions
from components.errors import InputError
from ray_jobs import _dataflow
from ray_jobs._dataflow import Sizes
from tests.logs import log

ROOT = Path(__file__).parents[2]
SMALL = Sizes(rows_per_shard=300, part_bytes=4000, part_rows=300)  # several of everything


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def recipe_text(source: Path, storage_path: Path, **data: Any) -> str:
    tree = {
        "name": "prepared",
        "data": {"source": str(source), **data},
        "encoder": {"name": "mf", "dim": 8},
        "loss": {"name": "sampled_softmax", "temperature": 0.2},
        "negatives": [{"name": "in_batch"}],
        "scale": {"storage_path": str(storage_path)},
    }
    return json.dumps(tree)


def recipe(source: Path, storage_path: Path, seed: int = 0, **data: Any) -> Recipe:
    return config.parse({**json.loads(recipe_text(source, storage_path, **data)), "seed": seed})


def prepare(source: Path, storage_path: Path, sizes: Sizes = SMALL, seed: int = 0, **data: Any) -> tuple[Path, dict[str, Any]]:
    folder = _dataflow.prepare(recipe(source, storage_path, seed, **data), report=lambda line: None, sizes=sizes)
    manifest = storage.open_finished(folder, "dataset")
    check_layout(folder, manifest)
    return folder, manifest


def check_layout(folder: Path, manifest: dict[str, Any]) -> None:
    """What everybody who reads a dataset relies on."""
    counts = manifest["counts"]
    refused, filtered = sum(counts["quarantined"].values()), sum(counts["filtered"].values())
    assert counts["read"] == counts["kept"] + filtered + refused
    assert counts["kept"] == counts["left"] + counts["repeats"] + counts["k_core"]
    assert counts["left"] == sum(manifest["rows"].values())
    quarantine = folder / "quarantine"
    assert refused == (pq.read_table(quarantine).num_rows if quarantine.exists() else 0)
    for kind, number in (("users", manifest["num_users"]), ("items", manifest["num_items"])):
        table = parts(folder / f"{kind}.parquet")
        assert table["id"].to_list() == list(range(number))
        assert table["raw"].n_unique() == number
    for split, number in manifest["rows"].items():
        table = parts(folder / split)
        assert len(table) == number
        assert table["user"].is_sorted()
        if manifest["has_time"] and number:
            assert table.group_by("user").agg(pl.col("time").is_sorted())["time"].all()
        else:
            assert "time" not in table.columns or manifest["has_time"]
    hidden = [path for path in folder.rglob("*") if path.name.startswith(".")]
    assert not hidden, "work and locks are gone"


def parts(folder: Path) -> pl.DataFrame:
    """Part files in the order of their names."""
    files = sorted(folder.glob("*.parquet"))
    assert files, f"{folder} has part files"
    return pl.concat([pl.read_parquet(path) for path in files])


def raw_rows(folder: Path, split: str) -> list[tuple[Any, ...]]:
    """A split with the source's own ids, sorted."""
    users, items = (parts(folder / f"{kind}.parquet")["raw"] for kind in ("users", "items"))
    rows = parts(folder / split)
    columns = [users.gather(rows["user"]), items.gather(rows["item"])] + ([rows["time"]] if "time" in rows.columns else [])
    return sorted(zip(*(column.to_list() for column in columns), strict=True))


def contents(folder: Path) -> dict[str, str]:
    return {name: entry["sha256"] for name, entry in storage.read_json(folder / storage.MANIFEST)["files"].items()}


def write_log(path: Path, rows: int = 1500, seed: int = 0) -> Path:
    """Users uniform over 80, items by Zipf's law (exponent 1) over 60, with repeats, faults and low ratings."""
    random = np.random.default_rng(seed)
    law = 1 / np.arange(1, 61)
    users, items = random.integers(0, 80, rows), random.choice(60, rows, p=law / law.sum())
    ratings, times = random.integers(1, 6, rows), random.integers(0, 500, rows)
    lines = [f"u{u:03d},{i},{r},{t}" for u, i, r, t in zip(users, items, ratings, times, strict=True)]
    lines[7], lines[900], lines[1400] = "u001,5,bad,1", "u001,5", ",5,5,1"
    path.write_text("user_id,item_id,rating,t\n" + "\n".join(lines) + "\n")
    return path


RULES = {
    "columns": {"time": "t"},
    "keep": [{"column": "rating", "at_least": 2}],
    "k_core": {"users": 4, "items": 5},
    "split": {"by": "ratio", "valid": 0.1, "test": 0.2, "order": "random"},
}


def reference_core(path: Path) -> set[tuple[str, str, int]]:
    """The same rules in plain polars: first repeats in (time, line) order, then the k-core to a fixpoint."""
    frame = pl.read_csv(path, infer_schema=False, truncate_ragged_lines=True).with_row_index()
    frame = frame.filter(pl.col("t").is_not_null() & pl.col("user_id").is_not_null() & (pl.col("rating") != "bad"))
    frame = frame.with_columns(pl.col("t").cast(pl.Int64)).filter(pl.col("rating").cast(pl.Int64) >= 2)
    frame = frame.sort("t", "index").unique(["user_id", "item_id"], keep="first", maintain_order=True)
    while True:
        left = frame.filter((pl.len().over("user_id") >= 4) & (pl.len().over("item_id") >= 5))
        if len(left) == len(frame):
            return set(left.select("user_id", "item_id", "t").iter_rows())
        frame = left


def test_a_dataset_is_what_the_rules_say(cluster: None, tmp_path: Path) -> None:
    source = write_log(tmp_path / "log.csv")
    folder, manifest = prepare(source, tmp_path, **RULES)
    found = [row for split in ("train", "valid", "test") for row in raw_rows(folder, split)]
    assert len(found) == len(set(found))
    assert set(found) == reference_core(source)
    assert manifest["counts"]["quarantined"] == {
        "rating is not a number": 1,
        "user_id is empty": 1,
        "wrong number of fields (the header has 4)": 1,
    }
    refused = pq.read_table(folder / "quarantine").sort_by("line").to_pylist()
    assert [(r["line"], r["raw"]) for r in refused] == [(9, "u001,5,bad,1"), (902, "u001,5"), (1402, ",5,5,1")]
    assert len(list((folder / "train").iterdir())) > 1, "several shards"
    degrees = Counter(item for _, item, _ in raw_rows(folder, "train"))
    items = parts(folder / "items.parquet")
    assert dict(zip(items["raw"], items["degree"], strict=True)) == {item: degrees[item] for item in items["raw"]}


def test_training_reads_what_was_prepared(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDNEG_CACHE", str(tmp_path / "cache"))
    folder, manifest = prepare(write_log(tmp_path / "log.csv"), tmp_path, **RULES)
    train = interactions.load(folder, "train")
    assert (train.num_users, train.num_items, len(train)) == (
        manifest["num_users"],
        manifest["num_items"],
        manifest["rows"]["train"],
    )
    assert train.item_degrees().tolist() == parts(folder / "items.parquet")["degree"].to_list()
    assert np.diff(train.offsets).tolist() == parts(folder / "users.parquet")["degree"].to_list()
    assert len(interactions.load(folder, "train", "valid")) == manifest["rows"]["train"] + manifest["rows"]["valid"]


def test_a_second_run_says_that_it_is_current(cluster: None, tmp_path: Path) -> None:
    first = recipe(write_log(tmp_path / "log.csv"), tmp_path, **RULES)
    folder = _dataflow.prepare(first, report=lambda line: None)
    written = (folder / storage.MANIFEST).stat().st_mtime_ns
    lines: list[str] = []
    assert _dataflow.prepare(first, report=lines.append) == folder
    assert lines == [f"{folder}: current, nothing to do"]
    assert (folder / storage.MANIFEST).stat().st_mtime_ns == written


def test_the_fingerprint_covers_rules_source_and_a_seed_that_draws(tmp_path: Path) -> None:
    source = write_log(tmp_path / "log.csv")
    path = _dataflow.dataset_path(recipe(source, tmp_path, **RULES))
    assert path == _dataflow.dataset_path(recipe(source, tmp_path, **RULES))
    assert path != _dataflow.dataset_path(recipe(source, tmp_path, seed=1, **RULES))
    assert path != _dataflow.dataset_path(recipe(source, tmp_path, **{**RULES, "repeats": "last"}))
    by_time = {**RULES, "split": {"by": "leave_one_out"}}
    assert _dataflow.dataset_path(recipe(source, tmp_path, **by_time)) == _dataflow.dataset_path(
        recipe(source, tmp_path, seed=1, **by_time)
    )
    os.utime(source, (1, 1))
    assert path != _dataflow.dataset_path(recipe(source, tmp_path, **RULES))


def test_bytes_depend_neither_on_the_cuts_of_reading_nor_on_who_comes_first(cluster: None, tmp_path: Path) -> None:
    source = write_log(tmp_path / "log.csv")
    one, _ = prepare(source, tmp_path / "one", **RULES)
    other, _ = prepare(source, tmp_path / "other", Sizes(rows_per_shard=300, part_bytes=1 << 20), **RULES)
    same = {name: digest for name, digest in contents(one).items() if not name.startswith("quarantine")}
    assert same.items() <= contents(other).items()


def test_a_random_split_does_not_depend_on_the_shards(cluster: None, tmp_path: Path) -> None:
    source = write_log(tmp_path / "log.csv")
    many, _ = prepare(source, tmp_path / "many", **RULES)
    one, _ = prepare(source, tmp_path / "one", Sizes(), **RULES)
    for split in ("train", "valid", "test"):
        assert raw_rows(many, split) == raw_rows(one, split)


def test_every_row_filtered_shows_the_counts_and_leaves_nothing(cluster: None, tmp_path: Path) -> None:
    source = write_log(tmp_path / "log.csv")
    with pytest.raises(
        InputError, match=r"(?s)no row is left after cleaning: read 1500, kept 0.*1497 fail 'rating at least 6'"
    ):
        prepare(source, tmp_path, keep=[{"column": "rating", "at_least": 6}])
    with pytest.raises(InputError, match=r"(?s)no row is left after k-core: read 1500, kept 1498.*k-core round 1: 0 users"):
        prepare(source, tmp_path, k_core={"users": 100})
    assert not [path for path in (tmp_path / "datasets").rglob("*") if path.is_file()]


def test_a_given_split_without_train_rows_shows_the_counts(cluster: None, tmp_path: Path) -> None:
    source = tmp_path / "log.csv"
    source.write_text("user_id,item_id,split\n1,2,test\n1,3,training\n")
    with pytest.raises(
        InputError, match=r"(?s)no row is left after cleaning that is in train: read 2, kept 1.*1 because split is"
    ):
        prepare(source, tmp_path, split={"by": "given"})


def test_a_user_with_one_row_trains_under_leave_one_out(cluster: None, tmp_path: Path) -> None:
    source = tmp_path / "log.parquet"
    pq.write_table(pa.table({"user_id": [1, 2, 2, 3, 3, 3], "item_id": [1, 1, 2, 1, 2, 3], "t": [0, 5, 1, 9, 8, 7]}), source)
    folder, manifest = prepare(source, tmp_path, columns={"time": "t"}, split={"by": "leave_one_out"})
    assert raw_rows(folder, "train") == [(1, 1, 0), (2, 1, 5), (2, 2, 1), (3, 3, 7)]
    assert raw_rows(folder, "valid") == [(3, 2, 8)]
    assert raw_rows(folder, "test") == [(3, 1, 9)]
    assert manifest["statistics"]["users_with_one_row"] == 1


def test_lightgcn_files_and_titles(cluster: None, tmp_path: Path) -> None:
    source = tmp_path / "graph"
    source.mkdir()
    (source / "train.txt").write_text("0 10 11\n1 11 12\n")
    (source / "test.txt").write_text("0 12\n1\n2 13\n")
    (tmp_path / "names.csv").write_text('id,name\n11,"Eleven, the"\n13,Thirteen\n')
    titles = {"source": str(tmp_path / "names.csv"), "item": "id", "title": "name"}
    folder, manifest = prepare(source, tmp_path, split={"by": "given"}, titles=titles)
    assert raw_rows(folder, "test") == [("0", "12"), ("2", "13")]
    assert parts(folder / "items.parquet")["title"].to_list() == [None, "Eleven, the", None, "Thirteen"]
    assert manifest["statistics"]["cold_rows"] == {"valid": 0, "test": 1}
    assert manifest["statistics"]["items_with_title"] == 2


def test_a_file_whose_middle_is_broken_is_named(cluster: None, tmp_path: Path) -> None:
    source = tmp_path / "log.parquet"
    pq.write_table(pa.table({"user_id": np.arange(9999), "item_id": np.arange(9999)}), source, use_dictionary=False)
    content = bytearray(source.read_bytes())
    content[4:400] = b"\xff" * 396
    source.write_bytes(content)
    with pytest.raises(InputError, match=r"log\.parquet: not a readable Parquet file"):
        prepare(source, tmp_path)


def test_a_source_that_changes_while_it_is_read_is_refused(cluster: None, tmp_path: Path) -> None:
    source = write_log(tmp_path / "log.csv")
    with pytest.raises(InputError, match=r"log\.csv or a file beside it changed while it was read"):
        _dataflow.prepare(recipe(source, tmp_path, **RULES), report=lambda line: os.utime(source, (1, 1)))
    assert not list((tmp_path / "datasets").rglob("manifest.json"))


def test_two_runs_at_once_are_refused_with_the_owners_name(cluster: None, tmp_path: Path) -> None:
    rules = recipe(write_log(tmp_path / "log.csv"), tmp_path, **RULES)
    with (
        storage.lock(_dataflow.dataset_path(rules)),
        pytest.raises(InputError, match=rf"locked by \S+ \(process {os.getpid()} on "),
    ):
        _dataflow.prepare(rules, report=lambda line: None)


def test_what_a_crashed_run_left_is_cleared(cluster: None, tmp_path: Path) -> None:
    source = write_log(tmp_path / "log.csv")
    folder = _dataflow.dataset_path(recipe(source, tmp_path, **RULES))
    for name in ("quarantine/part-00099.parquet", "train/part-00099.parquet", ".work/pieces/00099.arrow"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"half")
    found, _ = prepare(source, tmp_path, **RULES)
    assert found == folder
    assert not [name for name in contents(folder) if "99" in name.split("/")[-1]]


# the program --------------------------------------------------------------------------------------------------------


def program(recipe_file: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ray_jobs.prepare", str(recipe_file), *arguments]
    own = {**os.environ, "RAY_AUTH_MODE": "disabled", **environment}
    own.pop("RAY_ADDRESS", None)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=own, text=True, start_new_session=True, **pipes)  # pyright: ignore


def test_a_mistake_is_one_message_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe_text(tmp_path / "nowhere.csv", tmp_path))
    run = program(tmp_path / "recipe.yaml")
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 2
    assert errors == f"error: data.source: {tmp_path}/nowhere.csv: no such file or folder\n"


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pieces", "rows", "codes"])
def test_a_killed_run_leaves_nothing_that_looks_finished(cluster: None, tmp_path: Path, stage: str) -> None:
    source = write_log(tmp_path / "log.csv", rows=200_000)
    text = recipe_text(source, tmp_path / "store", **RULES)
    (tmp_path / "recipe.yaml").write_text(text)
    folder = _dataflow.dataset_path(config.load(tmp_path / "recipe.yaml"))
    run = program(tmp_path / "recipe.yaml")
    deadline = time.monotonic() + 60
    while not list((folder / ".work" / stage).glob("*")) and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    assert run.returncode == -signal.SIGKILL, "it was killed midway"
    assert not storage.is_finished(folder)
    undisturbed, _ = prepare(source, tmp_path / "apart", Sizes(), **RULES)
    time.sleep(3)  # the killed program's Ray notices
    again = _dataflow.prepare(config.load(tmp_path / "recipe.yaml"), report=lambda line: None)
    assert again == folder
    assert contents(again) == contents(undisturbed)


@pytest.mark.slow
def test_workers_that_die_change_nothing(cluster: None, tmp_path: Path) -> None:
    source = write_log(tmp_path / "log.csv", rows=200_000)
    sizes = Sizes(rows_per_shard=20_000, part_bytes=200_000)
    undisturbed, _ = prepare(source, tmp_path / "apart", sizes, **RULES)
    killed: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(prepare, source, tmp_path / "store", sizes, **RULES)
        while not running.done():
            killed += kill_a_working_worker() if len(killed) < 3 else []
            time.sleep(0.01)
    assert killed, "a worker died while it worked"
    assert contents(running.result()[0]) == contents(undisturbed)


def kill_a_working_worker() -> list[int]:
    names = ("_read_part", "collect", "merge", "encode", "count", "finish")
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            title = " ".join(process.cmdline())
            if title.startswith("ray::") and any(name in title for name in names):
                process.kill()
                return [process.pid]
    return []


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_number_of_cpus(cluster: None, tmp_path: Path) -> None:
    source = write_log(tmp_path / "log.csv")
    two, _ = prepare(source, tmp_path / "two", **RULES)
    script = (
        "import ray, sys; from ray_jobs import _dataflow; from components import config\n"
        "ray.init(address='local', num_cpus=int(sys.argv[2]), include_dashboard=False, log_to_driver=False)\n"
        "sizes = _dataflow.Sizes(rows_per_shard=300, part_bytes=4000, part_rows=300)\n"
        "_dataflow.prepare(config.load(sys.argv[1]), sizes=sizes)"
    )
    (tmp_path / "recipe.yaml").write_text(recipe_text(source, tmp_path / "one", **RULES))
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "recipe.yaml"), "1"], cwd=ROOT, check=True, timeout=120)
    one = _dataflow.dataset_path(config.load(tmp_path / "recipe.yaml"))
    assert contents(one) == contents(two)


# real logs ----------------------------------------------------------------------------------------------------------


def test_gowalla_is_the_published_split(cluster: None, tmp_path: Path) -> None:
    folder, manifest = prepare(log("gowalla_lightgcn"), tmp_path, Sizes(), split={"by": "given"})
    assert (manifest["num_users"], manifest["num_items"]) == (29_858, 40_981)
    assert manifest["rows"] == {"train": 810_128, "valid": 0, "test": 217_242}
    assert parts(folder / "users.parquet")["raw"].dtype == pl.Int64


def test_online_retail_goes_through_with_every_row_accounted_for(cluster: None, tmp_path: Path) -> None:
    source = log("online_retail_uci")
    rules = {"columns": {"time": "timestamp"}, "keep": [{"column": "quantity", "above": 0}], "split": {"by": "leave_one_out"}}
    folder, manifest = prepare(source, tmp_path, Sizes(), **rules)
    frame = pl.read_parquet(source)
    known = frame.filter(pl.col("user_id").is_not_null())
    bought = known.filter(pl.col("quantity") > 0)
    counts = manifest["counts"]
    assert counts["read"] == len(frame) == 541_909
    assert counts["quarantined"] == {"user_id is null": len(frame) - len(known)}
    assert counts["filtered"] == {"quantity above 0": len(known) - len(bought)}
    assert counts["left"] == bought.select("user_id", "item_id").n_unique()
    refused = pq.read_table(folder / "quarantine")
    assert json.loads(refused["raw"][0].as_py())["user_id"] is None
    row = frame.row(refused["line"][0].as_py() - 1, named=True)
    assert json.loads(refused["raw"][0].as_py()) == {name: row[name] for name in json.loads(refused["raw"][0].as_py())}


def test_ids_with_leading_zeros_stay_text(cluster: None, tmp_path: Path) -> None:
    source = log("movietweetings_100k")
    folder, manifest = prepare(source, tmp_path, Sizes(), columns={"time": "timestamp"}, k_core={"users": 5, "items": 5})
    items = set(parts(folder / "items.parquet")["raw"])
    assert items < set(pl.read_parquet(source)["item_id"])
    assert any(item.startswith("0") for item in items)
    assert manifest["has_time"]


def test_further_tests_of_a_given_split_are_splits_of_their_own(cluster: None, tmp_path: Path) -> None:
    source = log("advinfonce_coat")
    folder, manifest = prepare(source, tmp_path, split={"by": "given"})
    expected = dict(pl.read_parquet(source)["split"].value_counts().iter_rows())
    assert manifest["rows"] == {"test": 0, **expected}
    assert raw_rows(folder, "test_id") == raw_rows(folder, "test_ood")
    assert manifest["counts"]["repeats"] == 0
