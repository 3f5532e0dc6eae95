"""All rows of some users, from the shuffle to the dataset: order, repeats, k-core, contiguous ids, splits.

A shard's rows carry local codes: users by rank of their id in the shard; items by (item partition, id) among the shard's own.
`codes` maps these to the vocabulary of all items: the vocabularies of the item partitions, one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.config import Data
from components.data import partitions, splits, temporal
from components.data.arrow import pc
from components.data.shifted import Shift
from components.data.statistics import ShardStatistics
from components.data.temporal import Cuts, Search

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
DEAD, UNKNOWN = -1, -2  # ids of items that the k-core or a cut by time leaves out


@dataclass(frozen=True)
class ShardFiles:
    """Where the work of one shard lies."""

    work: Path
    shard: int

    @property
    def rows(self) -> Path:
        return self.work / "rows" / f"{self.shard:05d}.arrow"

    @property
    def users(self) -> Path:
        return self.work / "users" / f"{self.shard:05d}.arrow"

    @property
    def items(self) -> Path:
        return self.work / "items" / f"{self.shard:05d}.arrow"

    @property
    def codes(self) -> Path:
        return self.work / "codes" / f"{self.shard:05d}.arrow"

    @property
    def living(self) -> Path:
        """The user and item of rows that the k-core had left when it last wrote them."""
        return self.work / "living" / f"{self.shard:05d}.arrow"

    def read_codes(self) -> NDArray[np.int32]:
        return np.asarray(partitions.read_all(self.codes)["code"])


@dataclass(frozen=True)
class Collected:
    """A shard's rows as they came, those left without repeats, its distinct items and users."""

    taken: int
    rows: int
    items: int
    users: int


def collect(
    sources: Sequence[Path], place: int, files: ShardFiles, repeats: str, split_names: Sequence[str], item_parts: int
) -> Collected:
    """Takes the shard's rows out of the shuffle, orders them, drops repeats, and writes them with local codes.

    Rows are ordered by (user, time, place in the source): of `sources` and in them they come in the order of their places. A
    repeat is a further row of the same user and item (and, where the source gives the split, in the same split). `place` is
    the shard's in the files of the shuffle.
    """
    table = pa.concat_tables([partitions.read(path, place) for path in sources]).combine_chunks()
    users, user = _encode(table["user"], None)
    items, item = _encode(table["item"], item_parts)
    split = np.zeros(len(user), np.int64)
    if "split" in table.column_names:
        split = np.asarray(pc.index_in(table["split"], pa.array(split_names, pa.string()))).astype(np.int64)
    keys = [np.asarray(table[name]) for name in ("fraction", "time") if name in table.column_names]
    order = np.lexsort((*keys, user))
    order = order[
        _distinct((user[order] * max(1, len(items)) + item[order]) * max(1, len(split_names)) + split[order], repeats)
    ]
    columns: dict[str, pa.Array] = {
        "user": pa.array(user[order].astype(np.int32)),
        "item": pa.array(item[order].astype(np.int32)),
    }
    if "time" in table.column_names:
        names = [name for name in ("time", "fraction") if name in table.column_names]
        columns |= {name: table[name].combine_chunks().take(pa.array(order)) for name in names}
    if "split" in table.column_names:
        columns["split"] = pa.array(split[order].astype(np.int8))
    partitions.write_whole(pa.table(columns), files.rows)
    partitions.write_whole(pa.table({"raw": users}), files.users)
    partitions.write(pa.table({"raw": items}), partitions.of(items, item_parts), item_parts, files.items)
    return Collected(len(user), len(order), len(items), len(users))


def _encode(column: pa.ChunkedArray, parts: int | None) -> tuple[pa.Array, Ints]:
    """(distinct ids ascending, each row's position in them); with `parts`, ascending inside each hash partition."""
    encoded = (
        pa.concat_arrays(column.chunks).dictionary_encode()
        if column.num_chunks
        else pa.array([], column.type).dictionary_encode()
    )
    order = np.asarray(pc.array_sort_indices(encoded.dictionary))
    if parts is not None:
        order = order[np.argsort(partitions.of(encoded.dictionary.take(pa.array(order)), parts), kind="stable")]
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return encoded.dictionary.take(pa.array(order)), rank[np.asarray(encoded.indices)]


def _distinct(keys: Ints, repeats: str) -> Ints:
    """Positions of the first (or last) row of each key, ascending."""
    if repeats == "first":
        return np.sort(np.unique(keys, return_index=True)[1])
    return np.sort(len(keys) - 1 - np.unique(keys[::-1], return_index=True)[1])


def encode(files: ShardFiles, places: Sequence[Path], offsets: Sequence[int]) -> int:
    """Writes the global code of each of the shard's items, its place in its partition from that one's offset on; how many."""
    of_part = [np.asarray(partitions.read(path, files.shard)["place"]) for path in places]
    found = np.concatenate([place + np.int32(offset) for place, offset in zip(of_part, offsets, strict=True)])
    partitions.write_whole(pa.table({"code": found}), files.codes)
    return len(found)


@dataclass(frozen=True)
class Round:
    """What is left of a shard: users, rows, and the rows of each of its items (`counts` at the global `codes`).

    `shrunk` says whether `living` has all rows that are left.
    """

    users: int
    rows: int
    codes: NDArray[np.int32]
    counts: NDArray[np.int32]
    shrunk: bool


def count(files: ShardFiles, alive: Bools, min_rows: int, shrunk: bool = False) -> Round:
    """One round of k-core: rows of living items, of users who have at least `min_rows` of these.

    Where fewer than half of the rows are left these are written apart, so that later rounds read no dead ones: all rounds
    together read a few times the log, however many they are.
    """
    table = partitions.read_all(files.living if shrunk else files.rows)
    codes = files.read_codes()
    user, item = _column(table, "user"), _column(table, "item")
    kept = survivors(user, item, alive[codes], min_rows)
    left = int(kept.sum())
    counts = np.bincount(item[kept], minlength=len(codes)).astype(np.int32)
    users = int(np.count_nonzero(np.bincount(user[kept])))
    if 2 * left < len(kept):
        partitions.write_whole(table.select(["user", "item"]).filter(pa.array(kept)), files.living)
        shrunk = True
    present = counts > 0
    return Round(users, left, codes[present], counts[present], shrunk)


def survivors(user: NDArray[np.integer], item: NDArray[np.integer], alive: Bools, min_rows: int) -> Bools:
    """Rows whose item lives and whose user has at least `min_rows` such rows."""
    living = alive[item]
    per_user = np.bincount(user[living], minlength=int(user.max(initial=-1)) + 1)
    return living & (per_user >= min_rows)[user]


def _column(table: pa.Table, name: str) -> NDArray[np.int32]:
    return np.asarray(table[name])


@dataclass(frozen=True)
class Core:
    """What the k-core left, to the passes of a split by time: `alive` is by the items' codes."""

    alive: Bools
    min_rows: int
    float_time: bool

    def of(self, files: ShardFiles) -> tuple[NDArray[np.int32], NDArray[np.int32], Ints]:
        """(user, code of the item, moment) of the shard's rows that are left."""
        table, codes = partitions.read_all(files.rows), files.read_codes()
        user, item = _column(table, "user"), _column(table, "item")
        kept = survivors(user, item, self.alive[codes], self.min_rows)
        return user[kept], codes[item[kept]], temporal.moments(temporal.times_of(table, self.float_time))[kept]


def span(files: ShardFiles, core: Core) -> tuple[int, int] | None:
    """(first, last) moment of the shard."""
    _, _, moments = core.of(files)
    return (int(moments.min()), int(moments.max())) if len(moments) else None


def count_moments(files: ShardFiles, core: Core, searches: Sequence[Search]) -> list[Ints]:
    """One pass of finding cuts by share."""
    _, _, moments = core.of(files)
    return [search.count(moments) for search in searches]


def train_part(files: ShardFiles, core: Core, cuts: Cuts) -> tuple[int, NDArray[np.int32], Ints]:
    """(users with a row in train, codes of the items with one, rows of train, valid and test)."""
    user, item, moments = core.of(files)
    codes = cuts.codes(moments)
    trains = codes == splits.TRAIN
    return len(np.unique(user[trains])), np.unique(item[trains]), np.bincount(codes, minlength=3)


@dataclass(frozen=True)
class Numbering:
    """A shard's users count on from `first_user`; a split's code is its position in `split_names`."""

    first_user: int
    float_time: bool
    split_names: list[str]


def finish(
    files: ShardFiles,
    out: Path,
    data: Data,
    seed: int,
    numbering: Numbering,
    new_ids: NDArray[np.int32],
    law: Cuts | Shift | None = None,
) -> tuple[ShardStatistics, dict[str, Any]]:
    """Writes the shard's part of users.parquet and of every split; a user's rows stay ordered by time.

    Returns what the report is made of, and the entry of each file that was written, by its path below `out`.
    `new_ids[code]` is an item's id, DEAD where it is dropped, UNKNOWN where `law` drops it: its rows are all held out.
    `law` is that of a temporal or a shifted split.
    """
    table = partitions.read_all(files.rows)
    new_id = new_ids[files.read_codes()]
    kept = survivors(_column(table, "user"), _column(table, "item"), new_id != DEAD, data.k_core.users)
    dropped: dict[str, int] = {}
    if isinstance(law, Cuts) and law.drop_unknown:
        table = table.filter(pa.array(kept))
        codes = law.codes(temporal.moments(temporal.times_of(table, numbering.float_time)))
        lost = temporal.unknown(_column(table, "user"), new_id[_column(table, "item")] >= 0, codes)
        dropped = {name: int((codes[lost] == code).sum()) for code, name in enumerate(numbering.split_names)}
        kept = ~lost
    table = table.filter(pa.array(kept))
    present, user = np.unique(_column(table, "user"), return_inverse=True)
    raw = partitions.read_all(files.users)["raw"].combine_chunks().take(pa.array(present))
    item = new_id[_column(table, "item")]
    times = temporal.times_of(table, numbering.float_time) if "time" in table.column_names else None
    if isinstance(law, Shift):
        keys = splits.random_keys(user, partitions.stable_hash(raw), seed)
        split = law.codes(item.astype(np.int64), keys, numbering.split_names)
    elif isinstance(law, Cuts):
        assert times is not None, "a split by time has times"
        split = law.codes(temporal.moments(times))
    else:
        own = np.asarray(table["split"]).astype(np.int8) if "split" in table.column_names else None
        split = splits.cut(data.split, user, partitions.stable_hash(raw), seed, own)
    columns = {"user": pa.array((user + numbering.first_user).astype(np.int32)), "item": pa.array(item)}
    if times is not None:
        columns["time"] = pa.array(times)
    rows = pa.table(columns)
    name = f"part-{files.shard:05d}.parquet"
    made: dict[str, Any] = {}
    for code, split_name in enumerate(numbering.split_names):
        made[f"{split_name}/{name}"] = partitions.write_parquet(rows.filter(pa.array(split == code)), out / split_name / name)
    degree = np.bincount(user[split == splits.TRAIN], minlength=len(raw))
    ids = np.arange(len(raw), dtype=np.int32) + np.int32(numbering.first_user)
    users = pa.table({"id": ids, "raw": raw, "degree": degree})
    made[f"users.parquet/{name}"] = partitions.write_parquet(users, out / "users.parquet" / name)
    given = "split" in table.column_names
    return ShardStatistics.of(user, item, split, numbering.split_names, times, dropped, given), made
