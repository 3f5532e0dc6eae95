"""What two workers exchange in a step, and its seconds, by the number of items: rows in use travel, not tables.

python -m tests.benchmarks.catalogue [--quick] [--keep]

MF with sampled softmax, in-batch negatives and a pool of 4,096 out of all items, d 16, global batch 8,192; one generated log,
of the same rows in catalogues of 10^5, 10^6 and 10^7 items; real processes over gloo, one thread each; dense Adam and lazy.
Bytes are those that a worker receives, of the tensors that it gives to collectives, as a ring would send them. Target: the same
for every catalogue. The largest takes 5 GiB with dense Adam.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components import config
from components.data.interactions import Interactions
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.benchmarks import _common
from tests.worlds import in_processes

SIZES, USERS, ROWS, BATCH, POOL, WIDTH, WORKERS, SEED = (10**5, 10**6, 10**7), 50_000, 200_000, 8192, 4096, 16, 2, 1
WARM_UP, STEPS, GROWTH = 2, 8, 1.0


def recipe_of(lazy: bool) -> config.Recipe:
    return config.parse(
        {
            "name": "catalogue",
            "seed": SEED,
            "data": {"source": "unused"},
            "encoder": {"name": "mf", "dim": WIDTH},
            "loss": {"name": "sampled_softmax", "temperature": 0.1},
            "negatives": [{"name": "in_batch"}, {"name": "uniform", "count": POOL}],
            "optimizer": {"lazy": lazy},
            "training": {"batch_size": BATCH, "select_on": "none"},
        }
    )


def worker(lazy: bool, items: int, steps: int) -> dict[str, float]:
    """Of a step: the median of seconds, the mean of bytes received."""
    random = np.random.default_rng(SEED)  # items of the log are among the first, so that its rows are the same
    users, rows = (random.integers(0, count, ROWS, dtype=np.int32) for count in (USERS, SIZES[0]))
    trainer = Trainer(recipe_of(lazy), Interactions.of(users, rows, USERS, items), None, Workers(), torch.device("cpu"))
    seconds, received = [], 0
    for n, batch in enumerate(itertools.islice(trainer.batches(), WARM_UP + steps)):
        before, started = trainer.workers.received, time.perf_counter()
        trainer.update(batch)
        if n >= WARM_UP:
            seconds.append(time.perf_counter() - started)
            received += trainer.workers.received - before
    return {"seconds": statistics.median(seconds), "received": received / steps}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    sizes, steps = (SIZES[:2], 3) if arguments.quick else (SIZES, STEPS)
    found: dict[str, dict[str, dict[str, float]]] = {"dense": {}, "lazy": {}}
    with tempfile.TemporaryDirectory() as folder:
        for items, (name, of_items) in itertools.product(sizes, found.items()):
            told = in_processes(worker, WORKERS, Path(folder, f"{name} {items}"), name == "lazy", items, steps)
            of_items[str(items)] = {what: max(each[what] for each in told) for what in ("seconds", "received")}
            _common.say(f"{name}, {items:,} items: {of_items[str(items)]}")
    return {"seeds": [SEED], "figures": told_of(found)}


def told_of(found: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
    """With the most bytes over the least, of either optimiser."""
    received = {name: [each["received"] for each in of_items.values()] for name, of_items in found.items()}
    growth = {name: max(each) / min(each) for name, each in received.items()}
    shape = {"workers": WORKERS, "batch": BATCH, "pool": POOL, "width": WIDTH}
    return {**shape, "limit": GROWTH, "optimizers": found, "growth": growth}


if __name__ == "__main__":
    sys.exit(_common.main("catalogue", __doc__ or "", measure))
