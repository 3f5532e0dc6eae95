"""The other positives of the global batch: each worker's queries meet every worker's items."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from components.data.interactions import Interactions
from components.masks import Mask
from components.negatives import Candidates
from components.negatives._seen import Seen, same_item
from components.section import Newer
from components.training.batches import Batch
from components.training.collectives import Workers


class InBatch:
    """Candidates: the items of all rows of the global batch, with multiplicity; a row's own slot never counts.

    `exclude` takes out more: `seen`, every training item of the row's user (a repeat of the positive among them); `same_item`,
    repeats of the positive alone; `nothing`, as in the SSM paper's code, where a repeated item stays a negative. Workers have
    each other's vectors all at once (`exchange: gather`), or one worker's at a time, around a `ring`; ids are everywhere.

    Source: Wu et al. 2024, arXiv 2201.02327 (neg_dist = 0 in the official code).
    """

    per = "batch"

    def __init__(
        self,
        train: Interactions,
        workers: Workers,
        stream: str,
        /,
        *,
        exclude: Literal["seen", "same_item", "nothing"] = "seen",
        exchange: Annotated[Literal["gather", "ring"], Newer] = "gather",
    ) -> None:
        self.workers, self.exchange = workers, exchange
        self.exclude = exclude
        self.excludes_positive = exclude != "nothing"
        self._seen = Seen(train)
        degrees = train.positive_degrees()
        self._share = torch.from_numpy(degrees / max(degrees.sum(), 1))

    def __call__(self, batch: Batch, positives_BD: Tensor) -> Candidates:
        items_C = self.workers.gather(batch.items_B, batch.rows)
        goes_around = self.exchange == "ring" and self.workers.size > 1
        vectors = positives_BD if goes_around else self.workers.gather(positives_BD, batch.rows)
        if self.exclude == "nothing":
            rows = torch.arange(len(batch.items_B), device=items_C.device)
            excluded = Mask.of_pairs(rows, rows + batch.first_row, len(rows), len(items_C))
        elif self.exclude == "same_item":
            excluded = same_item(batch.items_B, items_C)
        else:  # the positive is one of the user's training items, so its own slot is among those found
            excluded = self._seen.among(batch.users_B, items_C)
        return Candidates(items_C, vectors, excluded, goes_around)

    def candidates_of_a_row(self, rows: int, items: int) -> int:
        """As many as the global batch has rows."""
        return rows

    def index_bytes(self, rows: int, users: int, items: int) -> int:
        """Each item's share."""
        return 8 * items

    def expected_count(self, batch: Batch, items: Tensor) -> Tensor:
        """How often an item is drawn for a row, one for each of `items`: (rows - 1) * its positives / all positives.

        Taken for two rows where there is one, whose only candidate is its own slot and does not count.
        """
        return max(batch.rows - 1, 1) * self._share.to(items.device)[items]
