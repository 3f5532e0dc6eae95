"""Batches of training rows. Their order depends on (seed, epoch) alone; each worker takes its slice of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from components import draws
from components.data.interactions import Interactions
from components.training.collectives import Workers


@dataclass(frozen=True)
class Batch:
    """This worker's rows of a global batch."""

    users_B: Tensor
    items_B: Tensor
    first_row: int  # where its rows begin in the global batch
    rows: int  # of the global batch, over all workers
    key: tuple[int, int, int]  # seed, epoch, step

    def uniforms(self, purpose: str, per_row: int) -> Tensor:
        """[B, per_row] numbers on [0, 1), keyed by the global row."""
        count = len(self.users_B)
        numbers = draws.uniforms(self.key, purpose, self.first_row * per_row, count * per_row)
        return torch.from_numpy(numbers).view(count, per_row)

    def shared_uniforms(self, purpose: str, count: int) -> Tensor:
        """[count] numbers on [0, 1), the same on every worker."""
        return torch.from_numpy(draws.uniforms(self.key, purpose, 0, count))


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """The last, partial batch counts."""
    return -(-rows // batch_size)


def batches(
    train: Interactions, *, batch_size: int, seed: int, epoch: int, workers: Workers, device: torch.device, first_step: int = 0
) -> Iterator[Batch]:
    """The batches of one epoch from `first_step` on: every row once, in an order that depends on (seed, epoch) alone."""
    order = draws.permutation((seed, epoch), "order of rows", len(train))
    for step in range(first_step, steps_per_epoch(len(train), batch_size)):
        rows = order[step * batch_size : (step + 1) * batch_size]
        start, stop = workers.share(len(rows))
        mine = rows[start:stop]
        users, items = (torch.from_numpy(column[mine]).to(device, torch.int64) for column in (train.users, train.items))
        yield Batch(users, items, first_row=start, rows=len(rows), key=(seed, epoch, step))
