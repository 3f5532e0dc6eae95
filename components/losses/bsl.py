"""Bilateral softmax loss (BSL), and the softmax loss (SL) that it generalises: the positive is not in the denominator."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from components.losses import EXCLUDED, Temperature
from components.losses._log_sum_exp import log_sum_exp

NOTHING = EXCLUDED / 2  # a log-sum-exp below it is of no candidate at all


class Bsl:
    """L_b = -p + ratio * log sum_j e^{c_j},  p = s_b / temperature,  c_j = s_j / temperature.

    Unlike sampled softmax, the pull on the positive does not fade once it outscores its candidates, which matters where they
    are few. `ratio` 1 is SL; another is BSL, the ratio of the positives' temperature to the negatives'.

    Shapes: positive_B, scores_BT (divided by the temperature already); the loss is [B].
    Raises: nothing; a row without candidates has loss 0.
    Source: Wu et al. 2024 (ICDE), arXiv 2312.12882, mode "reweight" of the code: tau1 is temperature, tau2 is ratio.
    Differs: candidates are excluded by a mask; the code draws them without looking.
    """

    logq, family = False, "log_sum_exp"

    def __init__(self, *, temperature: Temperature = 0.1, ratio: Annotated[float, Field(gt=0)] = 1.0) -> None:
        self.temperature = temperature
        self.ratio = ratio

    def start(self, positive_B: Tensor, log_count_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The positive's logit, and the log-sum-exp so far: of nothing."""
        return positive_B, torch.full_like(positive_B, EXCLUDED)

    def add(self, state: tuple[Tensor, Tensor], scores_BT: Tensor, log_count: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Takes in a tile of candidates."""
        positive_B, total_B = state
        return positive_B, torch.logaddexp(total_B, log_sum_exp(scores_BT))

    def finish(self, state: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of each row."""
        positive_B, total_B = state
        return torch.where(total_B <= NOTHING, 0.0, self.ratio * total_B - positive_B)  # NaN stays NaN
