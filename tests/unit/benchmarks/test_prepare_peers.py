"""Peers read the same log, what they tell is read however they end, and the report says whose rows differ."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.benchmarks import _environments, _peers, _report_speed, prepare, prepare_peers

OURS = {"total_seconds": 2.0, "peak_gib": 1.0, "rows": {"train": 8, "valid": 1, "test": 1}, "seconds": {"read": 1.0}}


def test_recbole_reads_the_log_in_its_own_format(tmp_path: Path) -> None:
    prepare.write_log(tmp_path / "log", 5_000)
    text = prepare_peers._text(tmp_path / "log", tmp_path / "source") / "log" / "log.inter"
    assert text.read_text().partition("\n")[0] == "user_id:token\titem_id:token\ttimestamp:float"
    read = pl.read_csv(text, separator="\t", new_columns=["user_id", "item_id", "t"])
    assert read.equals(pl.read_parquet(tmp_path / "log" / "*.parquet"))


def test_what_a_program_tells_is_heard(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_text", lambda *_: 0)  # this process does not offer itself to the kernel
    telling = _peers.Telling("polars")
    print("a warning")
    telling.done("read")
    telling.done("k-core", 7.5)
    half = _peers.heard(capsys.readouterr().out)
    assert half["versions"]["polars"] == pl.__version__
    assert half["seconds"]["k-core"] == 7.5
    assert list(half["seconds"]) == ["read", "k-core"]
    telling.end({"train": 3})
    whole = _peers.heard(capsys.readouterr().out)
    assert whole["rows"] == {"train": 3}
    assert whole["peak"] > 1 << 20


def peer(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The figures of a program that stands for RePlay's."""
    watched = prepare.watched

    def instead(command: list[str], limit: float) -> prepare.Watched:
        assert command[1:3] == ["-m", "tests.benchmarks._replay_prepare"]
        assert (command[3], command[5]) == (str(tmp_path), "10")
        return watched([command[0], "-c", program], limit=limit)

    monkeypatch.setattr(prepare, "watched", instead)
    return prepare_peers._peer(prepare_peers.PEERS["RePlay"], Path(sys.executable), tmp_path, tmp_path / "place")


def told(**what: Any) -> str:
    return f"print({_peers.MARK + json.dumps(what)!r}, flush=True)\n"


def test_a_peer_has_its_own_peak_and_the_rest_of_its_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end = told(rows={"train": 8}, peak=3 << 30)
    found = peer(told(versions={"replay-rec": "0"}) + told(seconds={"read": 0.001}) + end, tmp_path, monkeypatch)
    assert (found["peak_gib"], found["rows"], "ended" in found) == (3.0, {"train": 8}, False)
    assert sum(found["seconds"].values()) == pytest.approx(found["total_seconds"])


@pytest.mark.parametrize(
    ("end", "how"),
    [
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
        ("raise ValueError('no such column')", "ValueError: no such column"),
    ],
)
def test_a_peer_that_does_not_survive_is_told_so(end: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = peer(told(versions={"replay-rec": "0"}) + told(seconds={"read": 0.5}) + end, tmp_path, monkeypatch)
    assert found["ended"] == how
    assert found["seconds"] == {"read": 0.5}, "how far it came"
    assert "rows" not in found


def test_a_peer_has_so_many_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_peers, "LIMIT_SECONDS", 1.0)
    found = peer("import time; time.sleep(600)", tmp_path, monkeypatch)
    assert found["ended"].startswith("not done after ")
    assert found["total_seconds"] > 1


def test_the_report_says_who_ended_and_whose_rows_differ() -> None:
    done = {"versions": {"python": "3", "recbole": "1"}, "seconds": {"read": 4.0}, "total_seconds": 5.0, "peak_gib": 3.0}
    same = {**done, "rows": OURS["rows"], "times_hardneg": 2.5}
    other = {**done, "rows": {"train": 7, "valid": 1, "test": 1}, "times_hardneg": 2.5}
    ended = {**done, "ended": "killed by signal 9"}
    runs = [
        {"log_rows": 100, "prepare": OURS, "peers": {"RecBole": same, "RePlay": other}},
        {"log_rows": 2000, "prepare": OURS, "peers": {"RecBole": ended, "RePlay": {"ended": "failed", "peak_gib": 0.1}}},
    ]
    lines = list(_report_speed.prepare_peers({"figures": {"limit_seconds": 600.0, "runs": runs}}))
    assert "| 100 | hardneg | 2.0 | 50 | 1.00 | 1 | 8, 1, 1 |" in lines
    assert "| 100 | RecBole | 5.0 | 20 | 3.00 | 2.5 | the same |" in lines
    assert "| 100 | RePlay | 5.0 | 20 | 3.00 | 2.5 | **7, 1, 1** |" in lines
    assert "| 2,000 | RecBole | **killed by signal 9** |  | 3.00 |  |  |" in lines
    assert "RecBole: python 3, recbole 1." in lines


def test_an_environment_is_made_once_and_not_by_a_quick_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[list[str]] = []
    monkeypatch.setattr(_environments.venv, "create", lambda home, **_: home.mkdir(parents=True))
    monkeypatch.setattr(_environments.subprocess, "run", lambda command, **_: installed.append(command))
    recbole = _environments.RECBOLE
    assert _environments.python(recbole, str(tmp_path / "runs"), quick=True) is None
    assert not (tmp_path / "runs").exists()
    for quick in (False, False, True):
        found = _environments.python(recbole, str(tmp_path / "runs"), quick)
        assert found == tmp_path / "runs" / "recbole" / "bin" / "python"
    assert [command[0] for command in installed] == [str(found)] * 2, "once: alone, and what it needs"
    assert installed[0][-2:] == ["--no-deps", recbole.library]
    assert [name for name in installed[1] if name.startswith("torch==")], "as the project has it"
