"""Sampled softmax against the facts of its specification, a transcription in loops, and full softmax."""

from __future__ import annotations

import math

import pytest
import torch

from components.losses import EXCLUDED
from components.losses._log_sum_exp import log_sum_exp
from components.losses.sampled_softmax import SampledSoftmax
from tests.unit.losses.folding import agrees_with, random_scores


def loss_of(positive: list[float], scores: list[list[float]], temperature: float, tiles: int = 1) -> torch.Tensor:
    loss = SampledSoftmax(temperature=temperature)
    state = loss.start(torch.tensor(positive, dtype=torch.float64) / loss.temperature)
    for tile in (torch.tensor(scores, dtype=torch.float64) / loss.temperature).chunk(tiles, dim=1):
        state = loss.add(state, tile)
    return loss.finish(state)


def test_facts_of_the_specification() -> None:
    # B = 2, temperature .1, cosines [[.8, .3], [.55, .6]], diagonal positive
    rows = loss_of([0.8, 0.6], [[0.3], [0.55]], 0.1)
    assert rows.tolist() == pytest.approx([0.0067153, 0.4740770], abs=5e-8)
    # one row, s_p = .7, s_n = (.5, .2, -.1), temperature .2
    assert loss_of([0.7], [[0.5, 0.2, -0.1]], 0.2).item() == pytest.approx(0.3840917, abs=5e-8)
    # one negative at temperature 1 is -log sigmoid(s_p - s_n)
    assert loss_of([0.7], [[0.5]], 1.0).item() == pytest.approx(0.5981389, abs=5e-8)


def test_gradient_of_the_specification() -> None:
    positive = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    negatives = torch.tensor([[0.5, 0.2, -0.1]], dtype=torch.float64, requires_grad=True)
    loss = SampledSoftmax(temperature=0.2)
    loss.finish(loss.add(loss.start(positive / 0.2), negatives / 0.2)).sum().backward()
    assert positive.grad is not None
    assert negatives.grad is not None
    assert positive.grad.item() == pytest.approx(-1.5946552, abs=5e-8)
    assert negatives.grad[0].tolist() == pytest.approx([1.2527564, 0.2795277, 0.0623711], abs=5e-8)
    assert positive.grad.sum() + negatives.grad.sum() == pytest.approx(0, abs=1e-12)


def test_equal_scores_give_log_of_their_number() -> None:
    assert loss_of([0.4] * 3, [[0.4] * 6] * 3, 0.07).tolist() == pytest.approx([math.log(7)] * 3)


def literally(positive: float, scores: list[float]) -> tuple[float, float, list[float]]:
    total = math.exp(positive)
    for score in scores:
        total += math.exp(score)
    return -math.log(math.exp(positive) / total), math.exp(positive) / total - 1, [math.exp(score) / total for score in scores]


@pytest.mark.parametrize("temperature", [0.01, 0.3, 1.0])
def test_the_formula_and_its_gradient(temperature: float) -> None:
    positive_B, scores_BN = random_scores()
    agrees_with(literally, SampledSoftmax(), positive_B / temperature, scores_BN / temperature)


def test_it_bounds_the_rank_and_the_discounted_gain() -> None:
    """Specification 11, scores (2, 1, 0), the positive in the middle: -log DCG <= log rank <= loss."""
    loss = loss_of([1.0], [[2.0, 0.0]], 1.0).item()
    assert loss == pytest.approx(1.4076060, abs=5e-8)
    random = torch.Generator().manual_seed(5)
    for scores in [torch.tensor([2.0, 1.0, 0.0]), *torch.randn(50, 9, generator=random)]:
        rank = 1 + int((scores > scores[1]).sum())
        others = [float(score) for n, score in enumerate(scores) if n != 1]
        assert math.log(math.log2(1 + rank)) <= math.log(rank) <= loss_of([float(scores[1])], [others], 1.0).item()


@pytest.mark.parametrize("tiles", [2, 3, 7])
def test_a_fold_in_tiles_is_the_whole(tiles: int) -> None:
    random = torch.Generator().manual_seed(2)
    positive, scores = torch.rand(4, generator=random), torch.rand(4, 7, generator=random)
    whole = loss_of(positive.tolist(), scores.tolist(), 0.1)
    assert loss_of(positive.tolist(), scores.tolist(), 0.1, tiles).tolist() == pytest.approx(whole.tolist(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_an_excluded_candidate_has_probability_and_gradient_zero(temperature: float, dtype: torch.dtype) -> None:
    loss = SampledSoftmax(temperature=temperature)
    positive = torch.tensor([0.9, -0.9], dtype=dtype)
    positive = positive / temperature
    scores = torch.tensor([[0.5 / temperature, EXCLUDED], [EXCLUDED, EXCLUDED]], dtype=dtype, requires_grad=True)
    rows = loss.finish(loss.add(loss.start(positive), scores))
    without = loss.finish(loss.add(loss.start(positive[:1]), scores[:1, :1]))
    assert torch.equal(rows[:1], without)
    assert rows[1] == 0  # nothing stands against it
    rows.sum().backward()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[0, 1] == 0
    assert scores.grad[1].tolist() == [0, 0]


def test_log_sum_exp_has_torchs_value_and_gradient() -> None:
    scores = torch.randn(6, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 300
    assert torch.allclose(log_sum_exp(scores), torch.logsumexp(scores, dim=1), rtol=1e-14)
    small = (scores / 300).requires_grad_()
    assert torch.autograd.gradcheck(log_sum_exp, (small,))


def test_order_does_not_matter() -> None:
    first = loss_of([0.3], [[0.1, 0.9, -0.4]], 0.05)
    assert loss_of([0.3], [[-0.4, 0.1, 0.9]], 0.05).item() == pytest.approx(first.item(), rel=1e-14)


def test_stationary_point_with_sampled_negatives() -> None:
    """Specification 2.6: at s/temperature = log p - log p_n + c the expected gradient is 0, for one negative by hand."""
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    p_n = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)
    scores = (torch.log(p) - torch.log(p_n)).requires_grad_()
    loss = SampledSoftmax(temperature=1.0)
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            row = loss.finish(loss.add(loss.start(scores[i : i + 1]), scores[j : j + 1, None]))
            expected = expected + p[i] * p_n[j] * row.sum()
    expected.backward()
    assert scores.grad is not None
    assert scores.grad.abs().max() < 1e-15
