"""Writers to MLflow through our tracker, many at once: each a training's run without the training."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components import storage
from components.config import Recipe
from ray_jobs import _mlflow, _tracking
from tests import worlds
from tests.integration.training import LIMIT_SECONDS, reported, wait_for

EPOCHS = 4
HALF = 2  # of them
LONG = "x" * 10_000
BEFORE, WITHIN, THROUGHOUT = range(3)  # where an outage meets a writer: number % 3


@dataclass(frozen=True)
class Job:
    """What all writers share; picklable. Tracked into a file below the folder where there is no URI.

    With an outage, a third of the writers begin in it, a third wait for it in the middle, a third keep writing until it comes.
    """

    folder: Path
    tracking_uri: str | None = None
    has_outage: bool = False

    @property
    def recipe(self) -> Recipe:
        tracking = {"uri": self.tracking_uri, "experiment": self.experiment}
        return worlds.recipe(tracking=tracking, scale={"storage_path": str(self.folder)})

    @property
    def experiment(self) -> str:
        return self.folder.name

    @property
    def dataset(self) -> Path:
        return self.folder / "dataset"

    @property
    def outage(self) -> Path:
        """There once the outage has begun."""
        return self.folder / "outage"

    def run(self, name: str) -> Path:
        return self.folder / "runs" / name

    def prepare(self) -> None:
        self.dataset.mkdir(parents=True)
        about = {"fingerprint": "d" * 12, "num_users": 3, "num_items": 5, "rows": {"train": 9}}
        storage.write_json(self.dataset / storage.MANIFEST, about)

    def is_halfway(self, numbers: range) -> bool:
        """Whether all who write before the outage have written half."""
        return all(reported(self.run(name_of(number))) >= HALF for number in numbers if number % 3 != BEFORE)


def name_of(number: int) -> str:
    return f"writer-{number:03d}"


def begin(job: Job, name: str, tags: Mapping[str, str]) -> _tracking.TrackedRun:
    run = job.run(name)
    run.mkdir(parents=True)
    storage.write_text(run / "recipe.json", job.recipe.to_json())
    return _tracking.create(job.recipe, run, job.dataset, {"writer": name, **tags}, {"writer": name, "long": LONG})


def measured(number: int) -> tuple[list[dict[str, float]], dict[str, float]]:
    """What a writer's epochs and its test measure: other values in each writer."""
    trained = [{"loss": number + 1 / n, "valid_recall@20": number * n / 1000} for n in range(1, EPOCHS + 1)]
    return trained, {"test_recall@20": number / 7}


def write(job: Job, number: int, tags: Mapping[str, str]) -> None:
    """Begins a run, logs its epochs as the controller does, without patience, then a test and a file, and ends."""
    meets = number % 3 if job.has_outage else None
    if meets == BEFORE:
        wait_for(job.outage.exists, "the outage")
    tracked, run = begin(job, name_of(number), tags), job.run(name_of(number))
    trained, tested = measured(number)
    for step, metrics in enumerate(trained, start=1):
        entry = {"time": time.time(), "step": step, "metrics": metrics}
        _tracking.append_history(run, [entry])
        _log(tracked, run, entry)
        while step == HALF and meets in (WITHIN, THROUGHOUT) and not job.outage.exists():
            if meets == THROUGHOUT:
                _log(tracked, run, entry)
            else:
                time.sleep(0.05)
    tracked.metrics(tested, step=EPOCHS + 1)
    tracked.artifact(run / "recipe.json", "notes")
    _tracking.end(tracked, run, "FINISHED", "as it was to be")


def _log(tracked: _tracking.TrackedRun, run: Path, entry: dict[str, Any]) -> None:
    with _tracking.saying(tracked, run / _tracking.HISTORY):
        tracked.log([entry], patience=0)


def write_all(job: Job, tags: Mapping[str, str], processes: int, threads: int) -> None:
    """`processes` x `threads` writers, all at once; fails with the first error of one."""
    context = multiprocessing.get_context("spawn")
    ready, errors = context.Barrier(processes), context.SimpleQueue()
    numbers = [range(n * threads, (n + 1) * threads) for n in range(processes)]
    started = [context.Process(target=_process, args=(job, tags, own, ready, errors)) for own in numbers]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert errors.empty(), errors.get()
    assert [process.exitcode for process in started] == [0] * processes


def _process(job: Job, tags: Mapping[str, str], numbers: range, ready: Any, errors: Any) -> None:
    """The limits are those of a busy machine, on which two cores are server, database and all writers."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "120"
    _mlflow.PATIENCE_SECONDS = LIMIT_SECONDS
    _mlflow.client("http://127.0.0.1:9")  # imports MLflow, which takes longer than all that follows
    ready.wait()
    with ThreadPoolExecutor(len(numbers)) as pool:
        for done in [pool.submit(write, job, number, tags) for number in numbers]:
            if error := done.exception():
                errors.put(f"{type(error).__name__}: {error}")
