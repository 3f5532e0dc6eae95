"""What a task of reading does: parts of files -> pieces of the shuffle, a bounded number of rows at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components import storage
from components.config import Data
from components.data import cleaning, partitions
from components.data.cleaning import Counts
from components.data.files import Part
from components.data.locations import StorageError
from components.data.partitions import Fan
from components.data.sources import SourcePlan
from components.errors import FullError, InputError


@dataclass(frozen=True)
class Reading:
    """What all tasks of one pass over the source share. `plan` needs no files; `number` tells the passes' pieces apart."""

    data: Data
    plan: SourcePlan
    work: Path
    fan: Fan
    piece_rows: int
    number: int = 0

    def piece(self, task: int, n: int) -> Path:
        return self.work / "pieces" / f"{self.number}-{task:05d}-{n:05d}.arrow"

    @property
    def gate(self) -> Path:
        return self.work / f"reading-{self.number}"

    def written(self) -> list[int]:
        """The task of each piece that is there."""
        return [int(path.name.split("-")[1]) for path in self.work.glob(f"pieces/{self.number}-*.arrow")]


def refused(work: Path, part: int) -> Path:
    """Where the rows lie that a part refused."""
    return work / "refused" / f"{part:05d}.parquet"


@contextmanager
def gate(job: Reading) -> Iterator[None]:
    """As long as it is open tasks may read; it closes behind the last of them: Ray Data cancels its tasks but awaits none."""
    with storage.room(job.gate):
        job.gate.parent.mkdir(parents=True, exist_ok=True)
        job.gate.touch()
    try:
        yield
    finally:
        with job.gate.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            job.gate.unlink()


@contextmanager
def _inside(job: Reading) -> Iterator[None]:
    """Raises FileNotFoundError if the gate is closed."""
    with job.gate.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # ends with the process
        if not os.fstat(file.fileno()).st_nlink:
            raise FileNotFoundError(job.gate)
        yield


def read(task: int, parts: Sequence[Part], job: Reading) -> dict[str, Any]:
    """Writes the task's pieces, and the rows that each part refused.

    A piece is written as soon as `piece_rows` rows are kept, so that no more than these and a block are held, whatever the size
    of a file or of its row groups. Returns {"pieces": names, "parts": {index: {"counts", "lines"}}}, or {"bad": {path:
    reason}} where files cannot be read: then what was written does not count.

    Raises:
        FullError: there is no room for it.
        StorageError: S3 denies it or does not answer: no fault of the file.
        FileNotFoundError: the gate is closed.
    """
    with _inside(job):
        return _read(task, parts, job)


def _read(task: int, parts: Sequence[Part], job: Reading) -> dict[str, Any]:
    pieces = _Pieces(task, job)
    found: dict[int, dict[str, Any]] = {}
    bad: dict[str, str] = {}
    for part in parts:
        try:
            found[part.index] = _read_part(part, pieces, job)
        except (FullError, StorageError):
            raise
        except InputError as error:
            bad[part.file.path] = str(error)
    if bad:
        return {"bad": bad}
    pieces.write()
    return {"pieces": pieces.names, "parts": found}


def _read_part(part: Part, pieces: _Pieces, job: Reading) -> dict[str, Any]:
    counts, lines = Counts(), 0
    with ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        for block in cleaning.clean_part(part, job.data, job.plan):
            pieces.add(block.kept)
            if block.refused.num_rows:
                if writer is None:
                    writer = stack.enter_context(partitions.parquet_stream(refused(job.work, part.index), cleaning.QUARANTINE))
                writer.write_table(block.refused)
            counts, lines = counts + block.counts, block.last_line
    return {"counts": vars(counts), "lines": lines}


class _Pieces:
    """Rows on their way to the pieces of one task."""

    def __init__(self, task: int, job: Reading) -> None:
        self._task, self._job = task, job
        self._tables: list[pa.Table] = []
        self._rows = 0
        self.names: list[str] = []

    def add(self, table: pa.Table) -> None:
        self._tables.append(table)
        self._rows += table.num_rows
        if self._rows >= self._job.piece_rows:
            self.write()

    def write(self) -> None:
        """Writes what is there, if anything is."""
        if self._rows:
            fan, path = self._job.fan, self._job.piece(self._task, len(self.names))
            table = pa.concat_tables(self._tables)
            partitions.write(table, fan.group(table["user"]), fan.groups, path)
            self.names.append(path.name)
        self._tables, self._rows = [], 0


def gather(pieces: Sequence[Path], group: int, fan: Fan, path: Path) -> int:
    """Cuts one group of shards out of some pieces, into its shards, and returns how many rows it has."""
    table = pa.concat_tables([partitions.read(piece, group) for piece in pieces])
    partitions.write(table, fan.place(table["user"]), fan.width, path)
    return table.num_rows
