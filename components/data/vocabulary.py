"""All item ids of a log, by partitions of their hash: none of it on the driver but the partitions' sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.config import Titles
from components.data import partitions, readers, sources, values
from components.data.arrow import pc
from components.data.files import SourceFile
from components.errors import InputError

AT_ONCE = 1 << 20  # ids


@dataclass(frozen=True)
class Merged:
    """The ids of all shards in a partition, and how many of them differ."""

    taken: int
    items: int


def merge(shard_items: Sequence[Path], part: int, path: Path, places: Path) -> Merged:
    """Writes the distinct items of one partition over all shards, ascending.

    `places` gets a partition for each shard: where its items are among them. Beside the distinct ones no more than AT_ONCE
    ids (or one shard's) are held.
    """
    distinct: pa.Array | None = None
    for columns in _some(shard_items, part):
        distinct = pc.unique(pa.chunked_array(columns if distinct is None else [distinct, *columns]))
    assert distinct is not None, "there is a shard"
    items = partitions.sorted_unique(distinct)
    partitions.write_whole(pa.table({"raw": items}), path)
    schema = pa.schema([("place", pa.int32())])
    taken = 0
    with partitions.Atomic(places) as partial, pa.ipc.new_file(str(partial), schema) as writer:
        for columns in _some(shard_items, part):
            found = pc.index_in(pa.concat_arrays(columns), value_set=items)
            assert not found.null_count, f"{path} lacks items of a shard"
            taken += len(found)
            end = 0
            for column in columns:
                writer.write_batch(pa.record_batch([found.slice(end, len(column))], schema))
                end += len(column)
    return Merged(taken, len(items))


def _some(shard_items: Sequence[Path], part: int) -> Iterator[list[pa.Array]]:
    """One partition's ids of each shard, some shards at a time."""
    columns: list[pa.Array] = []
    for file in shard_items:
        columns.append(partitions.read(file, part)["raw"].combine_chunks())
        if sum(map(len, columns)) >= AT_ONCE:
            yield columns
            columns = []
    if columns:
        yield columns


def finish(
    vocabulary: Path,
    new_id: NDArray[np.int32],
    degree: NDArray[np.int64],
    titles: Titles | None,
    encoding: str,
    path: Path,
) -> tuple[int, dict[str, Any]]:
    """Writes one partition of items.parquet and returns how many of its items have a title, and the file's entry.

    Both arrays are by the partition's codes: `new_id` is -1 where an item is dropped, `degree` counts rows of train.
    """
    raw = partitions.read_all(vocabulary)["raw"].combine_chunks()
    kept = np.flatnonzero(new_id >= 0)
    raw = raw.take(pa.array(kept))
    columns = {"id": pa.array(new_id[kept]), "raw": raw, "degree": pa.array(degree[kept])}
    if titles:
        columns["title"] = titles_of(raw, titles, encoding)
    entry = partitions.write_parquet(pa.table(columns), path)
    return len(raw) - columns["title"].null_count if titles else 0, entry


def check_titles(titles: Titles, encoding: str) -> SourceFile:
    """Opens the file of titles.

    Raises:
        InputError: not there, unreadable, or without one of the columns.
    """
    try:
        file = sources.open_one(titles.source, encoding)
    except InputError as error:
        raise InputError(f"data.titles.source: {error}") from error
    for key, name in (("item", titles.item), ("title", titles.title)):
        if name not in file.columns:
            raise sources.missing(f"data.titles.{key}", name, file)
    kind = file.types[file.columns.index(titles.title)] if file.types else "text"
    if kind != "text":
        raise InputError(f"data.titles.title: {titles.title!r} of {file.path} is {kind}, takes text")
    return file


def titles_of(raw: pa.Array, titles: Titles, encoding: str) -> pa.Array:
    """[items] titles, null where the file has none; of two titles the first."""
    file = check_titles(titles, encoding)
    wanted = pc.cast(raw, pa.string())
    found: list[pa.Table] = []
    for block in readers.read(readers.whole(file), [titles.item, titles.title], encoding):
        refused = values.Refusals(len(block.line))
        item = values.ids(block.columns[titles.item], titles.item, "string", refused)
        title = values.utf8(block.columns[titles.title], titles.title, refused)
        refused.add(np.asarray(pc.equal(pc.binary_length(title), 0)), f"{titles.title} is empty")
        table = pa.table({"item": pc.cast(item, pa.string()), "title": title})
        found.append(table.filter(pc.and_(pc.is_in(item, value_set=wanted), pa.array(refused.good))))
    table = (
        pa.concat_tables(found) if found else pa.table({"item": pa.array([], pa.string()), "title": pa.array([], pa.string())})
    )
    first = np.sort(np.unique(np.asarray(table["item"].combine_chunks().dictionary_encode().indices), return_index=True)[1])
    table = table.take(pa.array(first))
    return table["title"].combine_chunks().take(pc.index_in(wanted, value_set=table["item"].combine_chunks()))
