"""All item ids of a log, by partitions of their hash: none of it on the driver but the partitions' sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.config import Titles
from components.data import partitions, readers, sources, values
from components.data.arrow import pc
from components.data.files import SourceFile
from components.errors import InputError

AT_ONCE = 1 << 20  # ids, or titles
WHOLE = "^(0|-?[1-9][0-9]{0,18})$"  # how an integer is written
KINDS = {"int64": pa.int64(), "string": pa.string()}


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
    part: int,
    new_id: NDArray[np.int32],
    degree: NDArray[np.int64],
    titles: Sequence[Path] | None,
    path: Path,
) -> tuple[int, dict[str, Any]]:
    """Writes one partition of items.parquet and returns how many of its items have a title, and the file's entry.

    Both arrays are by the partition's codes: `new_id` is -1 where an item is dropped, `degree` counts rows of train. `titles`
    are what `cut_titles` wrote.
    """
    raw = partitions.read_all(vocabulary)["raw"].combine_chunks()
    kept = np.flatnonzero(new_id >= 0)
    raw = raw.take(pa.array(kept))
    columns = {"id": pa.array(new_id[kept]), "raw": raw, "degree": pa.array(degree[kept])}
    if titles is not None:
        columns["title"] = titles_of(raw, part, titles)
    entry = partitions.write_parquet(pa.table(columns), path)
    return len(raw) - columns["title"].null_count if titles is not None else 0, entry


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


def cut_titles(
    titles: Titles, encoding: str, item_type: Literal["int64", "string"], item_parts: int, folder: Path
) -> list[str]:
    """Cuts the file of titles by the items' partitions, once for all of them, AT_ONCE titles at a time; the files' names.

    An item is found by the text of its id: 7 by "7" and not by "007".
    """
    file, names, held = check_titles(titles, encoding), [], list[pa.Table]()

    def write() -> None:
        names.append(f"{len(names):05d}.arrow")
        table = pa.concat_tables(held)
        partitions.write(table, partitions.of(table["item"], item_parts), item_parts, folder / names[-1])
        held.clear()

    for block in readers.read(readers.whole(file), [titles.item, titles.title], encoding):
        refused = values.Refusals(len(block.line))
        text = pc.cast(values.ids(block.columns[titles.item], titles.item, "string", refused), pa.string())
        title = values.utf8(block.columns[titles.title], titles.title, refused)
        refused.add(np.asarray(pc.equal(pc.binary_length(title), 0)), f"{titles.title} is empty")
        item = text
        if item_type == "int64":
            refused.add(~_is_whole(text), "no item of this log is written so")
            item = pc.cast(pc.if_else(pa.array(refused.good), text, "0"), pa.int64())
        held.append(pa.table({"item": item, "title": title}).filter(pa.array(refused.good)))
        if sum(table.num_rows for table in held) >= AT_ONCE:
            write()
    if not names and not held:
        held.append(pa.table({"item": pa.array([], KINDS[item_type]), "title": pa.array([], pa.string())}))
    if held:
        write()
    return names


def _is_whole(text: pa.Array) -> NDArray[np.bool_]:
    """Where a text is what an int64 is written as; numbers of as many digits as the largest compare as texts do."""
    fits = pc.if_else(pc.starts_with(text, "-"), pc.less_equal(text, str(-(2**63))), pc.less_equal(text, str(2**63 - 1)))
    long = pc.greater_equal(pc.binary_length(pc.utf8_ltrim(text, "-")), 19)
    return np.asarray(pc.and_(pc.match_substring_regex(text, WHOLE), pc.or_(pc.invert(long), fits)))


def titles_of(raw: pa.Array, part: int, titles: Sequence[Path]) -> pa.Array:
    """[items] titles of a partition's items, null where the file has none; of two titles the first."""
    found = [partitions.read(path, part) for path in titles]
    table = pa.concat_tables([each.filter(pc.is_in(each["item"], value_set=raw)) for each in found])
    first = np.sort(np.unique(np.asarray(table["item"].combine_chunks().dictionary_encode().indices), return_index=True)[1])
    table = table.take(pa.array(first))
    return table["title"].combine_chunks().take(pc.index_in(raw, value_set=table["item"].combine_chunks()))
