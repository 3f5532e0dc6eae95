"""What views share: shares of a history, positions at random, similar items."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

Ratio = Annotated[float, Field(gt=0, lt=1)]


def share(lengths_B: Tensor, ratio: float) -> Tensor:
    """floor(ratio * length), in float64 as Python has it."""
    return (lengths_B.double() * ratio).long()


def share_at_least_one(lengths_B: Tensor, ratio: float) -> Tensor:
    """max(1, floor(ratio * length)), but 0 of a history of no or one behaviour."""
    return share(lengths_B, ratio).clamp(min=1) * (lengths_B > 1)


def inside(lengths_B: Tensor, width: int) -> Tensor:
    """[B, width] whether a position is in its row's history, and not padding."""
    return torch.arange(width, device=lengths_B.device) < lengths_B[:, None]


def lowest(keys_BL: Tensor, counts_B: Tensor) -> Tensor:
    """[B, L] whether a position has one of its row's `counts` lowest keys: with keys at random, any positions alike."""
    order_BL = keys_BL.argsort(dim=1)
    ranks_L = torch.arange(keys_BL.shape[1], device=keys_BL.device)
    return torch.zeros_like(keys_BL, dtype=torch.bool).scatter_(1, order_BL, ranks_L < counts_B[:, None])


def similar_to(items_K: Tensor, numbers_K: Tensor, similar_IN: Tensor) -> Tensor:
    """[K] one of each item's similar items, any alike; the table's own mark of an empty place, num_items, if there is none."""
    options_KN = similar_IN[items_K.to(similar_IN.device)].to(items_K.device).long()
    counts_K = (options_KN < len(similar_IN)).sum(dim=1)
    return options_KN.gather(1, (numbers_K * counts_K).long()[:, None]).squeeze(1)
