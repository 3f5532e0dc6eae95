"""In Train's controller: keeps every reported epoch in metrics.jsonl and sends it to MLflow, beside the training.

A server that is away costs nothing: what was not sent is sent when it is back. What a person should know is written to
notices.log, since a controller has no terminal; the driver reads it there.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from pathlib import Path
from typing import Any

from ray.train import UserCallback

from ray_jobs import _checkpoints, _credentials
from ray_jobs._mlflow import complaint
from ray_jobs._tracking import HISTORY, TrackedRun, append_history

NOTICES = "notices.log"
ERROR = "error.json"  # what ended a worker's training: another try would meet it again
RETRY_SECONDS = 5.0


def read_notices(run: Path) -> list[str]:
    path = run / NOTICES
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _notice(run: Path, text: str) -> None:
    with (run / NOTICES).open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")


class Reporter(UserCallback):
    """Train's callback; the first worker's report carries the epochs since its last one."""

    def __init__(self, tracked: TrackedRun, run: Path, max_failures: int) -> None:
        self._tracked, self._run = tracked, run
        self._credentials = _credentials.here()  # a submitted job's driver alone can open them
        self._failures, self._max_failures = 0, max_failures
        self._sender: _Sender | None = None  # a thread does not travel to the controller: it starts there

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        entries = [entry for worker in metrics for entry in worker.get("history", [])]
        append_history(self._run, entries)
        if checkpoint is not None:
            _checkpoints.keep(self._run)  # Ray has listed it before it tells
        if self._sender is None:
            os.environ |= self._credentials
            self._sender = _Sender(self._tracked, self._run)
            self._sender.start()
        self._sender.entries.put(entries)

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        self._failures += 1
        rank, error = next(iter(worker_exceptions.items()))
        goes_on = self._failures <= self._max_failures and not (self._run / ERROR).exists()
        follows = "training goes back to its last checkpoint" if goes_on else "training ends"
        _notice(self._run, f"worker {rank} failed ({type(error).__name__}), {follows}; failures: {self._failures}")


class _Sender(threading.Thread):
    """Sends epochs to MLflow, again and again where it does not take them; ends with its process."""

    def __init__(self, tracked: TrackedRun, run: Path) -> None:
        super().__init__(daemon=True)
        self._tracked, self._run = tracked, run
        self.entries: queue.SimpleQueue[list[dict[str, Any]]] = queue.SimpleQueue()

    def run(self) -> None:
        is_away = False
        while True:
            unsent = self.entries.get()
            while unsent:
                while not self.entries.empty():
                    unsent = unsent + self.entries.get()
                try:
                    self._tracked.log(unsent, patience=0)  # it has its own
                except Exception as error:
                    if not is_away:
                        self._say_away(error)
                    is_away = True
                    time.sleep(RETRY_SECONDS)
                    continue
                unsent = []
                if is_away:
                    _notice(self._run, f"MLflow at {self._tracked.tracking_uri} answers again: nothing is missing there")
                is_away = False

    def _say_away(self, error: Exception) -> None:
        _notice(
            self._run,
            f"{complaint(self._tracked.tracking_uri, error)}: training goes on, metrics are kept in {self._run / HISTORY} "
            "and sent when it takes them",
        )
