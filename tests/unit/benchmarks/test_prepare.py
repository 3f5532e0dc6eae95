"""The log that prepare is measured on has the law that it states, and what stands beside it does the same work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.benchmarks import _polars_prepare, _report_speed, prepare


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


def watched(program: str) -> dict[str, Any]:
    """Of a Python program, by a process that has no other children, as this one may."""
    look = (
        "import json, sys; from tests.benchmarks import prepare; run = prepare.watched([sys.executable, '-c', sys.argv[1]]); "
        "print(json.dumps({name: getattr(run, name) for name in ('code', 'output', 'seconds', 'peak', 'bound', 'largest')}))"
    )
    done = subprocess.run([sys.executable, "-c", look, program], cwd=prepare.ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_memory_is_that_of_the_children_too() -> None:
    """A process that has a child with 200 MB for two seconds."""
    child = "import time; held = b'x' * 200_000_000; time.sleep(2)"
    run = watched(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])")
    assert run["seconds"] > 2
    assert 200_000_000 < run["peak"] < 400_000_000
    assert run["peak"] <= run["bound"] < 450_000_000
    assert 200_000_000 < run["largest"] <= run["bound"]


def test_a_peak_between_two_looks_is_seen() -> None:
    """In the mark that the kernel keeps of a process that lives on."""
    run = watched("import time; held = b'x' * 200_000_000; del held; time.sleep(1.5); print(1)")
    assert (run["code"], run["output"]) == (0, "1\n")
    assert run["largest"] > 200_000_000 > run["peak"]


def test_what_takes_too_long_is_ended_and_told_so() -> None:
    run = prepare.watched([sys.executable, "-c", "import time; time.sleep(600)"], limit=1.0)
    assert run.late
    assert run.seconds > 1
    assert run.ended().startswith("not done after ")
    done = prepare.watched([sys.executable, "-c", "import sys; sys.exit('no room')"])
    assert (done.late, done.ended()) == (False, "no room")


def test_polars_that_is_killed_costs_no_figure_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    watched = prepare.watched
    monkeypatch.setattr(prepare, "watched", lambda command, **_: watched([command[0], "-c", kill]))
    ours = {"rows": {"train": 5}, "total_seconds": 2.0, "seconds": {"read": 1.0}, "worker_gib": {"read": 0.5}}
    ours |= {"peak_gib": 1.0, "bound_gib": 1.5, "largest_gib": 0.5, "written_bytes": 3}
    monkeypatch.setattr(prepare, "prepared", lambda folder: ours)
    told = prepare._one(2000, tmp_path)
    assert told["polars"]["ended"] == "killed by signal 9"
    assert (told["times_polars"], told["prepare"]["rows_per_second"]) == (None, 1000)
    with pytest.raises(RuntimeError, match="ended with -9"):
        watched([sys.executable, "-c", kill]).require()
    nodes = [{"nodes": 2, "log_rows": 2000, "total_seconds": 3.0, "loopback_bytes": 1 << 20, "written_bytes": 1 << 21}]
    figures = {"law": prepare.LAW, "runs": [told], "verdicts": prepare.verdicts([told]), "nodes": nodes}
    lines = list(_report_speed.prepare({"figures": figures}))
    assert [line for line in lines if "killed by signal 9" in line]
    assert "| 2 | 2,000 | 3.0 | 1.0 | 2.0 |" in lines


def test_every_limit_whose_sizes_were_run_has_a_verdict() -> None:
    def run(rows: int, rate: float, ratio: float | None, gib: float) -> dict[str, Any]:
        ours = {"rows_per_second": rate, "peak_gib": gib}
        return {"log_rows": rows, "prepare": ours, "times_polars": ratio}

    assert prepare.verdicts([run(1_000_000, 5.0, 9.0, 9.0)]) == []
    runs = [run(prepare.SMALL, 100.0, 9.0, 1.0), run(prepare.MIDDLE, 100.0, 3.1, 9.0), run(prepare.LARGE, 79.0, None, 5.9)]
    assert [told["holds"] for told in prepare.verdicts(runs)] == [False, True, False]
    runs[2] = run(prepare.LARGE, 80.0, 1.5, 6.1)
    assert [told["holds"] for told in prepare.verdicts(runs)] == [False, True, False, True]
