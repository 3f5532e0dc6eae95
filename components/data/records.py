"""What is left of a preparation's finished stages: a record of each, written last, and the files that it made.

    .work/00-read.json      made_from, the stage's name, its values, its outputs with their files and bytes, what it removed
    .work/00-read.npz       those of its values that are arrays

A stage counts as finished as long as its record was made from the same things and its outputs are there, whole; whatever else
lies in the folder is half-made and is removed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components import storage
from components.data.partitions import Atomic


class Records:
    """The finished stages of a dataset's folder, in their order. `made_from` is what all of them were made from."""

    def __init__(self, folder: Path, work: Path, made_from: dict[str, Any]) -> None:
        self._folder, self._work, self._made_from = folder, work, made_from
        self._asked = 0
        self._finished = self._whole(self._read())
        self.clear()

    def next(self, stage: str) -> dict[str, Any] | None:
        """The values of the stage that comes next, if it was finished."""
        if self._asked == len(self._finished):
            return None
        record, path = self._finished[self._asked], self._path(self._asked, stage)
        assert record["stage"] == stage, f"{path} is the record of {record['stage']}"
        self._asked += 1
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
            return {**record["values"], **arrays}

    def add(self, stage: str, values: dict[str, Any], outputs: Sequence[str], removes: Sequence[str]) -> None:
        """Records that a stage is finished, and then removes what of its forerunners' nobody reads any more.

        Values are text, numbers, lists and dictionaries of them, or arrays; `outputs` and `removes` are folders.
        """
        path = self._path(len(self._finished), stage)
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        with Atomic(path.with_suffix(".npz")) as partial, partial.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
        record = {
            "made_from": self._made_from,
            "stage": stage,
            "values": {name: value for name, value in values.items() if name not in arrays},
            "outputs": {name: _size(self._folder / name) for name in outputs},
            "removes": list(removes),
            "arrays": path.with_suffix(".npz").stat().st_size,
        }
        storage.write_json(path, record)
        self._finished.append(storage.read_json(path))  # as a later run will find it
        for name in removes:
            shutil.rmtree(self._folder / name, ignore_errors=True)

    def clear(self) -> None:
        """Removes everything that no finished stage made; the lock stays."""
        gone = _removed(self._finished)
        kept = {self._folder / name for record in self._finished for name in record["outputs"] if name not in gone}
        kept |= {self._folder / storage.LOCK, self._work}
        for n, record in enumerate(self._finished):
            path = self._path(n, record["stage"])
            kept |= {path, path.with_suffix(".npz")}
        for path in [*self._folder.iterdir(), *(self._work.iterdir() if self._work.is_dir() else [])]:
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Removes everything but the lock."""
        self._finished = []
        self.clear()

    def _path(self, n: int, stage: str) -> Path:
        return self._work / f"{n:02d}-{stage}.json"

    def _read(self) -> list[dict[str, Any]]:
        """The records there are, up to the first that is missing or was made from something else."""
        found: list[dict[str, Any]] = []
        while paths := list(self._work.glob(f"{len(found):02d}-*.json")):
            try:
                record = storage.read_json(paths[0])
            except json.JSONDecodeError:  # the machine lost its power before the file was on its disk
                break
            arrays = paths[0].with_suffix(".npz")
            whole = arrays.is_file() and arrays.stat().st_size == record["arrays"]
            if len(paths) > 1 or record["made_from"] != self._made_from or not whole:
                break
            found.append(record)
        return found

    def _whole(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """As many of the first records as have all their outputs, but for what one of these removed."""
        while records:
            gone = _removed(records)
            sizes = {name: size for record in records for name, size in record["outputs"].items() if name not in gone}
            if all(_size(self._folder / name) == size for name, size in sizes.items()):
                break
            records = records[:-1]
        return records


def _removed(records: Sequence[dict[str, Any]]) -> set[str]:
    return {name for record in records for name in record["removes"]}


def _size(folder: Path) -> list[int]:
    """[files, bytes], without the halves that killed tasks left."""
    sizes = [path.stat().st_size for path in folder.glob("[!.]*")]
    return [len(sizes), sum(sizes)]
