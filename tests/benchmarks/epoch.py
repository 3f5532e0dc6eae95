"""Seconds per epoch of MF with sampled softmax on Gowalla, against a plain torch loop written out here.

python -m tests.benchmarks.epoch [--quick] [--keep] [--threads N]

d 64, batch 2048, in-batch negatives, one worker, fused Adam; the same tables, rows and order at first, hence the same losses:
they are compared. The plain loop has its rows as tensors and its order drawn beforehand. Turns of 50 steps alternate.
Limit: 1.1.
"""

from __future__ import annotations

import argparse
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
    name, train = _log()
    recipe = config.parse(
        {
            "name": "epoch",
            "seed": SEED,
            "data": {"source": "unused"},
            "encoder": {"name": "mf", "dim": WIDTH},
            "loss": {"name": "sampled_softmax", "temperature": TEMPERATURE},
            "negatives": [{"name": "in_batch", "exclude": "nothing"}],
            "optimizer": {"learning_rate": LEARNING_RATE},
            "training": {"batch_size": BATCH},
        }
    )
    trainer = Trainer(recipe, train, None, Workers(), torch.device("cpu"))
    plain = Plain(*(table.detach() for table in trainer.encoder.parameters()))
    order = [(batch.users_B, batch.items_B) for batch in trainer.batches()]
    ours = trainer.batches()
    turns = 3 if arguments.quick else len(order) // TURN
    _common.say(f"{name}: {turns} turns of {TURN} steps, threads: {arguments.threads}")
    seconds: dict[str, list[float]] = {"plain": [], "hardneg": []}
    losses: dict[str, list[float]] = {"plain": [], "hardneg": []}
    for turn in range(turns):
        started = time.perf_counter()
        losses["plain"] += [plain.step(*rows) for rows in order[turn * TURN : (turn + 1) * TURN]]
        middle = time.perf_counter()
        losses["hardneg"] += [float(trainer.step(next(ours))) / BATCH for _ in range(TURN)]
        ended = time.perf_counter()
        seconds["plain"].append(middle - started)
        seconds["hardneg"].append(ended - middle)
        _common.say(f"turn {turn}: plain {middle - started:.2f} s, hardneg {ended - middle:.2f} s")
    ratio = statistics.median(h / p for h, p in zip(seconds["hardneg"], seconds["plain"], strict=True))
    steps = steps_per_epoch(len(train), BATCH)
    apart = max(abs(h - p) for h, p in zip(losses["hardneg"], losses["plain"], strict=True))
    assert apart < 1e-2, f"the losses differ by {apart}: not the same computation"
    _common.say(f"ratio {ratio:.2f} (limit {LIMIT}), largest difference of losses {apart:.1e}")
    return {
        "variant": f"{arguments.threads}_threads",
        "seeds": [SEED],
        "figures": {
            "log": name,
            "threads": arguments.threads,
            "steps_per_epoch": steps,
            "seconds_per_epoch": {what: statistics.median(times) / TURN * steps for what, times in seconds.items()},
            "ratio": ratio,
            "limit": LIMIT,
            "largest_difference_of_losses": apart,
        },
    }


def _log() -> tuple[str, Interactions]:
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
