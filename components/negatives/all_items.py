"""Every item, drawn by nobody: full softmax where the loss is sampled softmax."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from components.data.interactions import Interactions
from components.negatives import Candidates
from components.negatives._seen import Seen, same_item
from components.training.batches import Batch
from components.training.collectives import Workers


class AllItems:
    """The catalogue, one pool that every row meets; scores of a batch are rows x items.

    `exclude` takes out the row's own positive (`same_item`: it is in the denominator of a softmax already), or every training
    item of its user, the positive among them (`seen`).

    Source: the softmax over the catalogue that SSM samples (Wu et al. 2024, arXiv 2201.02327).
    """

    excludes_positive = True

    per = "batch"

    def __init__(
        self, train: Interactions, workers: Workers, stream: str, /, *, exclude: Literal["seen", "same_item"] = "same_item"
    ) -> None:
        self.train, self.exclude = train, exclude
        self._seen = Seen(train)

    def __call__(self, batch: Batch, positives_BD: Tensor) -> Candidates:
        items_C = torch.arange(self.train.num_items, device=batch.items_B.device)
        if self.exclude == "same_item":
            excluded = same_item(batch.items_B, items_C)
        else:
            excluded = self._seen.among(batch.users_B, items_C)
        return Candidates(items_C, None, excluded)

    def candidates_of_a_row(self, rows: int, items: int) -> int:
        """As many as there are items."""
        return items

    def index_bytes(self, rows: int, users: int, items: int) -> int:
        """It keeps nothing but the log."""
        return 0

    def expected_count(self, batch: Batch, items: Tensor) -> Tensor:
        """1 for every item: []."""
        return torch.ones((), dtype=torch.float64, device=items.device)
