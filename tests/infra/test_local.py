"""The local cluster's own processes are ended, whatever they do about it, and no others; what cannot start says why."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from components.errors import FailedError, InputError
from infra.local import cluster, parts, processes, s3
from infra.local.processes import Process

SLEEP = "import time; time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); {SLEEP}"
LEAVING = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).pid, flush=True)"
AWAY = f"{LEAVING.replace('])', '], start_new_session=True)')}; {SLEEP}"


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[[str], Process]]:
    """Starts Python on a line; what is left of it in the end is killed."""
    started: list[Process] = []

    def start(line: str) -> Process:
        name = f"part-{len(started)}"
        command = [sys.executable, "-c", line]
        started.append(processes.start(name, command, tmp_path / f"{name}.log", dict(os.environ)))
        return started[-1]

    yield start
    processes.end(started, grace=0)


def said(process: Process) -> str:
    """Its first line."""
    processes.wait(process, lambda: "\n" in processes.log_of(process), 30)
    return processes.log_of(process).splitlines()[0]


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_what_was_started_is_ended_and_nothing_else(begin: Callable[[str], Process]) -> None:
    neighbour, part, other = begin(SLEEP), begin(AWAY), begin(SLEEP)
    below = int(said(part))
    assert runs(below)
    processes.end([part, other])
    assert not any(runs(pid) for pid in (part.pid, other.pid, below)), "those of another session too"
    assert processes.is_alive(neighbour)
    assert not processes.is_alive(part)


def test_what_does_not_hear_is_killed_after_its_grace(begin: Callable[[str], Process]) -> None:
    part = begin(STUBBORN)
    said(part)
    started = time.monotonic()
    processes.end([part], grace=0.5)
    assert time.monotonic() - started >= 0.5
    assert not runs(part.pid)


def test_what_a_part_that_is_gone_left_behind_is_ended_too(begin: Callable[[str], Process]) -> None:
    part = begin(LEAVING)
    while runs(part.pid) or not processes.log_of(part):
        time.sleep(0.05)
    left = int(processes.log_of(part))
    assert runs(left)
    os.waitpid(part.pid, 0)  # it was this process' child: its number is free now
    processes.end([part])
    assert not runs(left)


@pytest.mark.parametrize("since", ["another-boot 17", None])
def test_a_number_that_belongs_to_another_process_now_is_left_alone(begin: Callable[[str], Process], since: str | None) -> None:
    part = begin(SLEEP)
    boot, tick = (part.since or "").split()
    for old in (since, f"{boot} {int(tick) - 1}"):
        assert not processes.is_alive(part._replace(since=old))
        processes.end([part._replace(since=old)], grace=0)
    assert processes.is_alive(part)


def test_a_part_that_ends_or_does_not_answer_shows_its_last_lines(begin: Callable[[str], Process]) -> None:
    noisy = begin("print('early'); print('\\n'.join(f'line {n}' for n in range(50))); raise SystemExit('no disk')")
    with pytest.raises(FailedError, match="part-0 ended while it started; the end of .*part-0.log:\n  line 31\n") as found:
        processes.wait(noisy, lambda: False, 30)
    assert str(found.value).endswith("line 49\n  no disk")
    silent = begin(SLEEP)
    with pytest.raises(FailedError, match="part-1 does not answer after 0 s"):
        processes.wait(silent, lambda: False, 0)


def up(folder: Path, monkeypatch: pytest.MonkeyPatch, how: Callable[..., Any]) -> None:
    monkeypatch.setattr(parts, "require", lambda: None)
    monkeypatch.setattr(parts, "start_all", how)
    cluster.up(folder)


def test_one_part_that_fails_ends_all_and_leaves_the_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Process] = []

    def fails(folders: parts.Folders, start: parts.Start) -> parts.Links:
        assert folders.secrets.stat().st_mode & 0o777 == 0o700
        parts._secret(folders, "token", "hush")
        started.append(start("first", [sys.executable, "-c", SLEEP], dict(os.environ)))
        started.append(start("second", [sys.executable, "-c", "raise SystemExit('no port')"], dict(os.environ)))
        processes.wait(started[-1], lambda: False, 30)
        raise AssertionError

    with pytest.raises(FailedError, match="second ended while it started.*\n  no port"):
        up(tmp_path, monkeypatch, fails)
    assert [runs(part.pid) for part in started] == [False, False]
    assert not (tmp_path / "secrets").exists()
    assert "no port" in (tmp_path / "logs" / "second.log").read_text()


def test_a_whole_cluster_is_not_started_again_and_half_of_one_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    links = parts.Links("http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3", "127.0.0.1:4")
    started: list[Process] = []

    def works(folders: parts.Folders, start: parts.Start) -> parts.Links:
        started.extend(start(name, [sys.executable, "-c", SLEEP], dict(os.environ)) for name in ("one", "two"))
        return links

    try:
        up(tmp_path, monkeypatch, works)
        first = capsys.readouterr().out
        assert all(link in first for link in links)
        up(tmp_path, monkeypatch, works)
        assert capsys.readouterr().out == f"it is up already\n\n{first}"
        assert len(started) == 2
        processes.end(started[:1])
        with pytest.raises(InputError, match=r"got a part of a cluster \(two\), takes a whole one or none: make cluster-down"):
            up(tmp_path, monkeypatch, works)
    finally:
        cluster.down(tmp_path)
    assert not any(processes.is_alive(part) for part in started)
    assert "no cluster is up any more" in capsys.readouterr().out
    cluster.down(tmp_path)
    assert "nothing to end" in capsys.readouterr().out


def test_one_up_or_down_at_a_time(tmp_path: Path) -> None:
    with (
        cluster._alone(tmp_path),
        pytest.raises(InputError, match="another make cluster or cluster-down"),
        cluster._alone(tmp_path),
    ):
        pass


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(parts, "DEBIAN", tmp_path)
    with pytest.raises(InputError, match="got no initdb on the PATH or in .* takes PostgreSQL; on Debian: apt-get install"):
        parts.require()
    for version in ("9", "15"):
        (tmp_path / version / "bin").mkdir(parents=True)
        (tmp_path / version / "bin" / "initdb").touch()
    assert parts._postgres_programs() == tmp_path.resolve() / "15" / "bin", "the newest"
    monkeypatch.setattr(parts.importlib.util, "find_spec", lambda name: None if name == "moto" else object())
    with pytest.raises(InputError, match="got a Python without moto, takes the extra `cluster`"):
        parts.require()


def test_a_port_that_is_taken_is_not_chosen() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        assert parts._port(number) != number
    assert parts._port(number) == number


def test_who_answers_without_a_password_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str | None, int | None] = {None: 401, "Bearer good": 200}
    monkeypatch.setattr(parts, "_status", lambda url, authorization=None: answers.get(authorization))
    assert parts._answers("http://x", "Bearer good")
    assert not parts._answers("http://x", "Bearer bad")
    answers[None] = 200
    with pytest.raises(FailedError, match="http://x answers whoever asks"):
        parts._answers("http://x", "Bearer good")


def test_other_servers_variables_do_not_reach_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_PASSWORD", "RAY_ADDRESS", "RAY_AUTH_TOKEN", "AWS_PROFILE", "PGPASSWORD"):
        monkeypatch.setenv(name, "hush")
    assert "hush" not in parts._environment(RAY_AUTH_MODE="token").values()
    assert parts._environment(RAY_AUTH_MODE="token")["RAY_AUTH_MODE"] == "token"


def test_what_runs_it_wrongly_is_told_how() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "infra.local.cluster", "sideways"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "{up,down}" in done.stderr


@pytest.mark.parametrize(("path", "code"), [("/moto-api/reset-auth", "403"), ("//moto-api/reset", "403"), ("/mlflow/a", "200")])
def test_motos_own_pages_are_closed(path: str, code: str) -> None:
    codes: list[str] = []

    def served(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [])
        return [b"object"]

    asked = {"PATH_INFO": path, "HTTP_AUTHORIZATION": "AWS4-HMAC-SHA256 ..."}
    body = s3.closed(served)(asked, lambda status, headers: codes.append(status[:3]))
    assert (codes, b"".join(body)) == ([code], b"object" if code == "200" else b"")
    s3.closed(served)({"PATH_INFO": path}, lambda status, headers: codes.append(status[:3]))
    assert codes[1:] == ["403"], "and what is not signed is refused anywhere"
