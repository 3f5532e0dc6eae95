"""What a worker receives from the others in a step of the model, told before there are others."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from components.config import Recipe
from components.data.interactions import Interactions
from components.training.collectives import Workers
from components.training.loop import Trainer

ROWS_OF_A_WORKER = (8, 16)  # of the batches that are tried


def received(recipe: Recipe, log: Interactions, rows: int, looked_up: int, users: int, items: int) -> int:
    """Bytes, for so many rows of a global batch, and so many of tables that a worker looks up.

    Of queries, views and candidates bytes grow with the rows: two batches are tried on a log, which has no users of its own
    beside those that they need. Looked-up rows travel with their ids, dense gradients around a ring, whole.
    """
    workers = recipe.scale.num_workers
    if workers == 1:
        return 0
    first, second = (_tried(recipe, log, of_a_worker * workers) for of_a_worker in ROWS_OF_A_WORKER)
    of_a_row = (second.others - first.others) / (second.rows - first.rows)
    dense = sum(
        weight.nbytes // len(weight) * (users if "user" in name else items) if name.endswith("_table") else weight.nbytes
        for name, weight in first.dense
    )
    gradients = (workers - 1) * looked_up * first.bytes_of_a_lookup + 2 * dense * (workers - 1) // workers
    return round(first.others + of_a_row * (rows - first.rows)) + gradients


class _Pretended(Workers):
    """The first of several workers, of whom the others would say what it says."""

    def __init__(self, size: int) -> None:
        self.rank, self.size, self.received = 0, size, 0
        self.rows = self.others = self.bytes_of_a_lookup = 0
        self.dense: list[tuple[str, nn.Parameter]] = []  # in all turns
        self.names: dict[nn.Parameter, str] = {}

    def _all_gather(self, padded: Tensor) -> list[Tensor]:
        return [padded] * self.size

    def _all_reduce(self, value: Tensor) -> None:
        """As it is."""

    def _begun(self, begin: Callable[..., Any], tensor: Tensor, peer: int, tag: int) -> Callable[[], None]:
        """Nothing comes: what is received is as it is."""
        return lambda: None

    def gather_objects(self, value: Any) -> list[Any]:
        return [value] * self.size

    def sum_gradients(self, parameters: Iterable[nn.Parameter], *, dense: bool = True) -> None:
        """Keeps what kind of gradient each has."""
        for weight in parameters:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            if weight.grad.is_sparse:
                self.sum(torch.zeros(self.size, dtype=torch.int64))  # how many rows each has
                self.bytes_of_a_lookup = max(self.bytes_of_a_lookup, weight[:1].nbytes + 8)  # its id
                weight.grad = weight.grad.to_dense() if dense else weight.grad.coalesce()
            else:
                self.dense.append((self.names.get(weight, ""), weight))


def _tried(recipe: Recipe, log: Interactions, batch_size: int) -> _Pretended:
    """After the model's second step of an epoch in which all take part, with what banks have of the first."""
    training = recipe.training.model_copy(update={"batch_size": batch_size, "select_on": "none"})
    workers = _Pretended(recipe.scale.num_workers)
    trainer = Trainer(recipe.model_copy(update={"training": training}), log, None, workers, torch.device("cpu"))
    workers.names = {weight: name for name, weight in trainer.encoder.named_parameters()}
    trainer.position.epoch = trainer.objective.first_whole_epoch
    trainer.position.pass_ = len(trainer.objective.passes(trainer.position.epoch)) - 1
    for memory in trainer.memories.values():
        memory.skip_warm_up()
    for batch in itertools.islice(trainer.batches(), 2):
        before, workers.dense = workers.received, []
        trainer.update(batch, "model")
        workers.rows, workers.others = batch.rows, workers.received - before
    return workers
