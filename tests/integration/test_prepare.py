"""The prepare program on a real local Ray: counts add up, bytes do not depend on the cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import storage
from components.data import interactions
from components.data.manifest import dataset_path
from components.errors import InputError
from ray_jobs import _dataflow, _program
from ray_jobs._dataflow import Sizes
from tests.integration.preparing import (
    RULES,
    contents,
    parts,
    prepare,
    program,
    raw_rows,
    recipe,
    recipe_text,
    write_log,
)
from tests.logs import log


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
    path = dataset_path(recipe(source, tmp_path, **RULES))
    assert path == dataset_path(recipe(source, tmp_path, **RULES))
    assert path != dataset_path(recipe(source, tmp_path, seed=1, **RULES))
    assert path != dataset_path(recipe(source, tmp_path, **{**RULES, "repeats": "last"}))
    by_time = {**RULES, "split": {"by": "leave_one_out"}}
    assert dataset_path(recipe(source, tmp_path, **by_time)) == dataset_path(recipe(source, tmp_path, seed=1, **by_time))
    os.utime(source, (1, 1))
    assert path != dataset_path(recipe(source, tmp_path, **RULES))


def test_bytes_depend_neither_on_the_cuts_of_reading_nor_on_who_comes_first(cluster: None, tmp_path: Path) -> None:
    source = write_log(tmp_path / "log.csv")
    one, _ = prepare(source, tmp_path / "one", **RULES)
    other, _ = prepare(source, tmp_path / "other", Sizes(rows_per_shard=300, part_bytes=700), **RULES)
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


def test_a_source_that_changes_while_it_is_read_is_refused(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_log(tmp_path / "log.csv")
    monkeypatch.setattr(_program, "quiet_data", lambda: os.utime(source, (1, 1)))  # is called right before it is read
    with pytest.raises(InputError, match=r"log\.csv or a file beside it changed while it was read"):
        _dataflow.prepare(recipe(source, tmp_path, **RULES), report=lambda line: None)
    assert not list((tmp_path / "datasets").rglob("manifest.json"))


def test_two_runs_at_once_are_refused_with_the_owners_name(cluster: None, tmp_path: Path) -> None:
    rules = recipe(write_log(tmp_path / "log.csv"), tmp_path, **RULES)
    with (
        storage.lock(dataset_path(rules)),
        pytest.raises(InputError, match=rf"locked by \S+ \(process {os.getpid()} on "),
    ):
        _dataflow.prepare(rules, report=lambda line: None)


def test_what_a_crashed_run_left_is_cleared(cluster: None, tmp_path: Path) -> None:
    source = write_log(tmp_path / "log.csv")
    folder = dataset_path(recipe(source, tmp_path, **RULES))
    for name in ("quarantine/part-00099.parquet", "train/part-00099.parquet", ".work/pieces/00099.arrow"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"half")
    found, _ = prepare(source, tmp_path, **RULES)
    assert found == folder
    assert not [name for name in contents(folder) if "99" in name.split("/")[-1]]


def test_what_a_run_left_that_was_killed_with_its_manifest_written_is_cleared(cluster: None, tmp_path: Path) -> None:
    first = recipe(write_log(tmp_path / "log.csv"), tmp_path, **RULES)
    folder = _dataflow.prepare(first, report=lambda line: None)
    before = contents(folder)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (folder / ".work").mkdir()
    with storage.lock(folder):
        holder = storage.read_json(folder / storage.LOCK)
    storage.write_json(folder / storage.LOCK, {**holder, "pid": dead.pid})
    lines: list[str] = []
    assert _dataflow.prepare(first, lines.append) == folder
    assert lines == [f"{folder}: current, nothing to do"]
    assert not (folder / ".work").exists()
    assert contents(folder) == before


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


def test_a_mistake_is_one_message_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe_text(tmp_path / "nowhere.csv", tmp_path))
    run = program(tmp_path / "recipe.yaml")
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 2
    assert errors == f"error: data.source: {tmp_path}/nowhere.csv: no such file or folder\n"
