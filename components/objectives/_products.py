"""Matrix products of factors that are rounded, whose sums are not."""

from __future__ import annotations

import torch
from torch import Tensor


def of_sums(dtype: torch.dtype) -> torch.dtype:
    """What is added up: float32 for what has fewer bits."""
    return torch.promote_types(dtype, torch.float32)


def product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right, of matrices or of batches of them, in the type of sums; where that is another, without a gradient."""
    sums = of_sums(left.dtype)
    if left.dtype == sums:
        return left @ right
    if left.is_cuda:  # elsewhere torch rounds what it has added up
        return (torch.mm if left.dim() == 2 else torch.bmm)(left, right, out_dtype=sums)
    with torch.autocast(left.device.type, enabled=False):
        return left.to(sums) @ right.to(sums)


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """In place: total + left @ right."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += product(left, right)
