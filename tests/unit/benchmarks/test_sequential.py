"""The time to a quality: RecBole reads the same rows in the same order, what it tells is read, and both stop in time."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from components import config
from components.data.interactions import Interactions
from components.evaluation.evaluate import Task
from components.split_rules import RatioSplit
from tests.benchmarks import _logs, _programs, _recbole_sasrec, sequential

USERS, ITEMS = 40, 30


def table() -> pa.Table:
    """Walks around a circle, rows in no order; ids of the log's own."""
    random = np.random.default_rng(0)
    rows = []
    for user in range(USERS):
        first, length = random.integers(ITEMS), random.integers(4, 9)
        rows += [(500 + 3 * user, 100 + (first + n) % ITEMS, n) for n in range(length)]
    columns = zip(*(rows[n] for n in random.permutation(len(rows))), strict=True)
    return pa.table(dict(zip(("user_id", "item_id", "position"), map(list, columns), strict=True)))


@pytest.fixture
def splits(monkeypatch: pytest.MonkeyPatch) -> dict[str, Interactions]:
    found = {split: _logs._sequences(table(), split) for split in ("train", "valid", "test")}
    monkeypatch.setattr(_logs, "read", lambda _log, split: found[split])
    return found


def test_a_log_of_sequences_is_cut_at_each_users_last_rows(splits: dict[str, Interactions]) -> None:
    assert sum(map(len, splits.values())) == table().num_rows
    for user in range(USERS):
        items = [splits[split].items_of(user).tolist() for split in ("train", "valid", "test")]
        assert (len(items[1]), len(items[2])) == (1, 1)
        whole = [item for part in items for item in part]
        assert whole == [(whole[0] + n) % ITEMS for n in range(len(whole))], "in the order of positions"


def test_a_log_with_times_is_cut_as_its_recipes_cut_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDNEG_DATA", "/somewhere")
    once = table().rename_columns(["user_id", "item_id", "timestamp"])
    later = once.set_column(2, "timestamp", pa.array([20 + time for time in once["timestamp"].to_pylist()]))
    timed = pa.concat_tables([later.slice(0, 50), once])
    found = {split: _logs._timed(timed, split) for split in ("train", "valid", "test", "train+valid")}
    assert sum(len(found[split]) for split in ("train", "valid", "test")) == once.num_rows, "of repeats the first"
    assert len(found["train+valid"]) == len(found["train"]) + len(found["valid"])
    for user in range(USERS):
        whole = [item for split in ("train", "valid", "test") for item in found[split].items_of(user).tolist()]
        assert whole == [(whole[0] + n) % ITEMS for n in range(len(whole))], "in the order of times"
        assert len(found["test"].items_of(user)) == max(1, len(whole) // 5)
    assert {*_logs.TIMED} == {"kuairec"}
    recipes = [*_programs.recipe("any").parent.glob("kuairec_*.yaml")]
    assert len(recipes) == 3
    for path in recipes:
        assert config.load(path).data.repeats == "first"
        split = config.load(path).data.split
        assert isinstance(split, RatioSplit)
        assert (split.valid, split.test, split.order) == (_logs.VALID, _logs.TEST, "time")


def test_recbole_reads_all_rows_in_their_users_order(splits: dict[str, Interactions], tmp_path: Path) -> None:
    path = tmp_path / "log" / "log.inter"
    sequential._write_log(path)
    header, *lines = path.read_text().splitlines()
    assert header == "user_id:token\titem_id:token\ttimestamp:float"
    rows = sorted((int(user), float(time), int(item)) for user, item, time in (line.split("\t") for line in lines))
    for user in range(USERS):
        wanted = [item for split in ("train", "valid", "test") for item in splits[split].items_of(user).tolist()]
        assert [item for own, _, item in rows if own == user] == wanted


def test_what_recbole_tells_is_read_and_its_failure_is_one(
    splits: dict[str, Interactions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import json, pathlib, sys\n"
        "assert pathlib.Path(sys.argv[1], 'log', 'log.inter').is_file()\n"
        "wanted = json.loads(sys.argv[2])['wanted']\n"
        "print('a warning')\n"
        f"mark = {_recbole_sasrec.MARK!r}\n"
        "print(mark + json.dumps({'rows': 7}))\n"
        "for epoch in (1, 2):\n"
        "    print(mark + json.dumps({'epoch': epoch, 'seconds': 10.0 * epoch, 'ndcg': 0.02 * epoch}))\n"
        "sys.exit(wanted > 1)\n"
    )
    monkeypatch.setattr(_recbole_sasrec, "__file__", str(program))
    found = sequential._recbole_until(0.04, Path(sys.executable), {})
    assert found == {"seconds": 20.0, "epochs": 2, "ndcg@10": [0.02, 0.04]}
    with pytest.raises(subprocess.CalledProcessError):
        sequential._recbole_until(2.0, Path(sys.executable), {})


@pytest.mark.parametrize(("wanted", "epochs"), [(-1.0, 1), (2.0, 3)])
def test_ours_trains_until_the_quality_or_the_last_epoch(
    wanted: float, epochs: int, splits: dict[str, Interactions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARDNEG_DATA", "/somewhere")
    monkeypatch.setattr(sequential, "MOST_EPOCHS", 3)
    task = Task(splits["valid"], Interactions.of([], [], USERS, ITEMS), splits["train"])
    found = sequential._own_until(wanted, "beauty_mean_pool", splits["train"], task)
    assert found["epochs"] == len(found["ndcg@10"]) == epochs
    assert found["seconds"] > 0
    assert all(0 <= value <= 1 for value in found["ndcg@10"])


def test_a_quick_look_makes_no_environment(tmp_path: Path) -> None:
    given: dict[str, Any] = {"storage": str(tmp_path), "quick": True, "recbole": None}
    assert sequential._environment(argparse.Namespace(**given)) is None
    assert not list(tmp_path.iterdir())
    assert sequential._environment(argparse.Namespace(**{**given, "recbole": sys.executable})) == Path(sys.executable)
