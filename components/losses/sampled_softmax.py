"""Sampled softmax (SSM, InfoNCE); full softmax where the candidates are all items."""

from __future__ import annotations

import torch
from torch import Tensor

from components.losses import Temperature
from components.losses._log_sum_exp import log_sum_exp


class SampledSoftmax:
    """L_b = -p + log( e^p + sum_j e^{c_j} ),  p = s_b / temperature,  c_j = s_j / temperature.

    With `logq`, the objective hands in log_count, log of how often an item is expected among a row's candidates (the positive
    is there once, and again where a source may draw it); it is subtracted from every logit inside the log, the positive's too,
    so that the loss estimates the full softmax whatever the candidates are drawn from: its value as well as its gradient.

    Shapes: positive_B, scores_BT (divided by the temperature already), log_count_B of the positives, log_count [T] or [B, T];
    the loss is [B].
    Raises: nothing; a row without candidates has loss 0.
    Source: Wu et al. 2024, arXiv 2201.02327, eq. of L_SSM; logQ: Bengio and Senecal 2008.
    Differs: the loss of each row, not their sum: the mean over the global batch is taken by the trainer (Adam does not see the
    factor; optimizer.l2.reduce: mean keeps the ratio of the official sum and sum).
    """

    family = "log_sum_exp"

    def __init__(self, *, temperature: Temperature = 0.1, logq: bool = False) -> None:
        self.temperature = temperature
        self.logq = logq

    def start(self, positive_B: Tensor, log_count_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The positive's logit, and the log-sum-exp so far: of the positive alone."""
        return positive_B, _corrected(positive_B, log_count_B)

    def add(self, state: tuple[Tensor, Tensor], scores_BT: Tensor, log_count: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Takes in a tile of candidates."""
        positive_B, total_B = state
        return positive_B, torch.logaddexp(total_B, log_sum_exp(_corrected(scores_BT, log_count)))

    def finish(self, state: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of each row."""
        positive_B, total_B = state
        return total_B - positive_B


def _corrected(logits: Tensor, log_count: Tensor | None) -> Tensor:
    return logits if log_count is None else logits - log_count.to(logits.dtype)
