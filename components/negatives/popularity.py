"""Items drawn by their popularity, with replacement: one pool for the whole batch."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from components.data.interactions import Interactions
from components.negatives import Candidates, Hardest, check_hardest
from components.negatives._seen import Seen
from components.section import Newer
from components.training.batches import Batch
from components.training.collectives import Workers


class Popularity:
    """`count` items a batch, one pool that every row of every worker meets: q(i) = d_i^beta / sum_k d_k^beta.

    d_i is the number of training rows of item i; an item without any is never drawn, but for `beta` 0, where all items are
    alike. The draw of a number u on [0, 1) is the first item whose cumulated q is above it. `exclude: seen` masks a user's
    training items. With `hardest`, a row's candidates are the so many of these that score highest for it.

    Source: SSM's neg_dist = 1 (Wu et al. 2024, arXiv 2201.02327).
    Differs: a user's training items may be excluded; the code draws them without looking.
    """

    per = "batch"

    def __init__(
        self,
        train: Interactions,
        workers: Workers,
        stream: str,
        /,
        *,
        count: Annotated[int, Field(ge=1)] = 1024,
        beta: Annotated[float, Field(ge=0)] = 1.0,
        exclude: Literal["seen", "nothing"] = "seen",
        hardest: Annotated[Hardest, Newer] = None,
    ) -> None:
        check_hardest(hardest, count, stream)
        self.hardest = hardest
        self.stream, self.count, self.exclude = stream, count, exclude
        self.excludes_positive = exclude == "seen"
        self._seen = Seen(train)
        degrees = train.item_degrees()
        weights = (degrees / max(degrees.max(), 1)) ** beta  # at most 1, so that no beta overflows
        cumulated = np.cumsum(weights)
        self._share = torch.from_numpy(weights / cumulated[-1])
        self._cumulated = torch.from_numpy(cumulated / cumulated[-1])  # ends at exactly 1, which no draw reaches

    def __call__(self, batch: Batch, positives_BD: Tensor) -> Candidates:
        numbers_C = batch.shared_uniforms(self.stream, self.count)
        items_C = torch.searchsorted(self._cumulated, numbers_C, right=True).to(batch.users_B.device)
        return Candidates(items_C, None, self._seen.among(batch.users_B, items_C) if self.exclude == "seen" else None)

    def candidates_of_a_row(self, rows: int, items: int) -> int:
        """The same whatever the rows of the global batch; where `hardest` are taken of them, all that are scored."""
        return self.count

    def index_bytes(self, rows: int, users: int, items: int) -> int:
        """Each item's share, by itself and cumulated."""
        return 16 * items

    def expected_count(self, batch: Batch, items: Tensor) -> Tensor:
        """How often an item is drawn for a row, one for each of `items`: count * q(i)."""
        return self.count * self._share.to(items.device)[items]
