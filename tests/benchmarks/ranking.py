"""Full ranking against the bare tiled matrix product plus top-k, interleaved in one process on the same tables.

python -m tests.benchmarks.ranking [--quick] [--keep] [--threads N]

The task is Gowalla's classic split (29,858 users x 40,981 items) where HARDNEG_DATA has it, else random rows of its size;
vectors are random, for speed does not depend on them. Bare: for each 256 users, users @ items.T into one buffer, torch.topk: no
masks, no metrics, no order among ties. Ours does all of that, in `validate`. Limit: 1.5 times the bare seconds.
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

from components.data.interactions import Interactions
from components.evaluation.evaluate import Task, validate
from components.evaluation.ranking import TILE
from components.evaluation.scorers import Factors
from tests.benchmarks import _common

WIDTH, K, SEED = 64, 20, 1
USERS, ITEMS, TRAIN_ROWS, TEST_ROWS = 29_858, 40_981, 810_128, 217_242
LIMIT = 1.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=1, help="torch threads; 1 (the default) is a worker's own number")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(arguments.threads)
    name, task = _task()
    generator = torch.Generator().manual_seed(SEED)
    users_UD, items_ID = (torch.randn(n, WIDTH, generator=generator) for n in (task.seen.num_users, task.seen.num_items))
    scorer = Factors(users_UD, items_ID)
    tiles = range(min(task.num_tiles, 24) if arguments.quick else task.num_tiles)
    repeats = 3 if arguments.quick else 7
    cut = f"{len(tiles)} of {task.num_tiles} tiles of {TILE} users"
    _common.say(f"{name}: {cut}, {repeats} repeats, threads: {arguments.threads}")
    seconds: dict[str, list[float]] = {"bare": [], "ranked": []}
    for repeat in range(-1, repeats):  # the first warms up
        timed = {
            "bare": _timed(lambda: _bare(users_UD, items_ID, task, tiles)),
            "ranked": _timed(lambda: validate(scorer, task, [f"recall@{K}", f"ndcg@{K}"], tiles)),
        }
        for what, took in timed.items():
            if repeat >= 0:
                seconds[what].append(took)
        _common.say(f"repeat {repeat}: bare {timed['bare']:.2f} s, ranked {timed['ranked']:.2f} s")
    ratios = [ours / bare for ours, bare in zip(seconds["ranked"], seconds["bare"], strict=True)]
    ratio = statistics.median(ratios)
    _common.say(f"ratio {ratio:.2f} (limit {LIMIT})")
    return {
        "variant": f"{arguments.threads}_threads",
        "seeds": [SEED],
        "figures": {
            "log": name,
            "users": int(sum(len(task.tile(n)) for n in tiles)),
            "items": task.seen.num_items,
            "width": WIDTH,
            "k": K,
            "threads": arguments.threads,
            "bare_seconds": [round(s, 4) for s in seconds["bare"]],
            "ranked_seconds": [round(s, 4) for s in seconds["ranked"]],
            "ratio_median": round(ratio, 3),
            "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
            "limit": LIMIT,
            "within_limit": ratio <= LIMIT,
        },
    }


@torch.no_grad()
def _bare(users_UD: torch.Tensor, items_ID: torch.Tensor, task: Task, tiles: range) -> None:
    scores_TI = torch.empty(TILE, len(items_ID))  # allocated once: fresh pages would double the cost of the product
    for n in tiles:
        queries_TD = users_UD[torch.from_numpy(task.tile(n)).long()]
        torch.topk(torch.mm(queries_TD, items_ID.T, out=scores_TI[: len(queries_TD)]), K)


def _timed(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _task() -> tuple[str, Task]:
    path = _common.data("gowalla_lightgcn.parquet")
    if path is not None:
        table = pq.read_table(path)
        split = np.asarray(table["split"])
        user, item = np.asarray(table["user_id"]).astype(np.int32), np.asarray(table["item_id"]).astype(np.int32)
        parts = [Interactions.of(user[split == s], item[split == s], USERS, ITEMS) for s in ("test", "train")]
        return "gowalla", Task(*parts)
    rng = np.random.default_rng(SEED)
    parts = [
        Interactions.of(
            rng.integers(0, USERS, rows).astype(np.int32), rng.integers(0, ITEMS, rows).astype(np.int32), USERS, ITEMS
        )
        for rows in (TEST_ROWS, TRAIN_ROWS)
    ]
    return "random rows of Gowalla's size", Task(*parts)


if __name__ == "__main__":
    sys.exit(_common.main("ranking", __doc__ or "", measure, add_arguments))
