"""Batches of training rows. Their order depends on (seed, epoch) alone; each worker takes its slice of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components import draws
from components.data.interactions import Interactions
from components.training.collectives import Workers

Positives = Literal["rows", "users"]  # what a pass consists of


@dataclass(frozen=True)
class Batch:
    """This worker's rows of a global batch."""

    users_B: Tensor
    items_B: Tensor
    first_row: int  # where its rows begin in the global batch
    rows: int  # of the global batch, over all workers
    key: tuple[int, int, int]  # seed, epoch, step
    stream: str = ""  # of a pass over the rows other than the model's

    def uniforms(self, purpose: str, per_row: int) -> Tensor:
        """[B, per_row] numbers on [0, 1), keyed by the global row."""
        count = len(self.users_B)
        numbers = draws.uniforms(self.key, self.stream + purpose, self.first_row * per_row, count * per_row)
        return torch.from_numpy(numbers).view(count, per_row)

    def shared_uniforms(self, purpose: str, count: int) -> Tensor:
        """[count] numbers on [0, 1), the same on every worker."""
        return torch.from_numpy(draws.uniforms(self.key, self.stream + purpose, 0, count))


def steps_per_epoch(rows: int, batch_size: int, positives: Positives = "rows") -> int:
    """The last, partial batch counts; not where positives are drawn for users, unless there is no other."""
    return -(-rows // batch_size) if positives == "rows" else max(rows // batch_size, min(rows, 1))


def batches(
    train: Interactions,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    workers: Workers,
    device: torch.device,
    first_step: int = 0,
    positives: Positives = "rows",
    stream: str = "",
) -> Iterator[Batch]:
    """The batches of one pass over an epoch's positives from `first_step` on; (seed, epoch, stream) decide their order.

    `rows`: every row of the log once. `users`: as many positives as there are rows, for each user in turn one of its own at
    random, so that users weigh alike (Zhang et al. 2023, arXiv 2310.18700, released code); the partial batch is dropped.
    """
    order = draws.permutation((seed, epoch), stream + "order of rows", len(train))
    if positives == "users":
        order = _rows_of_users(train, draws.uniforms((seed, epoch), stream + "positives of users", 0, len(train)))[order]
    for step in range(first_step, steps_per_epoch(len(train), batch_size, positives)):
        rows = order[step * batch_size : (step + 1) * batch_size]
        start, stop = workers.share(len(rows))
        mine = rows[start:stop]
        users, items = (torch.from_numpy(column[mine]).to(device, torch.int64) for column in (train.users, train.items))
        yield Batch(users, items, first_row=start, rows=len(rows), key=(seed, epoch, step), stream=stream)


def _rows_of_users(train: Interactions, numbers_N: NDArray[np.float64]) -> NDArray[np.int64]:
    """[rows] for each place k the row of a positive of user k mod users, users without rows left out."""
    counts_U = np.diff(train.offsets)
    users = np.flatnonzero(counts_U)
    users_N = np.resize(users, len(train))
    return train.offsets[users_N] + (numbers_N * counts_U[users_N]).astype(np.int64)
