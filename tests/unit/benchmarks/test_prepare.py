"""The log that prepare is measured on has the law that it states, and what stands beside it does the same work."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl

from tests.benchmarks import _polars_prepare, prepare


def test_the_log_has_its_law_and_is_made_again(tmp_path: Path) -> None:
    for name in ("a", "b"):
        prepare.write_log(tmp_path / name, 200_000)
    log = pl.read_parquet(tmp_path / "a" / "*.parquet")
    assert log.equals(pl.read_parquet(tmp_path / "b" / "*.parquet"))
    assert (len(log), len(list((tmp_path / "a").iterdir()))) == (200_000, 16)
    for name, count, power in (("item_id", 1000, 1.0), ("user_id", 5000, 0.5)):
        law = np.arange(1, count + 1) ** -power
        expected = 200_000 * law / law.sum()
        rows = np.bincount((log[name].to_numpy() - 7) // 1_000_003, minlength=count)
        assert len(rows) == count
        assert np.abs(rows - expected).max() < 5 * expected.max() ** 0.5
        assert ((rows - expected) ** 2 / expected).sum() < count + 5 * (2 * count) ** 0.5


def test_polars_does_the_work_that_is_stated(tmp_path: Path) -> None:
    """Against the definition: first of repeats, the k-core, the last two rows of users with three."""
    random = np.random.default_rng(0)
    columns = {"user_id": random.integers(0, 40, 700), "item_id": random.integers(0, 40, 700), "t": random.integers(0, 99, 700)}
    pl.DataFrame(columns).write_parquet(tmp_path / "log.parquet")
    found = _polars_prepare.prepare(tmp_path, tmp_path / "out", 10)
    first: dict[tuple[int, int], int] = {}
    for user, item, time in zip(*(column.tolist() for column in columns.values()), strict=True):
        first[user, item] = min(time, first.get((user, item), time))
    while True:
        users, items = Counter(user for user, _ in first), Counter(item for _, item in first)
        left = {pair: time for pair, time in first.items() if users[pair[0]] >= 10 and items[pair[1]] >= 10}
        if left == first:
            break
        first = left
    assert 0 < len(users) <= 40
    assert found["rows"] == {"train": len(first) - 2 * len(users), "valid": len(users), "test": len(users)}
    test = pl.read_parquet(tmp_path / "out" / "test.parquet")
    last = {user: max(time for (u, _), time in first.items() if u == user) for user in users}
    assert test["t"].to_list() == [last[user] for user in sorted(last)]


def test_stages_are_read_off_the_programs_lines() -> None:
    lines = "read       5 rows = 4 kept (2.5 s)\nwarning: 3\nk-core     1 users, 2 rounds (0.4 s)\n"
    assert prepare.STAGE.findall(lines) == [("read", "2.5"), ("k-core", "0.4")]


def test_memory_is_that_of_the_children_too() -> None:
    """A process that has a child with 200 MB for two seconds."""
    child = "import time; held = b'x' * 200_000_000; time.sleep(2)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    seconds, peak, _, _ = prepare.watched([sys.executable, "-c", parent])
    assert seconds > 2
    assert 200_000_000 < peak < 400_000_000
