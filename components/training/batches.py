"""Batches of training rows. Their order depends on (seed, epoch) alone; each worker takes its slice of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components import draws
from components.data import histories
from components.data.histories import Positives, Window
from components.data.interactions import Interactions, ragged
from components.training.collectives import Workers


class Histories(NamedTuple):
    """What a batch's rows are read from: sequences, padded on the right with the number of items to this worker's longest.

    Row b reads items_SL[sequence_B[b], : place_B[b] + 1]; where these are None, sequence b, all of it. Draws are keyed by a
    sequence's place in the global batch, of which `first` is the first one's. A sequence whose rows are of two workers is
    among both workers' sequences.
    """

    items_SL: Tensor
    lengths_S: Tensor
    first: int
    sequence_B: Tensor | None = None
    place_B: Tensor | None = None

    def parts(self, count: int) -> Iterator[Histories]:
        """`count` sequences at a time, with their rows, in order."""
        for start in range(0, len(self.lengths_S), count):
            part = Histories(self.items_SL[start : start + count], self.lengths_S[start : start + count], self.first + start)
            if self.sequence_B is not None and self.place_B is not None:
                rows_R = ((self.sequence_B >= start) & (self.sequence_B < start + count)).nonzero().squeeze(1)
                part = part._replace(sequence_B=self.sequence_B[rows_R] - start, place_B=self.place_B[rows_R])
            yield part


@dataclass(frozen=True)
class Batch:
    """This worker's rows of a global batch."""

    users_B: Tensor
    items_B: Tensor
    first_row: int  # where its rows begin in the global batch
    rows: int  # of the global batch, over all workers
    key: tuple[int, int, int]  # seed, epoch, step
    stream: str = ""  # of a pass over the rows other than the model's
    turn: int = 0  # of those in which learners step on it (objective.turns)
    histories: Histories | None = None  # where the encoder has a window

    def uniforms(self, purpose: str, per_row: int) -> Tensor:
        """[B, per_row] numbers on [0, 1), keyed by the global row."""
        count = len(self.users_B)
        numbers = draws.uniforms(self.key, self.stream + purpose, self.first_row * per_row, count * per_row)
        return torch.from_numpy(numbers).view(count, per_row)

    def shared_uniforms(self, purpose: str, count: int) -> Tensor:
        """[count] numbers on [0, 1), the same on every worker."""
        return torch.from_numpy(draws.uniforms(self.key, self.stream + purpose, 0, count))


def units(train: Interactions, positives: Positives) -> int:
    """What `batch_size` counts in a pass: positives, or sequences, those of users that have any."""
    counts_U = train.positive_counts()
    return int(np.count_nonzero(counts_U)) if positives == "sequences" else int(counts_U.sum())


def steps_per_epoch(units: int, batch_size: int, positives: Positives = "rows") -> int:
    """The last, partial batch counts; not where positives are drawn for users, unless there is no other."""
    return max(units // batch_size, min(units, 1)) if positives == "users" else -(-units // batch_size)


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
    window: Window | None = None,
) -> Iterator[Batch]:
    """The batches of one pass over an epoch's positives from `first_step` on; (seed, epoch, stream) decide their order.

    `rows`: every positive of the log once, with its history where there is a window. `sequences`: users, `batch_size` at a
    time, with every place of the last `window.length` + 1 rows of each: its positives are the rows of the batch, encoded in
    one pass. `users`: as many positives as there are in the log, for each user in turn one of its own at random, so that users
    weigh alike (Zhang et al. 2023, arXiv 2310.18700, released code); the partial batch is dropped.
    """
    order = _order(train, positives, (seed, epoch), stream)
    for step in range(first_step, steps_per_epoch(len(order), batch_size, positives)):
        rows = taken = order[step * batch_size : (step + 1) * batch_size]
        if positives == "sequences":
            rows = ragged(_starts(train)[taken], train.positive_counts()[taken])
        start, stop = workers.share(len(rows))
        mine = rows[start:stop]
        users, items = (torch.from_numpy(column[mine]).to(device, torch.int64) for column in (train.users, train.items))
        read = None if window is None else _histories(train, mine, taken, window, start, positives, device)
        yield Batch(users, items, first_row=start, rows=len(rows), key=(seed, epoch, step), stream=stream, histories=read)


def _order(train: Interactions, positives: Positives, key: tuple[int, int], stream: str) -> NDArray[np.int64]:
    """Users of a pass in `sequences`, else its rows."""
    rows = np.flatnonzero(train.positive_counts()) if positives == "sequences" else train.positives()
    if positives == "users":
        rows = _rows_of_users(train, draws.uniforms(key, stream + "positives of users", 0, len(rows)))
    return rows[draws.permutation(key, stream + "order of rows", len(rows))]


def _rows_of_users(train: Interactions, numbers_N: NDArray[np.float64]) -> NDArray[np.int64]:
    """[positives] for each place k the row of a positive of user k mod users, users without positives left out."""
    counts_U = train.positive_counts()
    users_N = np.resize(np.flatnonzero(counts_U), len(numbers_N))
    return _starts(train)[users_N] + (numbers_N * counts_U[users_N]).astype(np.int64)


def _starts(train: Interactions) -> NDArray[np.int64]:
    return train.offsets[:-1] if train.starts is None else train.starts


def _histories(
    train: Interactions,
    mine: NDArray[np.int64],
    taken: NDArray[np.int64],
    window: Window,
    start: int,
    positives: Positives,
    device: torch.device,
) -> Histories:
    """Of the rows `mine`, from `start` on in the global batch; `taken` are its users where it is of sequences."""

    def moved(values: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(values).to(device)

    if positives != "sequences":
        items_BL, lengths_B = histories.of_rows(train, mine, window)
        return Histories(moved(items_BL), moved(lengths_B), start)
    users_B = train.users[mine]
    begins_B = np.diff(users_B, prepend=-1) != 0  # a user's rows are together
    first = int(np.flatnonzero(taken == users_B[0])[0]) if len(mine) else 0
    items_SL, lengths_S = histories.sequences(train, users_B[begins_B], window)
    places_B = mine - _starts(train)[users_B]
    return Histories(moved(items_SL), moved(lengths_S), first, moved(np.cumsum(begins_B) - 1), moved(places_B))
