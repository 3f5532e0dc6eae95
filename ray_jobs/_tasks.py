"""A stage of a preparation while it runs: Ray tasks by the hundred, a bounded number at a time, and how far they are."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ray
from ray.exceptions import RayTaskError

from components.data.locations import TRIES
from components.errors import InputError

PROGRESS_SECONDS = 10.0
END_SECONDS = 20.0
CPUS_SECONDS = 5.0  # between two looks at how many there are
Report = Callable[[str], None]
Made = tuple[dict[str, Any], str]  # what a stage found out, and what is said of it


class Stage:
    """Tells a line every ten seconds. Once it is left, in whatever way, none of its tasks runs any more.

    `total` is the number of rows (or of another `unit`) of the whole stage, where it is known. `ahead` may be set: it tells of
    rows that tasks which still run have dealt with.
    """

    def __init__(self, name: str, report: Report, total: int | None = None, unit: str = "rows") -> None:
        self.name, self._report, self._total, self._unit = name, report, total, unit
        self.ahead: Callable[[], int] = lambda: 0
        self._rows, self._share = 0, 0.0
        self._pass, self._before = "", 0
        self._running: dict[Any, int] = {}
        self._most, self._counted = 2, -math.inf
        self._left = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Stage:
        self._since = self._begun = time.monotonic()
        self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        try:
            self._end()
        finally:
            self._ticker.join()
        self._seconds = time.monotonic() - self._since

    def begin(self, name: str, total: int) -> None:
        """One of several passes: what is told while it runs is of it alone."""
        self._pass, self._total, self._share = f"{name}: ", total, 0.0
        self._before, self._begun = self._rows, time.monotonic()

    def advance(self, rows: int, share: float | None = None) -> None:
        """`share` is these rows' share of the stage, where their number does not tell."""
        self._rows += rows
        self._share += share if share is not None else rows / self._total if self._total else 0.0

    def each(self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """Runs a task for each tuple of arguments and yields (position, result) as they end, a bounded number at a time.

        What fails by the machine's fault is tried again: a task writes the same files however often it runs.

        Raises:
            InputError: a task did, as it did.
        """
        again = {"max_retries": TRIES - 1, "retry_exceptions": [OSError, MemoryError]}
        task = ray.remote(function).options(scheduling_strategy="SPREAD", **again)
        waiting = enumerate(arguments)
        following = next(waiting, None)
        while self._running or following is not None:
            limit = self._limit()
            while following is not None and len(self._running) < limit:
                self._running[task.remote(*following[1])] = following[0]
                following = next(waiting, None)
            (ref,), _ = ray.wait(list(self._running))
            try:
                result = ray.get(ref)
            except RayTaskError as error:
                if isinstance(error.cause, InputError):
                    raise type(error.cause)(str(error.cause)) from None
                raise
            yield self._running.pop(ref), result

    def _limit(self) -> int:
        """How many tasks may run or wait: nodes may join meanwhile."""
        if time.monotonic() - self._counted > CPUS_SECONDS:
            self._most, self._counted = max(2, 2 * int(ray.cluster_resources().get("CPU", 1))), time.monotonic()
        return self._most

    def line(self, message: str) -> str:
        """What is said of the stage once it is left."""
        rate = f", {self._rows / self._seconds:,.0f} {self._unit}/s" if self._rows else ""
        return f"{self.name:<10} {message}{rate} ({self._seconds:.1f} s)"

    def _tick(self) -> None:
        while not self._left.wait(PROGRESS_SECONDS):
            seconds = time.monotonic() - self._begun
            rows, share = self._rows - self._before + self.ahead(), self._share
            of = f" of {self._total:,}" if self._total else ""
            left = f", {seconds * (1 - share) / share:,.0f} s left" if 0 < share <= 1 else ""
            self._report(f"{self.name:<10} {self._pass}{rows:,}{of} {self._unit}, {rows / seconds:,.0f} {self._unit}/s{left}")

    def _end(self) -> None:
        """Waits for what still runs. What does not end soon is killed; nothing else is cancelled: Ray (2.60) aborts this
        process where a task ends just as it is cancelled.
        """
        running = list(self._running)
        if running:
            _, running = ray.wait(running, num_returns=len(running), timeout=END_SECONDS)
        for ref in running:
            ray.cancel(ref, force=True)
        if running:
            ray.wait(running, num_returns=len(running), timeout=END_SECONDS)
        self._running.clear()
