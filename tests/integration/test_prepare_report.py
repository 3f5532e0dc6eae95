"""The data report of a preparation on a real local Ray: part of the dataset, its numbers those of the source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from components import storage
from components.reports import data_plots, data_report
from ray_jobs import _dataflow
from tests.integration.preparing import RULES, SMALL, contents, parts, prepare, recipe, write_log
from tests.logs import log
from tests.unit.reports.test_data_report import number, pictures, row
from tests.unit.reports.test_page import Reader

EVERY = {"splits", "long_tail", "history_lengths", "popularity_shift"}


def report(folder: Path) -> Reader:
    """The page; it and its pictures are files of the dataset, written before the manifest."""
    page = Reader()
    page.feed((folder / storage.REPORT / data_report.PAGE).read_text(encoding="utf-8"))
    assert page.open == []
    names = {f"{storage.REPORT}/{each.name}" for each in (folder / storage.REPORT).iterdir()}
    assert names <= set(contents(folder))
    newest = max((folder / name).stat().st_mtime_ns for name in names)
    assert newest <= (folder / storage.MANIFEST).stat().st_mtime_ns
    return page


def test_every_row_and_round_is_on_the_page(cluster: None, tmp_path: Path) -> None:
    source = write_log(tmp_path / "log.csv")
    folder, manifest = prepare(source, tmp_path, **RULES)
    page = report(folder)
    assert pictures(folder / storage.REPORT) == EVERY | {"activity", "k_core"}
    frame = pl.read_csv(source, infer_schema=False, truncate_ragged_lines=True)
    kept = frame.filter(pl.col("t").is_not_null() & pl.col("user_id").is_not_null() & (pl.col("rating") != "bad"))
    kept = kept.filter(pl.col("rating").cast(pl.Int64) >= 2).unique(["user_id", "item_id"])
    before = [number(value) for value in (len(kept), kept["user_id"].n_unique(), kept["item_id"].n_unique())]
    assert row(page, "before the k-core", "From the log to the dataset")[:3] == before
    assert row(page, "read", "From the log to the dataset")[0] == number(len(frame))
    left = kept
    for n, _ in enumerate(manifest["counts"]["k_core_rounds"], 1):
        users = left.filter(pl.len().over("user_id") >= 4)
        cells = [number(value) for value in (len(users), users["user_id"].n_unique(), users["item_id"].n_unique())]
        assert row(page, f"k-core, round {n}", "before the k-core")[:3] == cells
        left = users.filter(pl.len().over("item_id") >= 5)
    for name in ("train", "valid", "test"):
        assert row(page, name, "Splits")[0] == number(len(parts(folder / name)))


def test_the_report_does_not_depend_on_the_shards(cluster: None, tmp_path: Path) -> None:
    source = write_log(tmp_path / "log.csv")
    rules = {**RULES, "split": {"by": "leave_one_out"}}
    sizes = {"many": SMALL, "one": _dataflow.Sizes()}
    many, one = (prepare(source, tmp_path / name, own, **rules)[0] for name, own in sizes.items())
    found = [{name: sha for name, sha in contents(each).items() if name.startswith(storage.REPORT)} for each in (many, one)]
    assert found[0] == found[1]
    assert len(found[0]) == len(EVERY | {"activity", "k_core"}) + 1


def test_a_log_without_times_and_with_several_tests(cluster: None, tmp_path: Path) -> None:
    folder, manifest = prepare(log("advinfonce_coat"), tmp_path, split={"by": "given"})
    page = report(folder)
    assert pictures(folder / storage.REPORT) == EVERY
    train, held = parts(folder / "train"), [name for name, rows in manifest["rows"].items() if rows and name != "train"]
    assert len(held) >= 2
    for name in held:
        same = len(parts(folder / name).join(train, on=["user", "item"], how="semi"))
        assert manifest["statistics"]["held_out"][name]["rows_also_in_train"] == same
        assert 0 < float(row(page, name, "Popularity shift")[11]) < 1


def test_rows_that_train_has_too_are_counted_where_the_source_gives_the_split(cluster: None, tmp_path: Path) -> None:
    train = [(u, i) for u in range(12) for i in range(9) if (u + i) % 3]
    again = [(u, i) for u, i in train if u % 2] + [(u, i) for u in range(12) for i in range(9) if (u + i) % 3 == 0]
    for name, rows in (("train", train), ("again", again)):
        pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").write_csv(tmp_path / f"{name}.csv")
    source = {"train": str(tmp_path / "train.csv"), "test_again": str(tmp_path / "again.csv")}
    folder, manifest = prepare(source, tmp_path, split={"by": "given"})
    same = len(set(train) & set(again))
    assert manifest["statistics"]["held_out"]["test_again"]["rows_also_in_train"] == same > 0
    assert row(report(folder), "test_again", "Splits")[9] == number(same)


def test_unknown_users_and_items_are_cold(cluster: None, tmp_path: Path) -> None:
    split = {"by": "temporal", "valid": 0.4, "test": 0.4, "unknown": "keep"}
    folder, manifest = prepare(write_log(tmp_path / "log.csv"), tmp_path, **{**RULES, "split": split})
    report(folder)
    train = parts(folder / "train")
    for name in ("valid", "test"):
        held, found = parts(folder / name), manifest["statistics"]["held_out"][name]
        for kind in ("user", "item"):
            cold = set(held[kind]) - set(train[kind])
            assert (found[f"{kind}s"], found[f"{kind}s_not_in_train"]) == (held[kind].n_unique(), len(cold))
    assert manifest["statistics"]["held_out"]["test"]["users_not_in_train"] > 0


def test_a_picture_that_fails_ends_no_preparation(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr(data_plots, "history_lengths", fail)
    lines: list[str] = []
    folder = _dataflow.prepare(recipe(write_log(tmp_path / "log.csv"), tmp_path, **RULES), lines.append, SMALL)
    assert storage.open_finished(folder, "dataset")["rows"]["train"] > 0
    assert not (folder / storage.REPORT).exists()
    assert [line for line in lines if re.search("no data report: RuntimeError: no font", line)]
