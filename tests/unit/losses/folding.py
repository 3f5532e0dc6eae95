"""What the tests of losses share: a fold over some tiles, and a loss held against plain loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def fold(loss: Any, positive_B: Tensor, *tiles: Tensor) -> Tensor:
    state = loss.start(positive_B)
    for tile in tiles:
        state = loss.add(state, tile)
    return loss.finish(state)


def of_rows(loss: Any, positive: list[float], scores: list[list[float]]) -> list[float]:
    return fold(loss, torch.tensor(positive, dtype=torch.float64), torch.tensor(scores, dtype=torch.float64)).tolist()


def gradients(loss: Any, positive_B: Tensor, scores_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Of the sum over rows, with respect to both."""
    inputs = positive_B.detach().requires_grad_(), scores_BN.detach().requires_grad_()
    found = torch.autograd.grad(fold(loss, *inputs).sum(), inputs)
    return found[0], found[1]


def random_scores(rows: int = 5, columns: int = 7) -> tuple[Tensor, Tensor]:
    drawn = torch.rand(rows, columns + 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2 - 1
    return drawn[:, 0], drawn[:, 1:]


Literal = Callable[[float, list[float]], tuple[float, float, list[float]]]


def agrees_with(literally: Literal, loss: Any, positive_B: Tensor, scores_BN: Tensor) -> None:
    """`literally` gives value, slope of the positive and slopes of the candidates of one row."""
    values, (of_positive_B, of_scores_BN) = fold(loss, positive_B, scores_BN), gradients(loss, positive_B, scores_BN)
    for row, (positive, scores) in enumerate(zip(positive_B.tolist(), scores_BN.tolist(), strict=True)):
        value, slope, slopes = literally(positive, scores)
        assert abs(values[row].item() - value) < 1e-10
        assert abs(of_positive_B[row].item() - slope) < 1e-10
        assert max(abs(got - wanted) for got, wanted in zip(of_scores_BN[row].tolist(), slopes, strict=True)) < 1e-10
