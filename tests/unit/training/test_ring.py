"""Candidates that go around a ring of workers are those that all have at once: two and three real processes against one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from components.objectives._ring import BLOCK, GRADIENT, _Blocks
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.worlds import in_processes, recipe, small_log

ROWS, WIDTH = 49, 8
CCL = {"name": "ccl", "margin": 0.2, "negative_weight": 20.0}
SCHEMES: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "seen out": (ROWS, {}, {}),
    "repeats stay": (ROWS, {"exclude": "nothing"}, {}),
    "bsl": (ROWS, {}, {"loss": {"name": "bsl"}}),
    "ccl": (ROWS, {}, {"loss": CCL}),
    "bpr": (ROWS, {"exclude": "same_item"}, {"loss": {"name": "bpr"}}),
    "fewer rows than workers": (2, {"exclude": "nothing"}, {}),
    "fewer rows than workers, ccl": (2, {"exclude": "nothing"}, {"loss": CCL}),
    "bfloat16": (ROWS, {}, {"precision": "bfloat16"}),
    "mixture": (
        ROWS,
        {},
        {
            "negatives": [{"name": "uniform", "count": 30}, {"name": "uniform", "count": 5, "per": "row"}],
            "loss": {"name": "sampled_softmax", "temperature": 0.2, "logq": True},
            "optimizer": {"l2": {"weight": 0.1, "on": "rows"}},
        },
    ),
}


class OfAllRows(TorchDispatchMode):
    """Counts matrices that have a vector for each row of the global batch."""

    found = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.found += sum(isinstance(each, Tensor) and each.shape == (ROWS, WIDTH) for each in tree_leaves(made))
        return made


def step(scheme: str, exchange: str) -> dict[str, Any]:
    """This worker's loss and the gradients of one global batch, and what it received and held of it."""
    rows, source, sections = SCHEMES[scheme]
    sections = dict(sections)
    negatives = [{"name": "in_batch", "exchange": exchange, **source}, *sections.pop("negatives", [])]
    training = {"batch_size": rows, "precision": sections.pop("precision", "float64")}
    given = recipe(training=training, negatives=negatives, **sections)
    trainer = Trainer(given, small_log().seen, None, Workers(), torch.device("cpu"))
    batch = next(trainer.batches())
    with OfAllRows() as of_all:
        loss = trainer.objective(batch).loss_B.double().sum()
        loss.backward()
    trainer.workers.sum_gradients(trainer.encoder.parameters())
    gradients = {name: table.grad for name, table in trainer.encoder.named_parameters()}
    return {"loss": loss.detach(), "of all": of_all.found, "received": trainer.workers.received, **gradients}


class Watched(Workers):
    """Knows what it is to receive and has not waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.coming: list[int] = []

    def _begun(self, begin: Callable[..., Any], tensor: Tensor, peer: int, tag: int) -> Callable[[], None]:
        wait = super()._begun(begin, tensor, peer, tag)
        if begin is not dist.irecv:
            return wait
        self.coming.append(tag)

        def waited() -> None:
            wait()
            self.coming.remove(tag)

        return waited


def under_way() -> list[list[int]]:
    """What is on its way here while each block is met, forward and backward."""
    found: list[list[int]] = []
    given = recipe(negatives=[{"name": "in_batch", "exchange": "ring"}], training={"batch_size": ROWS})
    trainer = Trainer(given, small_log().seen, None, Watched(), torch.device("cpu"))
    met, workers = _Blocks.found, trainer.workers

    def meet(*arguments: Any) -> Any:
        found.append(sorted(workers.coming))  # pyright: ignore[reportAttributeAccessIssue]
        return met(*arguments)

    with mock.patch.object(_Blocks, "found", meet):
        trainer.objective(next(trainer.batches())).loss_B.sum().backward()
    return [*found, sorted(workers.coming)]  # pyright: ignore[reportAttributeAccessIssue]


def comes_by_itself() -> bool:
    """Whether 8 MiB of the worker before are here though nobody waits for them."""
    workers, theirs = Workers(), torch.full((2**20,), -1.0, dtype=torch.float64)
    arrived = workers.pass_on(torch.full_like(theirs, workers.rank), theirs, BLOCK)
    ends = time.monotonic() + 60
    while bool((theirs < 0).any()) and time.monotonic() < ends:
        time.sleep(0.001)
    came = bool((theirs == (workers.rank - 1) % workers.size).all())
    arrived()
    return came


def everything() -> dict[str, Any]:
    told = {"under way": under_way(), "comes by itself": comes_by_itself()}
    return {scheme: step(scheme, "ring") for scheme in SCHEMES} | told


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return {scheme: step(scheme, "gather") for scheme in SCHEMES}


@pytest.mark.parametrize("workers", [2, 3])
def test_a_ring_gives_what_one_worker_has(tmp_path: Path, alone: dict[str, Any], workers: int) -> None:
    together = in_processes(everything, workers, tmp_path)
    others = workers - 1
    forward, backward = [[BLOCK]] * others, [[BLOCK], *[[BLOCK, GRADIENT]] * (others - 1), [GRADIENT]]
    for worker in together:
        assert worker["under way"] == [*forward, [], *backward, []], "what comes next travels while a block is met"
        assert worker["comes by itself"], "without a call that waits for it"
    for scheme, wanted in alone.items():
        to = 1e-2 if scheme == "bfloat16" else 1e-12
        assert sum(float(worker[scheme]["loss"]) for worker in together) == pytest.approx(float(wanted["loss"]), rel=to)
        for worker in (each[scheme] for each in together):
            for table in ("user_table", "item_table"):
                assert (largest := wanted[table].abs().max()) > 1e-3
                assert (worker[table] - wanted[table]).abs().max() < to * max(largest, 1)
            if SCHEMES[scheme][0] == ROWS:
                assert worker["of all"] == 0 < wanted["of all"], "no worker has all candidates at once"
            assert worker["received"] > 0
