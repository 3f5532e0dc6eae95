"""How many candidates count: the N of a mean."""

from __future__ import annotations

import torch
from torch import Tensor

from components.losses import EXCLUDED


def none_counted(positive_B: Tensor) -> Tensor:
    """[B], before the first tile. Whole numbers: 1,024 + 5 is 1,032 in bfloat16."""
    return torch.zeros_like(positive_B, dtype=torch.int64)


def counted(scores_BT: Tensor) -> Tensor:
    """[B], of a tile."""
    ones_BT = torch.empty_like(scores_BT, dtype=torch.float32)  # booleans are summed ten times slower
    torch.gt(scores_BT.detach(), EXCLUDED / 2, out=ones_BT)  # not != EXCLUDED, which is rounded in bfloat16
    return ones_BT.sum(dim=1).long()
