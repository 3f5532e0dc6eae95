"""BPR against its formula in plain loops, and what it has in common with sampled softmax."""

from __future__ import annotations

import math

import pytest
import torch

from components.losses import EXCLUDED
from components.losses.bpr import Bpr
from components.losses.sampled_softmax import SampledSoftmax
from tests.unit.losses.folding import agrees_with, fold, gradients, of_rows, random_scores


def literally(positive: float, scores: list[float]) -> tuple[float, float, list[float]]:
    value, slope, slopes = 0.0, 0.0, []
    for score in scores:
        right = 1 / (1 + math.exp(-(positive - score)))
        value -= math.log(right)
        slope -= 1 - right
        slopes.append(1 - right)
    return value, slope, slopes


def test_the_formula_and_its_gradient() -> None:
    agrees_with(literally, Bpr(), *random_scores())


def test_with_one_negative_it_is_softmax_at_temperature_1() -> None:
    """-log sigmoid(.2), for .7 and .5."""
    assert of_rows(Bpr(), [0.7], [[0.5]]) == pytest.approx([0.5981389], abs=5e-8)
    positive_B, scores_BN = random_scores(columns=1)
    assert torch.allclose(fold(Bpr(), positive_B, scores_BN), fold(SampledSoftmax(temperature=1.0), positive_B, scores_BN))


def test_a_row_without_candidates_has_loss_and_gradient_0() -> None:
    positive_B, scores_BN = torch.tensor([0.5, 0.5]), torch.tensor([[EXCLUDED, EXCLUDED], [EXCLUDED, 0.5]])
    assert fold(Bpr(), positive_B, scores_BN).tolist() == pytest.approx([0, math.log(2)])
    of_positive_B, of_scores_BN = gradients(Bpr(), positive_B, scores_BN)
    assert of_positive_B.tolist() == [0, -0.5]
    assert of_scores_BN.tolist() == [[0, 0], [0, 0.5]]


def test_scores_far_apart_neither_overflow_nor_vanish() -> None:
    assert of_rows(Bpr(), [-500.0, 500.0], [[500.0], [-500.0]]) == [1000.0, 0.0]
