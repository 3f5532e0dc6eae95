"""Ranking on a Ray cluster: Ray Data hands whole tiles of users to a pool of actors that hold the model.

Nothing here decides a number: a tile's rows are the same bits whichever actor computes them, and what is summed is summed
exactly. Blocks are put by the driver, not read by tasks, which would wait for ever for the CPUs that the actors hold.
"""

from __future__ import annotations

import contextlib
import functools
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
import torch
from numpy.typing import NDArray

from components import storage
from components.config import Scale
from components.data.interactions import Interactions
from components.evaluation.evaluate import Summary, Task, evaluate_protocols
from components.evaluation.protocols import Protocol
from components.evaluation.ranking import TILE, Ranker
from components.evaluation.scorers import Scorer
from ray_jobs import _program

LoadTask = Callable[[], tuple[Scorer, Task]]
LoadSeen = Callable[[], tuple[Scorer, Interactions]]
TILES_PER_BLOCK = 16
BLOCKS_PER_WORKER = 4  # at least, where there are tiles enough
PARTS = 16  # of all recommendations, likewise
SECONDS = ("encode", "rank")  # what `Ranker` tells


class Ranked(NamedTuple):
    """What a scorer's lists are worth, by protocol, and the microseconds that those of a user took, by all protocols."""

    summaries: dict[Protocol, Summary]
    microseconds_per_user: dict[str, float]


def evaluate(
    loads: Sequence[LoadTask],
    num_tiles: int,
    ks: Sequence[int],
    degrees_I: NDArray[np.int64],
    scale: Scale,
    out: Sequence[Mapping[Protocol, Path]],
) -> list[Ranked]:
    """Evaluates every tile of several scorers; the driver holds sums and one integer per item, scorer, protocol and K.

    Args:
        loads: each gives an actor a scorer and the task, which is the same for all.
        out: for each scorer a file by protocol, the same ones for all: a row per user, in their order, as
            `evaluate_protocols` makes them.
    """
    protocols = tuple(out[0])
    summaries: list[dict[Protocol, Summary]] = [{protocol: Summary(ks, degrees_I) for protocol in protocols} for _ in loads]
    seconds = [dict.fromkeys(SECONDS, 0.0) for _ in loads]
    size = _block_size(num_tiles, scale)
    pieces = [(n, start, min(size, num_tiles - start)) for n in range(len(loads)) for start in range(0, num_tiles, size)]
    blocks = [pa.table({"scorer": [n], "start": [start], "count": [count]}) for n, start, count in pieces]
    with contextlib.ExitStack() as stack:
        writers: dict[Path, pq.ParquetWriter] = {}
        for table in _mapped(blocks, _Evaluator, (tuple(loads), tuple(ks), protocols), scale):
            n, height = table["scorer"][0].as_py(), table.num_rows // len(protocols)
            for what in SECONDS:
                seconds[n][what] += table[what][0].as_py()
            table = table.drop_columns(["scorer", *SECONDS])
            for place, protocol in enumerate(protocols):
                part, path = table.slice(place * height, height), out[n][protocol]
                summaries[n][protocol].add(part)
                if path not in writers:
                    writers[path] = stack.enter_context(pq.ParquetWriter(_partial(path), part.schema, compression="zstd"))
                writers[path].write_table(part)
    for path in writers:
        _partial(path).replace(path)
    users = [own[protocols[0]].num_users for own in summaries]
    return [
        Ranked(own, {what: 1e6 * value / number for what, value in took.items()})
        for own, took, number in zip(summaries, seconds, users, strict=True)
    ]


def recommend(load: LoadSeen, users: Sequence[Path], raw_items: pa.Array, k: int, scale: Scale, out: Path, done: Path) -> int:
    """Writes `out`/part-*.parquet with columns user, item (raw ids), rank (from 1) and score. Returns the number of rows.

    Each part has a record in `done`, written after it; a part whose record is there and holds is not scored again. How users
    are cut into parts depends on them alone, so that other workers may go on, and the bytes are the same.

    Args:
        users: Parquet files with columns id and raw; the driver reads their footers alone.
        raw_items: the raw id of each item.
    """
    counts = [(str(path), pq.read_metadata(path).num_rows) for path in users]
    size = TILE * max(1, min(TILES_PER_BLOCK, sum(count for _, count in counts) // TILE // PARTS))
    pieces = [(path, start, min(size, count - start)) for path, count in counts for start in range(0, count, size)]
    kept = [_kept_rows(_part(out, n), _record(done, n)) for n in range(len(pieces))]
    blocks = [
        pa.table({"block": [n], "path": [path], "start": [start], "count": [count]})
        for n, (path, start, count) in enumerate(pieces)
        if kept[n] is None
    ]
    rows = sum(number for number in kept if number is not None)
    if len(blocks) < len(pieces):
        print(f"{len(pieces) - len(blocks)} of {len(pieces)} parts are there from before")
    if not blocks:
        return rows
    arguments = (load, ray.put(raw_items), k, out, done)
    return rows + sum(sum(table["rows"].to_pylist()) for table in _mapped(blocks, _Recommender, arguments, scale))


def _part(out: Path, block: int) -> Path:
    return out / f"part-{block:05d}.parquet"


def _record(done: Path, block: int) -> Path:
    return done / f"part-{block:05d}.json"


def _kept_rows(part: Path, record: Path) -> int | None:
    """The rows of a part that an earlier try has left whole; None of one that is to be written."""
    if not (part.is_file() and record.is_file()):
        return None
    said = storage.read_json(record)
    return said["rows"] if said["sha256"] == storage.digest(part) else None


def _mapped(blocks: list[pa.Table], actor: type, arguments: tuple, scale: Scale) -> Iterator[pa.Table]:
    """The actor's table of each block, in order; no more actors than there are CPUs for."""
    _program.quiet_data()
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    slots = _program.require_slots(scale, least=1, use_gpu=False)
    mapped = ray.data.from_arrow(blocks).map_batches(
        actor,
        fn_constructor_args=(*arguments, scale.cpus_per_worker),
        compute=ray.data.ActorPoolStrategy(size=min(scale.num_workers, slots)),
        num_cpus=scale.cpus_per_worker,
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
    )
    yield from mapped.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)


def _block_size(num_tiles: int, scale: Scale) -> int:
    return max(1, min(TILES_PER_BLOCK, num_tiles // (BLOCKS_PER_WORKER * scale.num_workers)))


class _Evaluator:
    """An actor's part of `evaluate`: tiles of a scorer in, a row per user out, protocol after protocol; each with seconds."""

    def __init__(self, loads: tuple[LoadTask, ...], ks: tuple[int, ...], protocols: tuple[Protocol, ...], threads: int) -> None:
        torch.set_num_threads(threads)  # a different number would be a different kernel
        self.loads, self.ks, self.protocols = loads, ks, protocols
        self._ranker = functools.lru_cache(maxsize=1)(self._load)  # blocks come scorer by scorer

    def __call__(self, block: pa.Table) -> pa.Table:
        assert block.num_rows == 1, f"{block.num_rows} pieces in a block"
        piece = block.to_pylist()[0]
        ranker, task = self._ranker(piece["scorer"])
        before = dict(ranker.seconds)
        tiles = range(piece["start"], piece["start"] + piece["count"])
        tables = [evaluate_protocols(ranker, task, tile, self.ks, self.protocols) for tile in tiles]
        table = pa.concat_tables(tile[protocol] for protocol in self.protocols for tile in tables)
        table = table.append_column("scorer", pa.array(np.full(table.num_rows, piece["scorer"], np.int8)))
        for what in SECONDS:
            spent = np.full(table.num_rows, ranker.seconds[what] - before[what])
            table = table.append_column(what, pa.array(spent))
        return table

    def _load(self, scorer: int) -> tuple[Ranker, Task]:
        loaded, task = self.loads[scorer]()
        return Ranker(loaded, task.seen, max(self.ks)), task


class _Recommender:
    """An actor's part of `recommend`: users in, a file of their lists written, its number of rows out."""

    def __init__(self, load: LoadSeen, raw_items: ray.ObjectRef, k: int, out: Path, done: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self.ranker, self.raw_items, self.out, self.done = Ranker(*load(), k), ray.get(raw_items), out, done

    def __call__(self, block: pa.Table) -> pa.Table:
        written = [self._write(**piece) for piece in block.to_pylist()]
        return pa.table({"rows": written})

    def _write(self, block: int, path: str, start: int, count: int) -> int:
        users = _users(path).slice(start, count)
        rows = pa.concat_tables(self._lists(users.slice(at, TILE)) for at in range(0, count, TILE))
        part = _part(self.out, block)
        partial = part.with_name(f".{part.name}.{uuid.uuid4().hex}")  # an actor that was thought dead may write the block too
        pq.write_table(rows, partial, compression="zstd")
        digest = storage.digest(partial)
        partial.replace(part)
        storage.write_json(_record(self.done, block), {"rows": rows.num_rows, "sha256": digest})
        return rows.num_rows

    def _lists(self, users: pa.Table) -> pa.Table:
        items_TK, scores_TK = self.ranker.top(users["id"].to_numpy())
        row, place = np.nonzero(items_TK >= 0)
        return pa.table(
            {
                "user": users["raw"].combine_chunks().take(pa.array(row)),
                "item": self.raw_items.take(pa.array(items_TK[row, place])),
                "rank": (place + 1).astype(np.int32),
                "score": scores_TK[row, place].astype(np.float32),
            }
        )


@functools.lru_cache(maxsize=1)
def _users(path: str) -> pa.Table:
    """A part of the users; an actor's blocks come mostly in the order of parts."""
    return pq.read_table(path, columns=["id", "raw"])


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}")
