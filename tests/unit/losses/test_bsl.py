"""BSL and SL against their formulas in plain loops, and what sets them apart from sampled softmax."""

from __future__ import annotations

import math

import pytest
import torch

from components.losses import EXCLUDED
from components.losses.bsl import Bsl
from components.losses.sampled_softmax import SampledSoftmax


def fold(loss: Bsl | SampledSoftmax, positive_B: torch.Tensor, scores_BN: torch.Tensor) -> torch.Tensor:
    return loss.finish(loss.add(loss.start(positive_B / loss.temperature), scores_BN / loss.temperature))


def literally(positive: float, scores: list[float], temperature: float, ratio: float) -> float:
    total = 0.0
    for score in scores:
        total += math.exp(score / temperature)
    return -positive / temperature + ratio * math.log(total)


@pytest.mark.parametrize("temperature", [0.08, 1.0])
@pytest.mark.parametrize("ratio", [1.0, 1.22])
def test_the_formula_and_its_gradient(temperature: float, ratio: float) -> None:
    random = torch.Generator().manual_seed(3)
    positive_B = (torch.rand(5, generator=random, dtype=torch.float64) * 2 - 1).requires_grad_()
    scores_BN = (torch.rand(5, 7, generator=random, dtype=torch.float64) * 2 - 1).requires_grad_()
    loss_B = fold(Bsl(temperature=temperature, ratio=ratio), positive_B, scores_BN)
    for row in range(5):
        expected = literally(positive_B[row].item(), scores_BN[row].tolist(), temperature, ratio)
        assert math.isclose(loss_B[row].item(), expected, rel_tol=1e-12)
    loss_B.sum().backward()
    assert positive_B.grad is not None
    assert scores_BN.grad is not None
    assert torch.allclose(positive_B.grad, torch.full_like(positive_B, -1 / temperature), rtol=1e-12), "it never fades"
    for row, scores in enumerate(scores_BN.tolist()):
        total = 0.0
        for score in scores:
            total += math.exp(score / temperature)
        for column, score in enumerate(scores):
            slope = ratio / temperature * math.exp(score / temperature) / total
            assert abs(scores_BN.grad[row, column].item() - slope) < 1e-10


def test_facts_of_the_specification() -> None:
    """One row, s_p = .7, s_n = (.5, .2, -.1): the loss at temperature .2, and what share each negative has of its gradient."""
    positive_B, scores_BN = torch.tensor([0.7]).double(), torch.tensor([[0.5, 0.2, -0.1]]).double()
    for ratio, wanted in ((1.0, -0.7586887), (1.1, -0.4845576)):
        assert fold(Bsl(temperature=0.2, ratio=ratio), positive_B, scores_BN).item() == pytest.approx(wanted, abs=1e-7)
    shares = {0.2: [0.7856, 0.1753, 0.0391], 0.1: [0.9503, 0.0473, 0.0024], 0.05: [0.9975, 0.0025, 0.0]}
    for temperature, wanted in shares.items():
        scores = scores_BN.clone().requires_grad_()
        fold(Bsl(temperature=temperature), positive_B, scores).sum().backward()
        assert scores.grad is not None
        assert (scores.grad[0] * temperature).tolist() == pytest.approx(wanted, abs=5e-5)


def test_sampled_softmax_is_its_softplus() -> None:
    """-p + log(e^p + S) = log(1 + e^{log S - p}): SL passed through a function that flattens below 0."""
    positive_B, scores_BN = torch.tensor([0.9, -0.3]).double(), torch.tensor([[0.1, 0.2], [0.5, 0.4]]).double()
    sl_B = fold(Bsl(temperature=0.2), positive_B, scores_BN)
    assert torch.allclose(fold(SampledSoftmax(temperature=0.2), positive_B, scores_BN), torch.nn.functional.softplus(sl_B))


def test_a_row_without_candidates_has_loss_and_gradient_0() -> None:
    positive_B = torch.tensor([0.5, 0.5], requires_grad=True)
    loss = Bsl()
    loss_B = loss.finish(loss.add(loss.start(positive_B), torch.tensor([[EXCLUDED, EXCLUDED], [EXCLUDED, 0.1]])))
    loss_B.sum().backward()
    assert loss_B[0] == 0
    assert positive_B.grad is not None
    assert positive_B.grad.tolist() == [0, -1]
