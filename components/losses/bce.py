"""Binary cross-entropy (logistic loss): each score by itself is a yes or a no."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from components.losses._counted import counted, none_counted


class Bce:
    """L_b = -log sigmoid(s_b) - weight * (1/N) sum_j log sigmoid(-s_j),  N = candidates of the row that count.

    Shapes: positive_B, scores_BT; the loss is [B].
    Raises: nothing; a row without candidates has the positive's part alone.
    Source: He et al. 2017, arXiv 1708.05031, eq. 7.
    Differs: the mean over candidates, not the sum, so that `weight` means the same whatever their number.
    """

    temperature, logq, family = 1.0, False, "sum"

    def __init__(self, *, weight: Annotated[float, Field(ge=0)] = 1.0) -> None:
        self.weight = weight

    def start(self, positive_B: Tensor, log_count_B: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The positive's score; sum and number of candidates so far."""
        return positive_B, torch.zeros_like(positive_B), none_counted(positive_B)

    def add(
        self, state: tuple[Tensor, Tensor, Tensor], scores_BT: Tensor, log_count: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Takes in a tile of candidates."""
        positive_B, total_B, count_B = state
        return positive_B, total_B + F.softplus(scores_BT).sum(dim=1), count_B + counted(scores_BT)

    def finish(self, state: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The loss of each row."""
        positive_B, total_B, count_B = state
        return F.softplus(-positive_B) + self.weight * (total_B / count_B.clamp(min=1))
