"""BCE against its formula in plain loops; the mean over candidates; rows without any."""

from __future__ import annotations

import math

import pytest
import torch

from components.losses import EXCLUDED
from components.losses.bce import Bce
from tests.unit.losses.folding import agrees_with, fold, gradients, of_rows, random_scores


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("weight", [0.0, 1.0, 7.5])
def test_the_formula_and_its_gradient(weight: float) -> None:
    def literally(positive: float, scores: list[float]) -> tuple[float, float, list[float]]:
        total, slopes = 0.0, []
        for score in scores:
            total -= math.log(sigmoid(-score))
            slopes.append(weight * sigmoid(score) / len(scores))
        return -math.log(sigmoid(positive)) + weight * total / len(scores), -sigmoid(-positive), slopes

    agrees_with(literally, Bce(weight=weight), *random_scores())


def test_scores_of_0_are_undecided() -> None:
    assert of_rows(Bce(), [0.0], [[0.0, 0.0, 0.0]]) == pytest.approx([2 * math.log(2)])
    assert of_rows(Bce(weight=3.0), [0.0], [[0.0]]) == pytest.approx([4 * math.log(2)])


def test_the_mean_is_over_candidates_that_count() -> None:
    positive_B, scores_BN = random_scores()
    once = fold(Bce(), positive_B, scores_BN)
    assert torch.allclose(fold(Bce(), positive_B, scores_BN, scores_BN), once, rtol=1e-13), "each twice"
    excluded = torch.full_like(scores_BN, EXCLUDED)
    assert torch.equal(fold(Bce(), positive_B, scores_BN, excluded), once)


def test_a_row_without_candidates_has_the_positives_part() -> None:
    positive_B, scores_BN = torch.tensor([0.0, 0.0]), torch.tensor([[EXCLUDED, EXCLUDED], [EXCLUDED, 0.0]])
    assert fold(Bce(), positive_B, scores_BN).tolist() == pytest.approx([math.log(2), 2 * math.log(2)])
    of_positive_B, of_scores_BN = gradients(Bce(), positive_B, scores_BN)
    assert of_positive_B.tolist() == [-0.5, -0.5]
    assert of_scores_BN.tolist() == [[0, 0], [0, 0.5]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_tiles_are_counted_exactly(dtype: torch.dtype) -> None:
    """1,029 candidates, five in the last tile: a count kept in bfloat16 would be of 1,032."""
    tiles = [torch.zeros(1, 512, dtype=dtype), torch.zeros(1, 512, dtype=dtype), torch.full((1, 5), EXCLUDED, dtype=dtype)]
    state = Bce().start(torch.zeros(1, dtype=dtype))
    for tile in tiles:
        state = Bce().add(state, tile)
    assert state[2].tolist() == [1024]
    assert Bce().add(state, torch.zeros(1, 5, dtype=dtype))[2].tolist() == [1029]
