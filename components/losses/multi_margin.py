"""Multi-margin loss (MML): the harder a negative, the more margins it exceeds and the steeper it is pushed."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from components.errors import InputError
from components.losses._counted import counted, none_counted

MARGINS, WEIGHTS = [0.7, 0.8, 0.9], [0.1, 0.15, 0.75]  # the paper's for Gowalla, with 700


def _ascending(margins: list[float]) -> list[float]:
    if any(after <= before for before, after in pairwise(margins)):
        raise ValueError("numbers that ascend, each once")
    return margins


Margin = Annotated[float, Field(ge=-1, le=1)]
Weight = Annotated[float, Field(ge=0)]


class MultiMargin:
    """L_b = positive_weight [1 - s_b]_+ + negative_weight * (1/N) sum_j sum_k weights_k [s_j - margins_k]_+.

    N is the number of the row's candidates that count, those below every margin too. Meant for cosines.

    Shapes: positive_B, scores_BT; the loss is [B].
    Raises: InputError where weights and margins differ in number; a row without candidates has the positive's part alone.
    Source: Ozsoy 2024, arXiv 2405.04614, and its code, mgulcin/mmcl.
    Differs: candidates may be excluded, and then count neither in the sum nor in N; the paper draws them without looking.
    """

    temperature, logq, family = 1.0, False, "sum"

    def __init__(
        self,
        *,
        margins: Annotated[list[Margin], Field(min_length=1), AfterValidator(_ascending)] = MARGINS,
        weights: list[Weight] = WEIGHTS,
        negative_weight: Weight = 700.0,
        positive_weight: Weight = 1.0,
    ) -> None:
        if len(weights) != len(margins):
            raise InputError(f"loss.weights: got {weights}, takes one for each of loss.margins, {len(margins)}")
        self.margins, self.weights = margins, weights
        self.negative_weight, self.positive_weight = negative_weight, positive_weight

    def start(self, positive_B: Tensor, log_count_B: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The positive's score; sum and number of candidates so far."""
        return positive_B, torch.zeros_like(positive_B), none_counted(positive_B)

    def add(
        self, state: tuple[Tensor, Tensor, Tensor], scores_BT: Tensor, log_count: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Takes in a tile of candidates."""
        positive_B, total_B, count_B = state
        excess_B: Any = _Excess.apply(scores_BT, self.margins, self.weights)
        return positive_B, total_B + excess_B, count_B + counted(scores_BT)

    def finish(self, state: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The loss of each row."""
        positive_B, total_B, count_B = state
        return self.positive_weight * (1 - positive_B).relu() + self.negative_weight * (total_B / count_B.clamp(min=1))


class _Excess(torch.autograd.Function):
    """sum_j sum_k v_k [s_j - m_k]_+; keeps only the scores, autograd would keep K copies. Slope at a margin: as below it."""

    @staticmethod
    def forward(ctx: Any, scores_BT: Tensor, margins: list[float], weights: list[float]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(scores_BT)
        ctx.steps = list(zip(margins, weights, strict=True))
        excess_BT = torch.empty_like(scores_BT)
        total_B = scores_BT.new_zeros(len(scores_BT))
        for margin, weight in ctx.steps:
            total_B += weight * torch.sub(scores_BT, margin, out=excess_BT).clamp_(min=0).sum(dim=1)
        return total_B

    @staticmethod
    def backward(ctx: Any, gradient_B: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (scores_BT,) = ctx.saved_tensors
        slope_BT, above_BT = torch.zeros_like(scores_BT), torch.empty_like(scores_BT)
        for margin, weight in ctx.steps:  # 1 and 0 in the scores' own type: torch adds booleans five times slower
            slope_BT.add_(torch.gt(scores_BT, margin, out=above_BT), alpha=weight)
        return slope_BT.mul_(gradient_B.unsqueeze(1)), None, None
