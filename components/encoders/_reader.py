"""What encoders that read histories have alike: one table of items, for what is read and what is ranked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from components.data.histories import Window
from components.encoders import Embedded
from components.training.batches import Batch, Histories

SLICED_COPIES = 3  # of the vectors of slices: apart, together, and their gradient


class Reader(nn.Module):
    """Has `item_table`, with rows for padding and mask behind the items'; its kinds have `encode` and `step_bytes`."""

    window: Window
    item_table: nn.Parameter
    num_items: int
    encode_rows: int | None = None  # histories at a time, in training

    def encode(self, histories: Histories, batch: Batch | None = None, stream: str = "") -> Tensor:
        """[B, D] the vectors of histories."""
        raise NotImplementedError

    def step_bytes(self, sequences: int, width: int) -> int:
        """What encoding so many histories holds for the backward pass, all as long as may be, in numbers of `width` bytes."""
        raise NotImplementedError

    def looked_up(self, rows: int, items: int) -> int:
        """Every item of each history, all as long as may be."""
        return rows * self.window.length

    def queries_bytes(self, sequences: int, rows: int, width: int, views: int = 1) -> int:
        """The same of a batch's own, which give vectors of so many rows: in slices one at a time, and the vectors of all.

        Of so many views of each beside each other, where these are encoded.
        """
        if self.encode_rows is None or sequences <= self.encode_rows:
            return self.step_bytes(sequences * views, width)
        vectors = SLICED_COPIES * rows * views * self.item_table.shape[1] * width
        return self.step_bytes(self.encode_rows * views, width) + vectors

    def queries(self, batch: Batch) -> Embedded:
        """The vectors of a batch's rows, [B, D]."""
        assert batch.histories is not None, "batches are made with the encoder's window"
        no_rows = self.item_table.detach()[:0]  # with a gradient it would make the whole table's dense
        return Embedded(self.in_slices(lambda part: self.encode(part, batch), batch.histories), no_rows)

    def in_slices(self, encode: Callable[..., Tensor], histories: Histories, *each_S: Tensor) -> Tensor:
        """encode(histories, *each_S), what it has of each sequence too; of slices nothing is kept for the backward pass, which
        computes each again.
        """
        if self.encode_rows is None or len(histories.lengths_S) <= self.encode_rows:
            return encode(histories, *each_S)

        def encoded(*part: Any) -> Tensor:  # draws are keyed, so that there is no state of a generator to keep
            return checkpoint(encode, *part, use_reentrant=False, preserve_rng_state=False)  # pyright: ignore[reportReturnType]

        parts = zip(histories.parts(self.encode_rows), *(each.split(self.encode_rows) for each in each_S), strict=True)
        return torch.cat([encoded(*part) for part in parts])

    def items(self, ids: Tensor) -> Embedded:
        """The vectors of items, [*ids.shape, D]."""
        rows = F.embedding(ids, self.item_table, sparse=True)
        return Embedded(rows, rows)

    def scoring_items(self) -> Tensor:
        """[num_items, D], without a gradient."""
        return self.item_table.detach()[: self.num_items]
