"""Splits of the whole log, prepared on a real local Ray, against plain polars; and what is said where time leaks."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.errors import InputError
from ray_jobs import _dataflow
from tests.integration.preparing import RULES, SMALL, parts, prepare, raw_rows, recipe, write_log
from tests.integration.test_prepare import reference_core

HELD_OUT = ("valid", "test")


def temporal(**split: Any) -> dict[str, Any]:
    return {**RULES, "split": {"by": "temporal", **split}}


@pytest.mark.parametrize("unknown", ["drop", "keep"])
def test_a_cut_by_share_is_that_of_the_sorted_log(cluster: None, tmp_path: Path, unknown: str) -> None:
    source = write_log(tmp_path / "log.csv", rows=1500)
    folder, manifest = prepare(source, tmp_path, **temporal(valid=0.4, test=0.4, unknown=unknown))
    core = pl.DataFrame(list(reference_core(source)), schema=["user", "item", "time"], orient="row")
    times = core["time"].sort()
    first = {share: next(t for t in range(501) if (times >= t).sum() <= share * len(core)) for share in (0.4, 0.8)}
    train = core.filter(pl.col("time") < first[0.8])
    known = pl.col("user").is_in(train["user"].implode()) & pl.col("item").is_in(train["item"].implode())
    expected = {
        "train": train,
        "valid": core.filter((pl.col("time") >= first[0.8]) & (pl.col("time") < first[0.4])),
        "test": core.filter(pl.col("time") >= first[0.4]),
    }
    dropped = {name: len(expected[name].filter(~known)) for name in HELD_OUT}
    assert sum(dropped.values()) > 0, "the log has unknown users or items"
    if unknown == "drop":
        expected |= {name: expected[name].filter(known) for name in HELD_OUT}
        assert manifest["counts"]["unknown"] == {"train": 0, **dropped}
        assert manifest["num_users"] == train["user"].n_unique()
        assert manifest["num_items"] == train["item"].n_unique()
        assert manifest["statistics"]["cold_rows"] == dict.fromkeys(HELD_OUT, 0)
    else:
        assert manifest["statistics"]["cold_rows"] == dropped
    assert manifest["split"]["unknown_users"] == core["user"].n_unique() - train["user"].n_unique()
    assert manifest["split"]["unknown_items"] == core["item"].n_unique() - train["item"].n_unique()
    for name, rows in expected.items():
        assert raw_rows(folder, name) == sorted(rows.iter_rows())


def test_a_cut_by_dates(cluster: None, tmp_path: Path) -> None:
    dates = [f"2020-01-{day:02d}" for day in range(1, 11)]
    table = {"user_id": [1] * 10, "item_id": list(range(10)), "t": pl.Series(dates).str.to_datetime().to_arrow()}
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    split = {"by": "temporal", "valid_from": "2020-01-05", "test_from": "2020-01-08T00:00:00Z", "unknown": "keep"}
    source, columns = tmp_path / "log.parquet", {"time": "t"}
    folder, manifest = prepare(source, tmp_path, columns=columns, split=split)
    found = {name: [row[1] for row in raw_rows(folder, name)] for name in ("train", *HELD_OUT)}
    assert found == {"train": [0, 1, 2, 3], "valid": [4, 5, 6], "test": [7, 8, 9]}
    assert [manifest["split"][name] for name in ("valid_from", "test_from")] == ["2020-01-05T00:00:00Z", "2020-01-08T00:00:00Z"]
    spans = manifest["statistics"]["times"]
    assert spans["test"] == {"first": "2020-01-08T00:00:00Z", "last": "2020-01-10T00:00:00Z", "behind": 0}
    got = "got valid from 2030-01-01T00:00:00Z and test from 2031-01-01T00:00:00Z, which leave valid and test without a row"
    with pytest.raises(InputError, match=rf"^data\.split: {got}, .* the times 2020-01-01T00:00:00Z to 2020-01-10T00:00:00Z$"):
        prepare(source, tmp_path, columns=columns, split={**split, "valid_from": "2030-01-01", "test_from": "2031-01-01"})
    lines: list[str] = []
    _dataflow.prepare(recipe(source, tmp_path, columns=columns, split={"by": "ratio", "test": 0.5}), lines.append, SMALL)
    (leak,) = [line for line in lines if line.startswith("warning: ") and "test begins at" in line]
    assert re.search(r"test begins at 2020-01-\d\dT00:00:00Z and train ends at 2020-01-\d\dT00:00:00Z; ", leak)


def test_a_cut_outside_of_the_log_says_where_it_is(cluster: None, tmp_path: Path) -> None:
    source = write_log(tmp_path / "log.csv")
    got = r"data\.split: got valid from 5000 and test from 6000, which leave valid and test without a row"
    times = [row[2] for row in reference_core(source)]
    message = rf"{got}, takes valid_from and test_from that cut the times {min(times)} to {max(times)}$"
    with pytest.raises(InputError, match=message):
        prepare(source, tmp_path, **temporal(valid_from=5000, test_from=6000))
    with pytest.raises(
        InputError, match=r"data\.split: got valid from -2 and test from -1, which leave train and valid without"
    ):
        prepare(source, tmp_path, **temporal(valid_from=-2, test_from=-1))


def test_shifted_splits_share_out_the_core_whatever_the_shards(cluster: None, tmp_path: Path) -> None:
    source = write_log(tmp_path / "log.csv", rows=4000)
    rules = {**RULES, "split": {"by": "shifted"}}
    folder, manifest = prepare(source, tmp_path / "many", **rules)
    names = ["train", "valid", "test", "test_gamma10", "test_gamma2", "test_gamma200", "valid_shifted"]
    assert sorted(manifest["rows"]) == sorted(names)
    found = [row for name in names for row in raw_rows(folder, name)]
    assert len(found) == len(set(found))
    assert set(found) == reference_core(source)
    assert all(0.05 < manifest["rows"][name] / len(found) < 0.15 for name in names[1:]), manifest["rows"]
    one, _ = prepare(source, tmp_path / "one", _dataflow.Sizes(), **rules)
    other, _ = prepare(source, tmp_path / "other", seed=1, **rules)
    assert all(raw_rows(one, name) == raw_rows(folder, name) for name in names)
    assert raw_rows(other, "test") != raw_rows(folder, "test")


def test_an_unbiased_test_stands_beside_a_biased_log(cluster: None, tmp_path: Path) -> None:
    """Every row is where its file says, and validation is cut from the biased log alone."""
    biased = [(u, i) for u, i in itertools.product(range(20), range(12)) if (u + i) % 3]
    exposed = [(u, i) for u, i in itertools.product(range(20), range(12)) if (u + i) % 7 == 0]
    for name, rows in (("biased", biased), ("random", exposed)):
        pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").write_csv(tmp_path / f"{name}.csv")
    source = {"train": str(tmp_path / "biased.csv"), "test_unbiased": str(tmp_path / "random.csv")}
    folder, _ = prepare(source, tmp_path, split={"by": "given", "valid_fraction": 0.2})
    rows = {name: [(int(u), int(i)) for u, i in raw_rows(folder, name)] for name in ("train", "valid", "test_unbiased")}
    assert sorted(rows["train"] + rows["valid"]) == biased
    assert sorted(rows["test_unbiased"]) == exposed
    assert rows["valid"]


@pytest.mark.parametrize(("split", "leaks"), [({"by": "leave_one_out"}, 2), (RULES["split"], 2), ({"by": "temporal"}, 0)])
def test_a_split_that_leaks_time_is_warned_of(cluster: None, tmp_path: Path, split: dict[str, Any], leaks: int) -> None:
    lines: list[str] = []
    source = write_log(tmp_path / "log.csv")
    folder = _dataflow.prepare(recipe(source, tmp_path, **{**RULES, "split": split}), lines.append, SMALL)
    warnings = [line for line in lines if line.startswith("warning: ")]
    assert len(warnings) == leaks
    own = [" 0 of " not in line for line in warnings]
    assert own == [split != {"by": "leave_one_out"}] * leaks, "after a user's own train there is always the last row"
    if not leaks:
        times = {name: parts(folder / name)["time"] for name in ("train", *HELD_OUT)}
        assert times["train"].max() < times["valid"].min() <= times["valid"].max() < times["test"].min()  # pyright: ignore
