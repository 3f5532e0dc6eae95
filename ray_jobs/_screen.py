"""What a person sees of a job that is followed: its log, on a terminal a live line below it, and links."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from ray_jobs import _submission

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

EPOCH = re.compile(r"epoch \d+ of \d+")


def say(*lines: str) -> None:
    """To stderr: stdout is the job's log."""
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def follow(client: JobSubmissionClient, submission_id: str) -> int:
    """Shows a job to its end and returns its exit code. Ctrl-C leaves the job alone, and says how to come back to it."""
    say(f"dashboard  {client.get_address()}/#/jobs/{submission_id}")
    with _detaching(client, submission_id), _Screen() as screen:
        ended = _submission.follow(client, submission_id, screen.echo, screen.watch)
    why = f" ({ended.message})" if ended.exit_code and ended.message else ""
    say(f"{ended.status.lower()}, exit code {ended.exit_code}: {submission_id}{why}", *_pages(ended.result or {}))
    return ended.exit_code


def _pages(result: dict[str, Any]) -> list[str]:
    """Where a result's runs are in MLflow."""
    found = [run["mlflow_url"] for run in result.get("runs", [result]) if run.get("mlflow_url")]
    return [f"MLflow     {url}" for url in found]


@contextlib.contextmanager
def _detaching(client: JobSubmissionClient, submission_id: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        command = "python -m ray_jobs.submit {} " + f"{submission_id} --address {client.get_address()}"
        say(f"detached from {submission_id}, which goes on", f"follow     {command.format('follow')}")
        say(f"stop       {command.format('stop')}")
        sys.exit(130)


class _Screen:
    """Lines go to stdout as they come. Below them on a terminal: state, time since the start, the latest epoch."""

    def __init__(self) -> None:
        self._console = Console()
        self._live = self._console.status("") if self._console.is_terminal else contextlib.nullcontext()
        self._state, self._news = "", ""

    def __enter__(self) -> _Screen:
        self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._live.__exit__(*error)

    def echo(self, line: str) -> None:
        self._news = line if EPOCH.match(line) else self._news
        print(line, flush=True)

    def watch(self, job: JobDetails) -> None:
        if str(job.status) != self._state:
            self._state = str(job.status)
            say(f"state      {self._state.lower()}")
        if self._console.is_terminal:
            seconds = max(0, int(time.time() - (job.start_time or 0) / 1000))
            text = f"{self._state.lower()}  {seconds // 60}:{seconds % 60:02d}  {self._news}"
            self._live.update(escape(text))  # pyright: ignore[reportAttributeAccessIssue]
