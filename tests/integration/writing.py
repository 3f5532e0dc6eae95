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

EPOCHS = 4
PARENT = "mlflow.parentRunId"
LONG = "x" * 10_000


@dataclass(frozen=True)
class Job:
    """What all writers share; picklable. A writer's epochs are `pause` seconds apart."""

    folder: Path
    tracking_uri: str
    pause: float = 0.0

    @property
    def recipe(self) -> Recipe:
        tracking = {"uri": self.tracking_uri, "experiment": "writers"}
        return worlds.recipe(tracking=tracking, scale={"storage_path": str(self.folder)})

    @property
    def dataset(self) -> Path:
        return self.folder / "dataset"

    def run(self, name: str) -> Path:
        return self.folder / "runs" / name


def dataset(job: Job) -> None:
    job.dataset.mkdir()
    about = {"fingerprint": "d" * 12, "num_users": 3, "num_items": 5, "rows": {"train": 9}}
    storage.write_json(job.dataset / storage.MANIFEST, about)


def begin(job: Job, name: str, tags: Mapping[str, str]) -> _tracking.TrackedRun:
    run = job.run(name)
    run.mkdir(parents=True)
    storage.write_text(run / "recipe.json", job.recipe.to_json())
    return _tracking.create(job.recipe, run, job.dataset, {"writer": name, **tags}, {"writer": name, "long": LONG})


def epochs(number: int) -> list[dict[str, float]]:
    """What a writer's epochs measure, its test behind them: other values in each writer."""
    trained = [{"loss": number + 1 / n, "valid_recall@20": number * n / 1000} for n in range(1, EPOCHS + 1)]
    return [*trained, {"test_recall@20": number / 7}]


def write(job: Job, number: int, parent: str) -> None:
    name = f"writer-{number:03d}"
    tracked, run = begin(job, name, {PARENT: parent}), job.run(name)
    *trained, tested = epochs(number)
    for step, metrics in enumerate(trained, start=1):
        entry = {"time": time.time(), "step": step, "metrics": metrics}
        _tracking.append_history(run, [entry])
        with _tracking.saying(tracked, run / _tracking.HISTORY):
            tracked.log([entry])
        time.sleep(job.pause)
    tracked.metrics(tested, step=EPOCHS + 1)
    tracked.artifact(run / "recipe.json", "notes")
    _tracking.end(tracked, run, "FINISHED", "as it was to be")


def write_all(job: Job, parent: str, processes: int, threads: int) -> None:
    """`processes` x `threads` writers, all at once; fails with the first error of one."""
    context = multiprocessing.get_context("spawn")
    ready, errors = context.Barrier(processes), context.SimpleQueue()
    numbers = [range(n * threads, (n + 1) * threads) for n in range(processes)]
    started = [context.Process(target=_process, args=(job, parent, own, ready, errors)) for own in numbers]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert errors.empty(), errors.get()
    assert [process.exitcode for process in started] == [0] * processes


def _process(job: Job, parent: str, numbers: range, ready: Any, errors: Any) -> None:
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    _mlflow.client("http://127.0.0.1:9")  # imports MLflow, which takes longer than all that follows
    ready.wait()
    with ThreadPoolExecutor(len(numbers)) as pool:
        for done in [pool.submit(write, job, number, parent) for number in numbers]:
            if error := done.exception():
                errors.put(f"{type(error).__name__}: {error}")
