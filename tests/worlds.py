"""A small log of a known law, recipes on it, and real gloo processes to train in."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from components import config
from components.config import Recipe
from components.data.interactions import Interactions
from components.evaluation.evaluate import Task
from components.objectives import _drawn, _fold, _shared
from components.training.collectives import Workers


class Share(Workers):
    """One of several workers, without the others."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@contextmanager
def tiles(rows: int = 3, columns: int = 4, numbers: int = 60) -> Iterator[None]:
    """No scores are held whole, however few: tiles of these rows and columns, or of rows with so many numbers."""
    sizes = [(_fold, "NUMBERS_AT_ONCE", -1), (_drawn, "NUMBERS_AT_ONCE", numbers)]
    with ExitStack() as stack:
        for module, name, size in [*sizes, (_shared, "ROWS", rows), (_shared, "COLUMNS", columns)]:
            stack.enter_context(mock.patch.object(module, name, size))
        for pool in (_drawn.Drawn, _shared.Shared):
            stack.enter_context(mock.patch.object(pool, "products", side_effect=AssertionError("all scores at once")))
        yield


def small_log(users: int = 60, items: int = 40, rows: int = 900, seed: int = 0) -> Task:
    """Items by Zipf's law (exponent 1), users uniform, repeats dropped; a fifth of the rows is held out: (truth, seen)."""
    random = np.random.default_rng(seed)
    law = 1 / np.arange(1, items + 1)
    drawn = np.stack([random.integers(0, users, rows), random.choice(items, rows, p=law / law.sum())], axis=1)
    pairs = np.unique(drawn, axis=0)
    held_out = random.random(len(pairs)) < 0.2
    parts = (pairs[held_out], pairs[~held_out])
    truth, seen = (Interactions.of(part[:, 0], part[:, 1], users, items) for part in parts)
    return Task(truth, seen)


def recipe(**sections: Any) -> Recipe:
    """A recipe of MF with sampled softmax on in-batch negatives, with some sections replaced."""
    base = {
        "name": "small",
        "data": {"source": "log.csv"},
        "encoder": {"name": "mf", "dim": 8},
        "loss": {"name": "sampled_softmax", "temperature": 0.2},
        "negatives": [{"name": "in_batch"}],
        "training": {"batch_size": 50, "epochs": 3, "precision": "float64"},
    }
    return config.parse({**base, **sections})


def in_processes(function: Callable[..., Any], world_size: int, folder: Path, *arguments: Any) -> list[Any]:
    """`function(*arguments)` in each of `world_size` gloo processes; their results in the order of ranks.

    They are forked by a server that has imported torch, which each of them would take seconds for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    multiprocessing.set_forkserver_preload(["components.training.loop"])
    given = (world_size, str(folder), function, arguments)
    mp.start_processes(_process, given, nprocs=world_size, start_method="forkserver")  # pyright: ignore
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world_size)]


def _process(rank: int, world_size: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    torch.save(function(*arguments), Path(folder) / f"{rank}.pt")
    dist.barrier()  # who leaves while another still connects breaks its connection
    dist.destroy_process_group()
