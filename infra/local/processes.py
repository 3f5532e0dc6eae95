"""Processes that outlive the command which started them: recorded with their start, and ended with all that is below them.

Linux alone: a process is known again by its id, the clock tick at which it started, and the boot that this was in.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from components.errors import FailedError

LAST_LINES = 20
POLL_SECONDS = 0.1
GRACE_SECONDS = 20.0


class Process(NamedTuple):
    """A leader of a session and process group of its own; `since` is None where it was gone at once."""

    name: str
    pid: int
    since: str | None
    log: str


def start(name: str, command: Sequence[str | Path], log: Path, environment: Mapping[str, str], **owner: Any) -> Process:
    """Begins a process that reads nothing and writes to `log`; `owner` is subprocess' user, group and extra_groups."""
    with log.open("w", encoding="utf-8") as file:
        started = subprocess.Popen(
            list(map(str, command)),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd="/",
            start_new_session=True,
            **owner,
        )
    return Process(name, started.pid, _since(started.pid), str(log))


def is_alive(process: Process) -> bool:
    """Whether that very process runs, and not another one that has its number now."""
    return _since(process.pid) == process.since and _state(process.pid) not in (None, "Z")


def wait(process: Process, answers: Callable[[], bool], seconds: float) -> None:
    """Returns once it answers.

    Raises:
        FailedError: it ended before, or the seconds are over.
    """
    until = time.monotonic() + seconds
    while not answers():
        if not is_alive(process):
            raise FailedError(f"{process.name} ended while it started; {last_lines(process)}")
        if time.monotonic() > until:
            raise FailedError(f"{process.name} does not answer after {seconds:.0f} s; {last_lines(process)}")
        time.sleep(POLL_SECONDS)


def log_of(process: Process) -> str:
    return Path(process.log).read_text(encoding="utf-8", errors="replace")


def last_lines(process: Process) -> str:
    return "\n  ".join([f"the end of {process.log}:", *log_of(process).splitlines()[-LAST_LINES:]])


def end(processes: Iterable[Process], grace: float = GRACE_SECONDS) -> None:
    """Ends these processes, their sessions and all below them, and nothing else: SIGTERM to each group, then SIGKILL."""
    leaders = [each.pid for each in processes if _is_ours(each)]
    family = _family(leaders)
    for pid in reversed(leaders):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGTERM)
    _await_end(family, grace)
    family |= _family(leaders)  # some may have come since
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()  # psutil looks whether the number is still this process'
    _await_end(family, grace)


def _is_ours(process: Process) -> bool:
    """Whether it runs, or is gone and may have left its session behind: the kernel gives no session's number away."""
    return process.since is not None and _since(process.pid) in (process.since, None) and process.since.startswith(_boot())


def _family(leaders: list[int]) -> set[psutil.Process]:
    every = {process.pid: process for process in psutil.process_iter(["ppid"])}
    found = {pid for pid in every if pid in leaders or _session(pid) in leaders}
    while below := {pid for pid, process in every.items() if process.info["ppid"] in found} - found:
        found |= below
    return {every[pid] for pid in found}


def _await_end(family: set[psutil.Process], seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and any(each.is_running() and _state(each.pid) not in (None, "Z") for each in family):
        time.sleep(POLL_SECONDS)


def _session(pid: int) -> int | None:
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(pid)
    return None


def _since(pid: int) -> str | None:
    """The boot and the tick in which a process started; None where there is none."""
    fields = _fields(pid)
    return f"{_boot()} {fields[19]}" if fields else None


def _state(pid: int) -> str | None:
    """One letter; Z for one that has ended and was not yet waited for."""
    fields = _fields(pid)
    return fields[0] if fields else None


def _fields(pid: int) -> list[str]:
    """What /proc tells of a process behind its name, which may have spaces and brackets in it."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return []


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
