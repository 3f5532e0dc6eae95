"""The items of recent batches, first in, first out: one pool for the whole batch."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from components.data.interactions import Interactions
from components.negatives import Candidates, Memory
from components.negatives._seen import Seen
from components.training.batches import Batch
from components.training.collectives import Workers


class MemoryBank(Memory):
    """The positives of the last `size` rows that a model's step was taken on, over all workers, with multiplicity.

    Ids alone: the encoder is asked for their vectors as they are now. Before the first step, the items of `size` rows of the
    log at equal distances. A user's training items are masked. Every worker holds the whole bank.

    Shapes: items_M, the oldest first.
    Source: the queue of MoCo (He et al. 2020, arXiv 1911.05722); of ids, CauseRec's pool (Zhang et al. 2021, arXiv 2109.05261).
    Differs: no vectors are kept, so that none is stale; it is never empty. Expected counts are those of a batch's positives.
    """

    excludes_positive = True

    per, exclude = "batch", "seen"

    def __init__(
        self, train: Interactions, workers: Workers, stream: str, /, *, size: Annotated[int, Field(ge=1)] = 1024
    ) -> None:
        super().__init__()
        self.workers = workers
        self._seen = Seen(train)
        degrees = train.positive_degrees()
        self._share = torch.from_numpy(degrees / max(degrees.sum(), 1))
        rows = train.positives()
        items = train.items[rows[np.arange(size) * len(rows) // size]]
        self.items_M: Tensor
        self.register_buffer("items_M", torch.from_numpy(items.astype(np.int64)))

    def forward(self, batch: Batch, positives_BD: Tensor) -> Candidates:
        return Candidates(self.items_M, None, self._seen.among(batch.users_B, self.items_M))

    def push(self, batch: Batch) -> None:
        """The batch's items come in, as many go."""
        items = torch.cat([self.items_M, self.workers.gather(batch.items_B, batch.rows)])
        self.items_M = items[-len(self.items_M) :].clone()

    def candidates_of_a_row(self, rows: int, items: int) -> int:
        """The same whatever the rows of the global batch."""
        return len(self.items_M)

    def index_bytes(self, rows: int, users: int, items: int) -> int:
        """The bank, each item's share, and what finds the seen."""
        return 8 * len(self.items_M) + 16 * items

    def expected_count(self, batch: Batch, items: Tensor) -> Tensor:
        """How often an item is in the bank, one for each of `items`: size * its positives / all positives."""
        return len(self.items_M) * self._share.to(items.device)[items]
