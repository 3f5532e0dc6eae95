"""Bulk scoring: lists for 1,000,000 users out of 100,000 items, against the bare matrix product and top-k on as many threads.

python -m tests.benchmarks.recommend [--quick] [--keep] [--workers N] [--folder DIR]

Vectors (d 64) and the 20 items that each user has seen are random, for speed does not depend on them. Ours is what the actors
do, in their own program: loading, masks, exact top-k, the source's ids, Parquet, a record for each part. Its users per second
are counted from the moment that each actor has written a part, so that starting is apart. Bare: for each 256 users,
users @ items.T into one buffer, torch.topk; before ours and after it. Memory is the largest sum of proportional set sizes of
the program and all below it, at all users and at a quarter of them: beyond the tables that grow with users it must not grow.
`--quick`: 40,000 users.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from components import storage
from components.config import Scale
from components.data.interactions import Interactions
from components.evaluation.ranking import TILE
from components.evaluation.scorers import Factors
from tests.benchmarks import _common
from tests.benchmarks.prepare import watched

USERS, QUICK_USERS, ITEMS, WIDTH, SEEN, K, SEED = 1_000_000, 40_000, 100_000, 64, 20, 20, 1
BARE_TILES, PARTS_OF_USERS = 40, 4
OURS = "import sys; from tests.benchmarks import recommend; recommend.ours(sys.argv[1], int(sys.argv[2]))"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=psutil.cpu_count() or 1, help="actors of one CPU; by default all CPUs")
    parser.add_argument("--folder", help="where tables and lists lie for a while")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    users, workers = QUICK_USERS if arguments.quick else USERS, arguments.workers
    runs = {number: _measured(number, workers, arguments.folder) for number in (users // 4, users)}
    ratio = runs[users]["users_per_second"] / runs[users]["bare_users_per_second"]
    _common.say(f"{ratio:.2f} of the bare users per second")
    figures = {"items": ITEMS, "width": WIDTH, "k": K, "workers": workers, "runs": runs, "ratio": ratio}
    return {"seeds": [SEED], "figures": figures}


def _measured(users: int, workers: int, folder: str | None) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="hardneg-recommend-", dir=folder) as scratch:
        tables = _write(Path(scratch), users)
        before = _bare(Path(scratch), workers)
        run = watched([sys.executable, "-c", OURS, scratch, str(workers)])
        run.require()
        bare = (before + _bare(Path(scratch), workers)) / 2
        records = list((Path(scratch) / "done").glob("*.json"))
        parts = [(record.stat().st_mtime, storage.read_json(record)["rows"] / K) for record in records]
        assert sum(number for _, number in parts) == users, f"lists for other than {users} users"
    told = {
        "users_per_second": users_per_second(parts, workers),
        "bare_users_per_second": bare,
        "seconds": run.seconds,
        "peak_gib": run.peak / 2**30,
        "tables_gib": workers * tables / 2**30,
    }
    _common.say(f"{users:,} users: " + ", ".join(f"{name} {value:.2f}" for name, value in told.items()))
    return told


def users_per_second(parts: Iterable[tuple[float, float]], workers: int) -> float:
    """Of the moment when each part was there, and its users: from the moment when each of the workers has written one."""
    ordered = sorted(parts)
    assert len(ordered) > 2 * workers, f"{len(ordered)} parts are too few to time"
    return sum(users for _, users in ordered[workers:]) / (ordered[-1][0] - ordered[workers - 1][0])


def _write(folder: Path, users: int) -> int:
    """The tables, and users' ids in PARTS_OF_USERS files; returns the bytes that an actor loads."""
    random = np.random.default_rng(SEED)
    for name, rows in (("users", users), ("items", ITEMS)):
        np.save(folder / f"{name}.npy", random.standard_normal((rows, WIDTH), dtype=np.float32))
    np.save(folder / "seen.npy", random.integers(0, ITEMS, users * SEEN, dtype=np.int32))
    for number, ids in enumerate(np.array_split(np.arange(users, dtype=np.int32), PARTS_OF_USERS)):
        pq.write_table(pa.table({"id": ids, "raw": ids.astype(np.int64) * 1_000_003}), folder / f"users-{number}.parquet")
    return sum(file.stat().st_size for file in folder.glob("*.npy"))


def load(folder: Path) -> tuple[Factors, Interactions]:
    """What an actor has: tables of its own, as of a checkpoint that it has read."""
    users_UD, items_ID, seen = (np.load(folder / f"{name}.npy") for name in ("users", "items", "seen"))
    users = np.repeat(np.arange(len(users_UD), dtype=np.int32), SEEN)
    return Factors(*map(torch.from_numpy, (users_UD, items_ID))), Interactions.of(users, seen, len(users_UD), ITEMS)


def ours(folder: str, workers: int) -> None:
    """A program of its own."""
    from ray_jobs import _program, _ranking

    here = Path(folder)
    for name in ("lists", "done"):
        (here / name).mkdir()
    raw_items, scale = pa.array([f"item-{n}" for n in range(ITEMS)]), Scale(num_workers=workers)
    with _program.cluster():
        parts = sorted(here.glob("users-*.parquet"))
        how = functools.partial(load, here)
        _ranking.recommend(how, parts, raw_items, K, scale, here / "lists", here / "done")


@torch.no_grad()
def _bare(folder: Path, threads: int) -> float:
    """Users per second of the product and the selection alone."""
    torch.set_num_threads(threads)
    items_ID = torch.from_numpy(np.load(folder / "items.npy"))
    users_UD = torch.from_numpy(np.load(folder / "users.npy", mmap_mode="r")[: BARE_TILES * TILE].copy())
    scores_TI, started = torch.empty(TILE, ITEMS), 0.0
    for number, queries_TD in enumerate(users_UD.split(TILE)):
        if number == 1:  # the first warms up
            started = time.perf_counter()
        torch.topk(torch.mm(queries_TD, items_ID.T, out=scores_TI[: len(queries_TD)]), K)
    return (len(users_UD) - TILE) / (time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(_common.main("recommend", __doc__ or "", measure, add_arguments))
