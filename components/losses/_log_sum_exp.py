"""log sum_j e^{s_j} of each row, with one exponential where torch's takes two."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _LogSumExp(torch.autograd.Function):
    """Keeps e^{s - max} for the backward pass, in which it is only scaled: d/ds_j = e^{s_j - max} / sum."""

    @staticmethod
    def forward(ctx: Any, scores_BT: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        largest_B1 = scores_BT.amax(dim=1, keepdim=True)
        weights_BT = (scores_BT - largest_B1).exp_()
        total_B1 = weights_BT.sum(dim=1, keepdim=True)
        ctx.save_for_backward(weights_BT, total_B1)
        return (largest_B1 + total_B1.log()).squeeze(1)

    @staticmethod
    def backward(ctx: Any, gradient_B: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        weights_BT, total_B1 = ctx.saved_tensors
        return weights_BT * (gradient_B.unsqueeze(1) / total_B1)


def log_sum_exp(scores_BT: Tensor) -> Tensor:
    """[B] from [B, T]; never overflows."""
    return _LogSumExp.apply(scores_BT)  # pyright: ignore[reportReturnType]
