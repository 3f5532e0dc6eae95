"""Two views of each row's history."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from components.training.batches import Batch, Histories


def two_views(views: Sequence[Any], batch: Batch, length: int, padding: int) -> tuple[Histories, Histories]:
    """Each row's history under two different ones of `views`, any alike, drawn anew for each row of each batch.

    Every view is made of every row once, `length` wide, under a stream of its own name, whatever the row takes: so a row's
    draws depend on nothing but its place in the global batch.
    """
    histories = batch.histories
    assert histories is not None, "batches are made with the encoder's window"
    assert histories.sequence_B is None, "a row for each history"
    items_BL = F.pad(histories.items_SL, (0, length - histories.items_SL.shape[1]), value=padding)
    made = [view(items_BL, histories.lengths_S, partial(_uniforms, batch, f"view {n}: ")) for n, view in enumerate(views)]
    items_VBL, lengths_VB = (torch.stack(each) for each in zip(*made, strict=True))
    order_BV = batch.uniforms("which views", len(views)).argsort(dim=1).to(items_BL.device)
    rows_B = torch.arange(len(items_BL), device=items_BL.device)
    first, second = (
        _cut(items_VBL[taken_B, rows_B], lengths_VB[taken_B, rows_B], histories.first) for taken_B in order_BV[:, :2].unbind(1)
    )
    return first, second


def _uniforms(batch: Batch, name: str, purpose: str, per_row: int) -> Tensor:
    return batch.uniforms(name + purpose, per_row)


def _cut(items_BL: Tensor, lengths_B: Tensor, first: int) -> Histories:
    """To the longest of this worker's."""
    longest = max(1, int(lengths_B.amax())) if len(lengths_B) else 1
    return Histories(items_BL[:, :longest], lengths_B, first)
