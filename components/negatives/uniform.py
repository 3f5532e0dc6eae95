"""Items drawn uniformly, with replacement: one pool for the whole batch, or some for each row."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from components.data.interactions import Interactions
from components.errors import InputError
from components.negatives import Candidates, Hardest, check_hardest
from components.negatives._seen import Seen
from components.section import Newer
from components.training.batches import Batch
from components.training.collectives import Workers


class Uniform:
    """`count` items a batch (`per: batch`, one pool that every row of every worker meets) or a row (`per: row`).

    `exclude: seen` takes a user's training items out: of a pool by masking, and a row's own draws are made from the other
    items in the first place, exactly and without rejection: for the sorted training items t_0 < t_1 < ..., the r-th item
    that is not among them is r + #{k : t_k - k <= r}. With `hardest`, a row's candidates are the so many of these that score
    highest for it.

    Source: per batch, SSM's neg_dist = 1 with beta = 0; per row, neg_dist = 2 (Wu et al. 2024, arXiv 2201.02327).
    """

    def __init__(
        self,
        train: Interactions,
        workers: Workers,
        stream: str,
        /,
        *,
        count: Annotated[int, Field(ge=1)] = 1024,
        per: Literal["batch", "row"] = "batch",
        exclude: Literal["seen", "nothing"] = "seen",
        hardest: Annotated[Hardest, Newer] = None,
    ) -> None:
        check_hardest(hardest, count, stream)
        self.hardest = hardest
        self.train, self.stream, self.count, self.per, self.exclude = train, stream, count, per, exclude
        self.excludes_positive = exclude == "seen"
        self._seen = Seen(train)
        self._unseen = _Unseen(train, stream) if per == "row" and exclude == "seen" else None

    def __call__(self, batch: Batch, positives_BD: Tensor) -> Candidates:
        device = batch.users_B.device
        if self.per == "batch":
            numbers_C = batch.shared_uniforms(self.stream, self.count)
            items_C = (numbers_C * self.train.num_items).to(device, torch.int64)
            excluded = self._seen.among(batch.users_B, items_C) if self.exclude == "seen" else None
            return Candidates(items_C, None, excluded)
        numbers_BN = batch.uniforms(self.stream, self.count)
        if self._unseen is None:
            items_BN = (numbers_BN * self.train.num_items).long()
        else:
            items_BN = torch.from_numpy(self._unseen.pick(batch.users_B.cpu().numpy(), numbers_BN.numpy()))
        return Candidates(items_BN.to(device), None, None)

    def candidates_of_a_row(self, rows: int, items: int) -> int:
        """The same whatever the rows of the global batch; where `hardest` are taken of them, all that are scored."""
        return self.count

    def index_bytes(self, rows: int, users: int, items: int) -> int:
        """Where a row draws from the unseen, its own copy of the log."""
        return 0 if self._unseen is None else 8 * (rows + users)

    def expected_count(self, batch: Batch, items: Tensor) -> Tensor:
        """How often an item that may be drawn is drawn for a row: count / items that may be; [], or [B, 1] if they differ."""
        if self._unseen is None:
            return torch.tensor(self.count / self.train.num_items, dtype=torch.float64, device=items.device)
        options_B = torch.from_numpy(self._unseen.options(batch.users_B.cpu().numpy())).to(items.device)
        return self.count / options_B[:, None]


class _Unseen:
    """Draws from the items that are not a user's training items. Memory: one int64 per training row."""

    def __init__(self, train: Interactions, name: str) -> None:
        pairs = np.unique(train.users.astype(np.int64) * train.num_items + train.items)  # a user's items, ascending, once
        users, items = np.divmod(pairs, train.num_items)
        self._starts = np.searchsorted(users, np.arange(train.num_users + 1))
        self._stride = train.num_items + 1
        # t_k - k of each user, ascending within it; made ascending over all users, so that one search serves a whole batch
        self._gaps = users * self._stride + items - (np.arange(len(pairs)) - self._starts[users])
        self._num_items = train.num_items
        full = np.flatnonzero(np.diff(self._starts) == train.num_items)
        if len(full):
            raise InputError(f"{name}: user {full[0]} has all {train.num_items} items in training, takes one left to draw")

    def options(self, users_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many items a user may draw."""
        return self._num_items - (self._starts[users_B + 1] - self._starts[users_B])

    def pick(self, users_B: NDArray[np.int64], numbers_BN: NDArray[np.float64]) -> NDArray[np.int64]:
        """The item at rank floor(number * options) among those the user may draw."""
        ranks_BN = (numbers_BN * self.options(users_B)[:, None]).astype(np.int64)
        sought = users_B[:, None] * self._stride + ranks_BN
        return ranks_BN + np.searchsorted(self._gaps, sought, side="right") - self._starts[users_B][:, None]
