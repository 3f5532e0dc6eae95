"""When a trial did what, read off the files that it leaves; and what the places of a search did while they did not train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components import storage
from ray_jobs import _tracking, _trials, _workers

PARTS = (
    "the program and Ray start",
    "the next trial's own process starts",
    "the next trial's MLflow run begins",
    "the last report of the one before is kept",
    "Train's controller, the place and the worker's process",
    "data and model",
    "the first step",
    "the search ends",
)


@dataclass(frozen=True)
class Span:
    """Of a trial that trained in one go; seconds since 1970.

    It has its own process at `process` and its MLflow run at `tracked`, then its controller asks for a place; its worker runs
    at `began` and has data and model at `loaded`. It trains from its `first_step` until it is `trained`, validations included;
    Train's controller has `told` the last epoch, and all is written when it is `finished`.
    """

    process: float
    tracked: float
    began: float
    loaded: float
    first_step: float
    trained: float
    told: float
    finished: float

    @property
    def training(self) -> float:
        """Seconds."""
        return self.trained - self.first_step


def of(trial: Path) -> Span:
    """Of a finished trial."""
    seen = storage.read_json(trial / _workers.PROGRESS)
    return Span(
        process=_written(trial / _trials.POINT),
        tracked=_written(trial / _tracking.LINKS),
        began=seen["began"],
        loaded=seen["loaded"],
        first_step=seen["first_step"],
        trained=_tracking.read_history(trial)[-1]["time"],
        told=_written(trial / _tracking.HISTORY),
        finished=_written(trial / storage.MANIFEST),
    )


def training_seconds(trial: Path) -> float | None:
    """From the first step to the end of the last epoch that was kept; None where there is none."""
    history, progress = _tracking.read_history(trial), trial / _workers.PROGRESS
    if not history or not progress.exists():
        return None
    return history[-1]["time"] - storage.read_json(progress)["first_step"]


def untrained(spans: Sequence[Span], slots: int, started: float, up: float, ended: float) -> dict[str, float]:
    """Seconds of all places together in which none trained, by PARTS: their sum is slots * (ended - started) - all training.

    A place is without training from the end of one trial's to the first step of the next. `up` is when Ray was there.

    Raises:
        ValueError: more trials than places trained at once.
    """
    parts: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    free: list[tuple[float, Span | None]] = [(started, None)] * slots
    for span in sorted(spans, key=lambda each: each.first_step):
        since, before = min(free, key=lambda place: place[0])  # who waits longest gets what is free first
        if since > span.first_step:
            raise ValueError(f"{slots} places: got more trials that trained at once")
        told = before.told if before else started
        stamps = (up, span.process, span.tracked, told, span.began, span.loaded, span.first_step)
        for part, stamp in zip(PARTS, stamps, strict=False):
            until = min(max(stamp, since), span.first_step)
            parts[part] += until - since
            since = until
        free.remove(min(free, key=lambda place: place[0]))
        free.append((span.trained, span))
    parts[PARTS[-1]] = sum(ended - since for since, _ in free)
    return parts


def _written(path: Path) -> float:
    return path.stat().st_mtime
