"""Seconds per epoch of MF with sampled softmax on Gowalla, against a plain torch loop written out here.

python -m tests.benchmarks.epoch [--quick] [--keep] [--threads N]

d 64, batch 2048, in-batch negatives, one worker, fused Adam; the same tables, rows and order at first, hence the same losses:
they are compared. The plain loop has its rows as tensors and its order drawn beforehand, and masks nothing; beside it stands
the loop that ships, Trainer.run(), once with the same loss and once as recipes have it by default, which masks every user's
own items in the batch. Turns of 50 steps alternate. Limit: 1.1, for the same loss.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F

from components import config
from components.data.interactions import Interactions
from components.training.batches import steps_per_epoch
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.benchmarks import _common

USERS, ITEMS, ROWS = 29_858, 40_981, 810_128
BATCH, WIDTH, TEMPERATURE, LEARNING_RATE, SEED, TURN = 2048, 64, 0.1, 1e-3, 1, 50
LIMIT = 1.1


class Plain:
    """What one would write by hand."""

    def __init__(self, users_UD: torch.Tensor, items_ID: torch.Tensor) -> None:
        self.tables = [torch.nn.Parameter(table.clone()) for table in (users_UD, items_ID)]
        self.optimizer = torch.optim.Adam(self.tables, lr=LEARNING_RATE, fused=True)

    def step(self, users_B: torch.Tensor, items_B: torch.Tensor) -> float:
        queries_BD = F.normalize(F.embedding(users_B, self.tables[0]), dim=1)
        positives_BD = F.normalize(F.embedding(items_B, self.tables[1]), dim=1)
        logits_BB = (queries_BD @ positives_BD.T) / TEMPERATURE
        loss = F.cross_entropy(logits_BB, torch.arange(len(users_B)))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=1, help="torch threads; 1 (the default) is a worker's own number")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(arguments.threads)
    name, train = log()

    def trainer_of(exclude: str) -> Trainer:
        return Trainer(_recipe(exclude), train, None, Workers(), torch.device("cpu"))

    same, masked = trainer_of("nothing"), trainer_of("seen")
    plain = Plain(*(table.detach() for table in same.encoder.parameters()))
    order = [(batch.users_B, batch.items_B) for batch in same.batches()]
    apart = _largest_difference(plain, trainer_of("nothing"), order[:TURN])
    plain = Plain(*(table.detach() for table in same.encoder.parameters()))
    loops = {"hardneg": same.run(), "hardneg_masked": masked.run()}
    turns = 3 if arguments.quick else len(order) // TURN - 1  # not the epoch's end, which validates
    _common.say(f"{name}: {turns} turns of {TURN} steps, threads: {arguments.threads}")
    seconds: dict[str, list[float]] = {"plain": [], "hardneg": [], "hardneg_masked": []}
    for turn in range(turns):
        started = time.perf_counter()
        for rows in order[turn * TURN : (turn + 1) * TURN]:
            plain.step(*rows)
        seconds["plain"].append(time.perf_counter() - started)
        for what, loop in loops.items():
            started = time.perf_counter()
            for _ in range(TURN):
                next(loop)
            seconds[what].append(time.perf_counter() - started)
        _common.say(f"turn {turn}: " + ", ".join(f"{what} {times[-1]:.2f} s" for what, times in seconds.items()))
    ratios = {what: statistics.median(h / p for h, p in zip(seconds[what], seconds["plain"], strict=True)) for what in loops}
    steps = steps_per_epoch(len(train), BATCH)
    _common.say(
        f"ratio {ratios['hardneg']:.2f} (limit {LIMIT}), masked {ratios['hardneg_masked']:.2f}, losses within {apart:.1e}"
    )
    return {
        "variant": f"{arguments.threads}_threads",
        "seeds": [SEED],
        "figures": {
            "log": name,
            "threads": arguments.threads,
            "steps_per_epoch": steps,
            "seconds_per_epoch": {what: statistics.median(times) / TURN * steps for what, times in seconds.items()},
            "ratio": ratios["hardneg"],
            "ratio_masked": ratios["hardneg_masked"],
            "limit": LIMIT,
            "largest_difference_of_losses": apart,
        },
    }


def _recipe(exclude: str) -> config.Recipe:
    return config.parse(
        {
            "name": "epoch",
            "seed": SEED,
            "data": {"source": "unused"},
            "encoder": {"name": "mf", "dim": WIDTH},
            "loss": {"name": "sampled_softmax", "temperature": TEMPERATURE},
            "negatives": [{"name": "in_batch", "exclude": exclude}],
            "optimizer": {"learning_rate": LEARNING_RATE},
            "training": {"batch_size": BATCH},
        }
    )


def _largest_difference(plain: Plain, trainer: Trainer, order: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Of the losses of both loops' first steps: they compute the same."""
    batches = itertools.islice(trainer.batches(), len(order))
    losses = [(plain.step(*rows), float(trainer.step(batch)) / BATCH) for rows, batch in zip(order, batches, strict=True)]
    apart = max(abs(a - b) for a, b in losses)
    assert apart < 1e-2, f"the losses differ by {apart}: not the same computation"
    return apart


def log() -> tuple[str, Interactions]:
    """Gowalla's training rows, or as many of a law like theirs; and which."""
    path = _common.data("gowalla_lightgcn.parquet")
    if path is not None:
        table = pq.read_table(path, columns=["user_id", "item_id"], filters=[("split", "=", "train")])
        return "gowalla", Interactions.of(table["user_id"].to_numpy(), table["item_id"].to_numpy(), USERS, ITEMS)
    random = np.random.default_rng(SEED)
    law = 1 / np.arange(10, ITEMS + 10)
    items = random.choice(ITEMS, ROWS, p=law / law.sum()).astype(np.int32)
    return "generated", Interactions.of(random.integers(0, USERS, ROWS, dtype=np.int32), items, USERS, ITEMS)


if __name__ == "__main__":
    sys.exit(_common.main("epoch", __doc__ or "", measure, add_arguments))
