"""Datasets on their way to S3 and back to a storage path, by the driver alone: what else reads one reads the storage path."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from components import storage
from components.config import Recipe
from components.data import remote
from ray_jobs import _tracking
from ray_jobs._tasks import Report, Stage

PAUSE_SECONDS = 1.0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def upload(folder: Path, place: str, report: Report = _say) -> None:
    """Puts a finished dataset to its place in S3, unless another preparation has done so meanwhile. Raises as remote.upload."""
    if remote.look(place):
        report(f"{place}: was put there meanwhile")
        return
    files = storage.open_finished(folder, "dataset")["files"]
    with Stage("upload", report, _bytes(files), "bytes") as stage:
        remote.upload(folder, place, stage.advance)
    report(stage.line(f"{len(files):,} files"))


def bring(recipe: Recipe, folder: Path, report: Report = _say) -> Path:
    """The folder of a dataset, which is brought from S3 where the storage path lacks it and S3 has it. Whoever comes while
    another program brings it, or prepares it, waits.

    Raises:
        InputError: what is there is not what its manifest says; or S3 denies it, or does not answer.
    """
    place = remote.place_of(recipe.scale, folder)
    if place is None or storage.is_finished(folder) or (found := remote.look(place)) is None:
        return folder
    waits = False
    while not storage.is_finished(folder):
        try:
            with storage.lock(folder):
                if storage.is_finished(folder):
                    break
                with Stage("fetch", report, _bytes(found["files"]), "bytes") as stage:
                    remote.fetch(place, folder, stage.advance)
            report(stage.line(f"{len(found['files']):,} files of {place}"))
        except storage.LockedError as error:
            if not waits:
                report(f"waiting: {error}")
            waits = True
            time.sleep(PAUSE_SECONDS)
    return folder


def linked(recipe: Recipe, run: Path) -> Path:
    """The folder of the dataset that a run, or a search, was begun on, as `bring` has it."""
    return bring(recipe, Path(storage.read_json(run / _tracking.LINKS)["dataset"]))


def _bytes(files: dict[str, dict[str, int]]) -> int:
    return sum(entry["bytes"] for entry in files.values())
