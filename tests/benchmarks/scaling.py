"""Rows per second of one worker and of two, one thread each; and what more would give, on paper.

python -m tests.benchmarks.scaling [--quick] [--keep]

MF and LightGCN (1 layer) with sampled softmax in-batch, d 64, global batch 8,192, on Gowalla or a log of its size: real
processes over gloo, each with the loop that ships, Trainer.run(). A step's seconds are split into data (the next batch),
exchange (in collectives, waiting for the other included) and compute (the rest); turns of one, of one beside another that it
does not know, and of two together alternate. Target: MF at 1.6 times the rows per second. Two that share nothing but the
machine's memory and clock are its own bound. Collectives of one number and of 8 MiB give what a round and a byte cost here.

`seconds` is the model of more workers, each on a machine as busy as this one with two: what of compute and data two workers
halve of one's beside another is shared by W, the rest each repeats; a ring has W - 1 rounds for a gather and twice that for a
sum, of which a worker receives (W - 1) / W of the bytes, none of it beside compute; what two workers wait for each other stays.
It assumes equal workers of one thread and the same global batch.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from components import config
from components.data.interactions import Interactions
from components.training.batches import Batch
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.benchmarks import _common, epoch
from tests.worlds import in_processes

BATCH, WIDTH, LIMIT = 8192, 64, 1.6
WARM_UP, STEPS, TURNS = 3, 30, 3
MODELS: dict[str, dict[str, Any]] = {"MF": {"name": "mf"}, "LightGCN": {"name": "lightgcn", "layers": 1}}
ALONE, BESIDE, TOGETHER = "1", "1 beside another", "2"
COUNTS = (1, 2, 4, 8, 16, 32, 64)
NETWORKS = {
    "10 Gbit/s, 50 µs a round": (50e-6, 1.25e9),
    "100 Gbit/s, 10 µs a round": (10e-6, 1.25e10),
    "a free one": (0.0, math.inf),
}
LARGE = 2**21  # numbers, 8 MiB


@dataclass(frozen=True)
class Parts:
    """Of a step, measured: seconds, bytes, rounds."""

    repeated: float  # what each worker does, however many there are
    shared: float  # what one does alone, W share
    waited: float  # for the other of two
    received: float  # by a worker of many; by one of W, (W - 1) / W of it
    rounds: float  # of two


def seconds(parts: Parts, workers: int, latency: float, rate: float) -> float:
    """A step of W workers, where a round takes `latency` seconds and a byte 1 / `rate`:

    repeated + shared / W + (waited + (W - 1) * rounds * latency + (W - 1) / W * received / rate, where W > 1)
    """
    if workers == 1:
        return parts.repeated + parts.shared
    exchanged = (workers - 1) * (parts.rounds * latency + parts.received / workers / rate)
    return parts.repeated + parts.shared / workers + parts.waited + exchanged


def parts_of(one: dict[str, float], two: dict[str, float], latency: float, rate: float) -> Parts:
    """From steps of one worker (beside another) and of two, and what collectives cost between these two."""
    alone, both = (each["compute"] + each["data"] for each in (one, two))
    shared = min(max(2 * (alone - both), 0.0), alone)
    told = two["rounds"] * latency + two["received"] / rate
    return Parts(alone - shared, shared, max(two["exchange"] - told, 0.0), 2 * two["received"], two["rounds"])


class _Counted(Workers):
    """Counts the rounds that a ring takes."""

    rounds = 0

    def _all_gather(self, padded: Tensor) -> list[Tensor]:
        self.rounds += self.size - 1
        return super()._all_gather(padded)

    def _all_reduce(self, value: Tensor) -> None:
        self.rounds += 2 * (self.size - 1)
        super()._all_reduce(value)


def worker(recipe: str, log: Interactions, steps: int) -> dict[str, float]:
    """Of a step of one worker, the mean of `steps`: all its seconds, and those of each part; bytes and rounds."""
    workers = _Counted()
    trainer = Trainer(config.Recipe.from_json(recipe), log, None, workers, torch.device("cpu"))
    taken = 0.0
    batches = trainer.batches

    def timed() -> Iterator[Batch]:
        nonlocal taken
        source = batches()
        while True:
            began = time.perf_counter()
            batch = next(source, None)
            taken += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    trainer.batches = timed
    loop = trainer.run()
    for _ in range(WARM_UP):
        next(loop)
    if workers.size > 1:
        dist.barrier()

    def so_far() -> dict[str, float]:
        told = {"data": taken, "exchange": workers.exchange_seconds}
        return {"seconds": time.perf_counter(), **told, "received": workers.received, "rounds": workers.rounds}

    before = so_far()
    for _ in range(steps):
        next(loop)
    found = {name: (value - before[name]) / steps for name, value in so_far().items()}
    return {**found, "compute": found["seconds"] - found["data"] - found["exchange"]}


def network(repeats: int) -> dict[str, float]:
    """Seconds of a round, and bytes per second, in collectives of few and of many numbers: medians."""
    workers = Workers()

    def sum_of(numbers: int) -> float:
        found = []
        for _ in range(repeats):
            value = torch.zeros(numbers)
            dist.barrier()
            started = time.perf_counter()
            workers.sum(value)
            found.append(time.perf_counter() - started)
        return statistics.median(found)

    rounds = 2 * (workers.size - 1)
    latency = sum_of(1) / rounds
    return {"latency": latency, "rate": rounds / workers.size * LARGE * 4 / max(sum_of(LARGE) - rounds * latency, 1e-9)}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    name, log = epoch.log()
    steps, turns = (10, 1) if arguments.quick else (STEPS, TURNS)
    with tempfile.TemporaryDirectory() as folder:
        places = (Path(folder, str(n)) for n in range(10**6))
        here = in_processes(network, 2, next(places), 10 if arguments.quick else 100)[0]
        _common.say(f"a round takes {1e6 * here['latency']:.0f} µs, {here['rate'] / 1e9:.2f} GB/s")
        models = {}
        for model, encoder in MODELS.items():
            recipe = recipe_of(encoder, BATCH).to_json()
            turned: dict[str, list[dict[str, float]]] = {ALONE: [], BESIDE: [], TOGETHER: []}
            for turn in range(turns):
                for who, found in turned.items():
                    worlds, size = {ALONE: (1, 1), BESIDE: (2, 1), TOGETHER: (1, 2)}[who]
                    with ThreadPoolExecutor(worlds) as pool:
                        run = [pool.submit(in_processes, worker, size, next(places), recipe, log, steps) for _ in range(worlds)]
                    found.append(_mean([each for world in run for each in world.result()]))
                    _common.say(f"{model}, turn {turn}, {who}: {found[-1]}")
            models[model] = told_of(turned, here)
            _common.say(f"{model}: {models[model]['speedup']:.2f} times the rows per second")
    return {
        "seeds": [epoch.SEED],
        "figures": {"log": name, "batch": BATCH, "threads": 1, "limit": LIMIT, "here": here, "models": models},
    }


def told_of(turned: dict[str, list[dict[str, float]]], here: dict[str, float]) -> dict[str, Any]:
    """What was measured, and the model's speed-ups: on this machine, and on networks that there are."""
    medians = {who: _median(turns) for who, turns in turned.items()}
    taken = ([turn["seconds"] for turn in turned[who]] for who in (ALONE, BESIDE, TOGETHER))
    ratios, bounds = zip(*((a / c, 2 * a / b) for a, b, c in zip(*taken, strict=True)), strict=True)
    parts = parts_of(medians[BESIDE], medians[TOGETHER], here["latency"], here["rate"])
    networks = {"this machine's": (here["latency"], here["rate"]), **NETWORKS}
    return {
        "workers": medians,
        "speedup": statistics.median(ratios),
        "speedup_range": [min(ratios), max(ratios)],
        "bound": statistics.median(bounds),
        "parts": dataclasses.asdict(parts),
        "on_paper": {
            label: {str(count): seconds(parts, 1, *given) / seconds(parts, count, *given) for count in COUNTS}
            for label, given in networks.items()
        },
    }


def recipe_of(encoder: dict[str, Any], batch_size: int) -> config.Recipe:
    return config.parse(
        {
            "name": "scaling",
            "seed": epoch.SEED,
            "data": {"source": "unused"},
            "encoder": {**encoder, "dim": WIDTH},
            "loss": {"name": "sampled_softmax", "temperature": 0.1},
            "negatives": [{"name": "in_batch"}],
            "training": {"batch_size": batch_size, "epochs": 100, "select_on": "none"},
        }
    )


def _mean(of_workers: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.fmean(each[name] for each in of_workers) for name in of_workers[0]}


def _median(turns: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in turns) for name in turns[0]}


if __name__ == "__main__":
    sys.exit(_common.main("scaling", __doc__ or "", measure))
