"""Views of histories: how many a second on one core, beside a copy of the same bytes and one history at a time in Python.

python -m tests.benchmarks.views [--quick] [--keep]

A batch of 256 prefixes of Beauty's training rows, 50 wide, where HARDNEG_DATA has them, else of random items with lengths by a
geometric law; draws keyed by the row, as in training. A copy: what any view writes, and nothing else. Loop: the view as the
unit tests write it out, from tensors to tensors; its draws are not counted. `replace` has a pool of 1,024 and gets the rows
four times over, for as many views at once; beside it the product that makes its cosines, which it is given. Turns alternate.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components import catalog
from components.data.interactions import Interactions
from components.training.batches import Batch
from components.views import Uniforms, Weights, similar_for
from tests.benchmarks import _common, _logs
from tests.unit.views import loops

BATCH, WIDTH, POOL, DIM, AT_ONCE, SEED = 256, 50, 1024, 64, 4, 1
VIEWS = ("crop", "mask", "reorder", "insert", "substitute", "replace")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    name, log = _log()
    started = time.perf_counter()
    similar = similar_for([{"neighbours": 1}], log)
    assert similar is not None
    table_seconds = time.perf_counter() - started
    histories_BL, lengths_B = _prefixes(log)
    _common.say(f"{name}: mean length {lengths_B.double().mean():.1f}, similar items in {table_seconds:.1f} s")
    weights, cosines = _weights(histories_BL, log.num_items)
    batch = Batch(lengths_B, lengths_B, first_row=0, rows=BATCH, key=(SEED, 0, 0))
    runs: dict[str, Callable[[], Any]] = {"copy": lambda: (histories_BL.clone(), lengths_B.clone()), "cosines": cosines}
    runs |= _loops(histories_BL, lengths_B, batch.uniforms, similar)
    once = histories_BL, lengths_B, batch.uniforms
    repeated = histories_BL.repeat(AT_ONCE, 1), lengths_B.repeat(AT_ONCE), _repeated(batch), weights
    for view in VIEWS:
        built = catalog.build("views", {"name": view}, log.num_items, similar)
        runs[view] = functools.partial(built, *(repeated if view == "replace" else once))
    seconds = _common.times(runs, 20 if arguments.quick else 200)
    views: dict[str, dict[str, float]] = {}
    for view in VIEWS:
        rows = BATCH * (AT_ONCE if view == "replace" else 1)
        views[view] = {"histories_per_second": rows / seconds[view], "copies": seconds[view] / rows / seconds["copy"] * BATCH}
        if f"{view} loop" in seconds:
            views[view]["share_of_the_loop"] = seconds[view] / seconds[f"{view} loop"]
        _common.say(f"{view}: " + ", ".join(f"{what} {value:,.2f}" for what, value in views[view].items()))
    return {
        "seeds": [SEED],
        "figures": {
            "log": name,
            "batch": BATCH,
            "width": WIDTH,
            "mean_length": float(lengths_B.double().mean()),
            "copies_per_second": BATCH / seconds["copy"],
            "views": views,
            "replace_seconds": {"views": AT_ONCE, "itself": seconds["replace"], "its_cosines": seconds["cosines"]},
            "similar_items_seconds": table_seconds,
        },
    }


def _loops(histories_BL: Tensor, lengths_B: Tensor, uniforms: Uniforms, similar: Tensor) -> dict[str, Callable[[], Any]]:
    """Each view at its defaults, history after history."""
    purposes = ("start", "order", "positions", "neighbour")
    start, order, positions, neighbour = (uniforms(purpose, WIDTH).tolist() for purpose in purposes)
    options = [[item for item in row if item < len(similar)] for row in similar.tolist()]
    views: dict[str, Callable[[list[int], int], list[int]]] = {
        "crop": lambda row, b: loops.crop(row, start[b][0], 0.5),
        "mask": lambda row, b: loops.mask(row, positions[b], 0.5, len(similar)),
        "reorder": lambda row, b: loops.reorder(row, start[b][0], order[b], 0.8),
        "insert": lambda row, b: loops.insert(row, positions[b], neighbour[b], 0.4, options, WIDTH),
        "substitute": lambda row, b: loops.substitute(row, positions[b], neighbour[b], 0.1, options),
    }

    def each(view: Callable[[list[int], int], list[int]]) -> tuple[Tensor, Tensor]:
        rows = zip(histories_BL.tolist(), lengths_B.tolist(), strict=True)
        return loops.padded([view(row[:length], b) for b, (row, length) in enumerate(rows)], WIDTH, len(similar))

    return {f"{name} loop": functools.partial(each, view) for name, view in views.items()}


def _weights(histories_BL: Tensor, items: int) -> tuple[Weights, Callable[[], Tensor]]:
    """Of random vectors, for the rows AT_ONCE times over; and the product that makes the cosines."""
    random = torch.Generator().manual_seed(SEED)
    vectors_ID = torch.nn.functional.normalize(torch.randn(items, DIM, generator=random), dim=1)
    behaviours_U = histories_BL[histories_BL < items].unique()
    pool_M = torch.randint(items, (POOL,), generator=random).sort().values
    importance_BL = torch.rand(histories_BL.shape, generator=random).repeat(AT_ONCE, 1)
    targets_B = torch.randint(items, (BATCH,), generator=random).repeat(AT_ONCE)

    def cosines() -> Tensor:
        return vectors_ID[behaviours_U] @ vectors_ID[pool_M].T

    return Weights(importance_BL, targets_B, pool_M, behaviours_U, cosines()), cosines


def _repeated(batch: Batch) -> Uniforms:
    return lambda purpose, n: torch.cat([batch.uniforms(f"{copy}: {purpose}", n) for copy in range(AT_ONCE)])


def _prefixes(log: Interactions) -> tuple[Tensor, Tensor]:
    """As many of all prefixes that training has as a batch holds; each has at least one behaviour, and one after it."""
    random = np.random.default_rng(SEED)
    rows = np.flatnonzero(np.arange(len(log)) > log.offsets[log.users])  # what follows a prefix
    histories = []
    for row in random.choice(rows, BATCH, replace=False):
        first = max(int(log.offsets[log.users[row]]), int(row) - WIDTH)
        histories.append(log.items[first:row].tolist())
    return loops.padded(histories, WIDTH, log.num_items)


def _log() -> tuple[str, Interactions]:
    """The training part of leave-one-out, in the order of time."""
    if _common.data(_logs.SEQUENCES["beauty"]) is None:
        random = np.random.default_rng(SEED)
        lengths = random.geometric(1 / 4, 22_363) + 2
        users = np.repeat(np.arange(len(lengths)), lengths)
        return "random rows of Beauty's size", Interactions.of(
            users, random.integers(0, 12_101, len(users)), len(lengths), 12_101
        )
    return "beauty", _logs.read("beauty", "train")


if __name__ == "__main__":
    sys.exit(_common.main("views", __doc__ or "", measure))
