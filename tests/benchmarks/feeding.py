"""Rows per second at which the memory-mapped global order feeds training, cold and warm, against what MF + SSM takes.

python -m tests.benchmarks.feeding [--rows 10000000] [--quick] [--keep]

A generated dataset (users and items uniform, 40 rows of each user), as prepare leaves it. `cache` is what a node does once:
Parquet to mapped columns. An epoch is every batch of 2048 rows in the global order, users and items as tensors; its order is
drawn first, and is part of it. Cold: the kernel was told to forget the columns' pages before. MF + SSM (d 64, in-batch, its
defaults) trains on the same rows, by the loop that ships, with its data left in memory; one thread.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from components import config, storage
from components.data import interactions
from components.data.interactions import Interactions
from components.training.batches import batches
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.benchmarks import _common

SEED, BATCH, WIDTH, SHARDS, ROWS_OF_USER, USERS_OF_ITEM = 1, 2048, 64, 16, 40, 5
STEPS, WARM_UP = 100, 5


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    rows, steps = (500_000, 10) if arguments.quick else (arguments.rows, STEPS)
    with tempfile.TemporaryDirectory(prefix="hardneg-feeding-") as folder:
        os.environ["HARDNEG_CACHE"] = str(Path(folder, "cache"))
        dataset = write_dataset(Path(folder, "dataset"), rows)
        started = time.perf_counter()
        cache = interactions.load(dataset, "train").cache
        seconds = {"cache": time.perf_counter() - started}
        assert cache is not None, "it is mapped from there"
        forget(cache)
        train = interactions.load(dataset, "train")
        seconds |= {"cold": _epoch(train), "warm": _epoch(train)}
        rates = {name: rows / taken for name, taken in seconds.items()}
        rates["mf_ssm"] = _consumed(train, steps)
    _common.say(", ".join(f"{name} {rate:,.0f} rows/s" for name, rate in rates.items()))
    figures = {"rows": rows, "threads": 1, "batch": BATCH, "width": WIDTH, "rows_per_second": rates}
    return {"seeds": [SEED], "figures": figures}


def write_dataset(folder: Path, rows: int) -> Path:
    """Shard by shard: ascending users, ROWS_OF_USER rows of each but the last."""
    users = -(-rows // ROWS_OF_USER)
    items = max(1, users // USERS_OF_ITEM)
    (folder / "train").mkdir(parents=True)
    edges = np.linspace(0, users, SHARDS + 1).astype(np.int64) * ROWS_OF_USER
    for n, (start, stop) in enumerate(zip(edges[:-1], np.minimum(edges[1:], rows), strict=True)):
        drawn = np.random.default_rng([SEED, n]).integers(0, items, stop - start, dtype=np.int32)
        table = pa.table({"user": (np.arange(start, stop) // ROWS_OF_USER).astype(np.int32), "item": drawn})
        pq.write_table(table, folder / "train" / f"part-{n:05d}.parquet", compression="zstd")
    about = {"kind": "dataset", "num_users": users, "num_items": items, "has_time": False, "rows": {"train": rows}}
    storage.finish(folder, about)
    return folder


def forget(folder: Path) -> None:
    """Tells the kernel that a folder's pages are not needed; nobody may have them mapped."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _epoch(train: Interactions) -> float:
    started, taken = time.perf_counter(), 0
    for batch in batches(train, batch_size=BATCH, seed=SEED, epoch=0, workers=Workers(), device=torch.device("cpu")):
        taken += len(batch.users_B)
    assert taken == len(train), f"{taken} rows were fed of {len(train)}"
    return time.perf_counter() - started


def _consumed(train: Interactions, steps: int) -> float:
    """Rows per second of training, without the drawing of its order."""
    recipe = config.parse(
        {
            "name": "feeding",
            "seed": SEED,
            "data": {"source": "unused"},
            "encoder": {"name": "mf", "dim": WIDTH},
            "loss": {"name": "sampled_softmax", "temperature": 0.1},
            "negatives": [{"name": "in_batch"}],
            "training": {"batch_size": BATCH},
        }
    )
    loop = Trainer(recipe, train, None, Workers(), torch.device("cpu")).run()
    for _ in range(WARM_UP):
        next(loop)
    started = time.perf_counter()
    for _ in range(steps):
        next(loop)
    return steps * BATCH / (time.perf_counter() - started)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=10_000_000)


if __name__ == "__main__":
    sys.exit(_common.main("feeding", __doc__ or "", measure, add_arguments))
