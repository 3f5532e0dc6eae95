"""A prepared dataset as training sees it: integer pairs, memory-mapped, written once per node.

    dataset/  users.parquet/ items.parquet/    id, raw, degree[, title]
              train/ valid/ test/              user, item[, time]
              quarantine/  manifest.json

Part files in the order of their names hold ascending users; in a user, rows are ordered by time.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components import storage

Ints = NDArray[np.int32]
Rows = Sequence[int] | NDArray[np.integer]


@dataclass(frozen=True)
class Interactions:
    """Rows (user, item) sorted by user; `offsets[u]:offsets[u+1]` are the rows of user u, in their order (`load`)."""

    num_users: int
    num_items: int
    users: Ints  # [rows]
    items: Ints  # [rows]
    offsets: NDArray[np.int64]  # [num_users + 1]
    starts: NDArray[np.int64] | None = None  # [num_users] a user's rows before here are history, no positives; None: all are
    cache: Path | None = None  # the folder of this node that it is mapped from

    def __len__(self) -> int:
        return len(self.items)

    def positives(self) -> NDArray[np.int64]:
        """The rows that are trained on, ascending."""
        return np.arange(len(self)) if self.starts is None else ragged(self.starts, self.offsets[1:] - self.starts)

    def positive_counts(self) -> NDArray[np.int64]:
        """[num_users] positives of each user."""
        return np.diff(self.offsets) if self.starts is None else self.offsets[1:] - self.starts

    def positive_degrees(self) -> NDArray[np.int64]:
        """[num_items] positives of each item."""
        return (
            self.item_degrees() if self.starts is None else np.bincount(self.items[self.positives()], minlength=self.num_items)
        )

    def __deepcopy__(self, _memo: dict[int, Any]) -> Interactions:
        """Itself: its rows, which may be mapped, are for reading alone."""
        return self

    def items_of(self, user: int) -> Ints:
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def rows_of(self, users_B: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(place_N, item_N): the items of each of some users, end to end, and the user's place among those asked for."""
        starts_B = self.offsets[users_B]
        counts_B = self.offsets[np.asarray(users_B) + 1] - starts_B
        place_N = np.repeat(np.arange(len(users_B)), counts_B)
        first_B = starts_B - (np.cumsum(counts_B) - counts_B)
        return place_N, self.items[np.arange(len(place_N)) + first_B[place_N]].astype(np.int64)

    def item_degrees(self) -> NDArray[np.int64]:
        """[num_items] rows of each item."""
        return np.bincount(self.items, minlength=self.num_items)

    @classmethod
    def of(cls, users: Rows, items: Rows, num_users: int, num_items: int) -> Interactions:
        """From rows in any order; a user's rows keep theirs."""
        order = np.argsort(np.asarray(users), kind="stable")
        sorted_users = np.asarray(users, dtype=np.int32)[order]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(sorted_users, minlength=num_users))])
        return cls(num_users, num_items, sorted_users, np.asarray(items, dtype=np.int32)[order], offsets.astype(np.int64))


def ragged(starts: NDArray[np.integer], counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """starts[0] .. starts[0]+counts[0]-1, then starts[1] .., end to end."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - counts), counts)


def load(dataset: Path, *splits: str) -> Interactions:
    """The rows of one or several splits together, memory-mapped from this node's cache (HARDNEG_CACHE, else temporary).

    A user's rows are in the order of time, those of one moment in the order of `splits`; where the dataset has no time, split
    after split, each in the order of the source.

    The first process of a node to ask writes the cache, shard by shard; the others wait for it and map the same pages. What
    is cached goes by the manifest's checksum, and with it by that of every file.

    Raises:
        InputError: the dataset is not finished.
    """
    manifest = storage.open_finished(dataset, "dataset")
    home = Path(os.environ.get("HARDNEG_CACHE") or Path(tempfile.gettempdir()) / f"hardneg-{os.getuid()}")
    by_time = manifest["has_time"] and len(splits) > 1  # one split has its order already
    folder = home / f"{storage.digest(dataset / storage.MANIFEST)[:16]}-{'+'.join(splits)}{'-by_time' * by_time}"
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with one_writer(folder):
        if not folder.is_dir():
            _write_cache(dataset, splits, folder, manifest["num_users"], by_time)
    mapped = "r" if (folder / "users.npy").stat().st_size > 128 else None  # an empty array cannot be mapped
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode=mapped) for name in ("users", "items", "offsets")}
    return Interactions(manifest["num_users"], manifest["num_items"], **arrays, cache=folder)  # pyright: ignore[reportArgumentType]


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """The other processes of a node wait."""
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write_cache(dataset: Path, splits: Sequence[str], folder: Path, num_users: int, by_time: bool) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a writer that was killed
    partial.mkdir()
    shards = sorted({file.name for split in splits for file in (dataset / split).glob("*.parquet")})
    files = [[f for split in splits if (f := dataset / split / shard).is_file()] for shard in shards]
    rows = sum(pq.read_metadata(f).num_rows for shard in files for f in shard)
    users, items = (_create(partial / f"{name}.npy", rows) for name in ("users", "items"))
    counts = np.zeros(num_users + 1, np.int64)
    at = 0
    for shard in files:
        table = pa.concat_tables(pq.read_table(f, columns=["user", "item", "time"][: 2 + by_time]) for f in shard)
        shard_users = table["user"].to_numpy()
        order = np.lexsort([table["time"].to_numpy(), shard_users] if by_time else [shard_users])  # stable
        users[at : at + len(order)] = shard_users[order]
        items[at : at + len(order)] = table["item"].to_numpy()[order]
        ids, degrees = np.unique(shard_users, return_counts=True)
        counts[ids + 1] += degrees
        at += len(order)
    del users, items  # flushed
    np.save(partial / "offsets.npy", np.cumsum(counts))
    partial.rename(folder)  # whole or not at all


def _create(path: Path, rows: int) -> Ints:
    if rows == 0:  # an empty file cannot be mapped
        np.save(path, np.zeros(0, np.int32))
        return np.zeros(0, np.int32)
    return np.lib.format.open_memmap(path, "w+", np.int32, (rows,))
