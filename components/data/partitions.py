"""Tables cut by the hash of a key, in a file that any partition can be read out of: one half of a shuffle.

A task writes its rows as one Arrow file of one record batch for each partition; a task of the next stage maps the files and
takes its batch out of each. Nothing passes through the driver, and a task that runs twice writes the same bytes.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components import storage
from components.data.arrow import pc

Hashes = NDArray[np.uint64]
PRIME = np.uint64(0x100000001B3)


def mix(values: Hashes) -> Hashes:
    """splitmix64's finaliser: neighbouring inputs, unrelated outputs. Source: Steele, Lea, Flood, 2014."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def stable_hash(column: pa.Array | pa.ChunkedArray) -> Hashes:
    """64 bits of an id that are the same on every machine and in every version.

    Integers: mix(id). Text: mix(sum of (byte_j + 1) * PRIME^j mod 2^64), vectorised over the buffers.
    """
    array = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_integer(array.type):
        return mix(np.asarray(array).astype(np.int64).view(np.uint64))
    assert pa.types.is_string(array.type), f"ids are int64 or string, got {array.type}"
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    if not len(array) or offsets[-1] == offsets[0]:
        return mix(np.zeros(len(array), np.uint64))
    data = np.frombuffer(data_buffer, np.uint8)[offsets[0] : offsets[-1]].astype(np.uint64) + np.uint64(1)
    lengths = np.diff(offsets)
    starts = offsets[:-1] - offsets[0]
    powers = np.concatenate([[np.uint64(1)], np.full(int(lengths.max()) - 1, PRIME)]).astype(np.uint64).cumprod(dtype=np.uint64)
    data *= powers[np.arange(len(data)) - np.repeat(starts, lengths)]
    sums = np.zeros(len(array), np.uint64)
    filled = lengths > 0
    sums[filled] = np.add.reduceat(data, starts[filled])
    return mix(sums)


def of(column: pa.Array | pa.ChunkedArray, count: int) -> NDArray[np.int64]:
    """The partition of each id, 0 to count - 1."""
    return (stable_hash(column) % np.uint64(count)).astype(np.int64)


@dataclass(frozen=True)
class Fan:
    """How rows get from pieces to `shards` shards: shard s is place s % width of group s // width.

    Where the shards are no more than `most`, each is a group of its own and is taken out of every piece. Else there are
    sqrt(shards) groups, and each is cut into its shards on the way: shards^2 pieces need 2 shards^1.5 openings of files.
    """

    shards: int
    most: int

    @property
    def width(self) -> int:
        return 1 if self.shards <= self.most else math.isqrt(self.shards - 1) + 1

    @property
    def groups(self) -> int:
        return -(-self.shards // self.width)

    def group(self, column: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
        return of(column, self.shards) // self.width

    def place(self, column: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
        return of(column, self.shards) % self.width


def write(table: pa.Table, partition: NDArray[np.int64], count: int, path: Path) -> None:
    """Writes `table` as one batch for each partition; rows keep their order inside it."""
    ordered = table.take(pa.array(np.argsort(partition, kind="stable"))).combine_chunks()
    ends = np.cumsum(np.bincount(partition, minlength=count))
    batches = ordered.to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)]
    assert len(batches) == 1, "combined columns are one batch"
    with Atomic(path) as partial, pa.ipc.new_file(str(partial), table.schema) as writer:
        for start, end in zip(np.append(0, ends[:-1]), ends, strict=True):
            writer.write_batch(batches[0].slice(int(start), int(end - start)))


def write_whole(table: pa.Table, path: Path) -> None:
    """Writes `table` as a file of one partition, in its order."""
    with Atomic(path) as partial, pa.ipc.new_file(str(partial), table.schema) as writer:
        writer.write_table(table.combine_chunks())


def read(path: Path, partition: int) -> pa.Table:
    """One partition of a file, memory-mapped."""
    with pa.memory_map(str(path)) as source:
        return pa.Table.from_batches([pa.ipc.open_file(source).get_batch(partition)])


def read_all(path: Path) -> pa.Table:
    """Every partition of a file in order, memory-mapped."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def sorted_unique(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Distinct ids, ascending (text by its bytes)."""
    unique = pc.unique(column)
    return unique.take(pc.array_sort_indices(unique))


def write_parquet(table: pa.Table, path: Path) -> dict[str, Any]:
    """Returns the file's entry in a manifest."""
    with Atomic(path) as partial:
        pq.write_table(table, partial, compression="zstd")
    return storage.entry(path)


@contextmanager
def parquet_stream(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A Parquet file that is written a table at a time, each a row group: whole, or not there."""
    with Atomic(path) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        yield writer


class Atomic:
    """Gives a name beside `path` to write to, and moves it there: two tries of a task leave one whole file.

    Raises:
        FullError: there is no room for it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")

    def __enter__(self) -> Path:
        with storage.room(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.partial

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if error is None:
            self.partial.replace(self.path)
            return
        self.partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            with storage.room(self.path):
                raise error
