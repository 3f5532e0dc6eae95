"""The multi-margin loss against its formula in plain loops and the facts of its specification (MML, section 11)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from components import catalog, config
from components.errors import InputError
from components.losses import EXCLUDED
from components.losses.ccl import Ccl
from components.losses.multi_margin import MultiMargin
from tests.unit.losses.folding import agrees_with, fold, gradients, of_rows, random_scores

GOWALLA = MultiMargin()
YELP = MultiMargin(margins=[0.6, 0.7, 0.8, 0.9], weights=[0.05, 0.15, 0.2, 0.6], negative_weight=400.0)


def literal(margins: list[float], weights: list[float], negative: float, positive_weight: float) -> Any:
    def literally(positive: float, scores: list[float]) -> tuple[float, float, list[float]]:
        total, slopes = 0.0, []
        for score in scores:
            slope = 0.0
            for margin, weight in zip(margins, weights, strict=True):
                total += weight * max(0.0, score - margin)
                slope += weight if score > margin else 0.0
            slopes.append(negative * slope / len(scores))
        value = positive_weight * max(0.0, 1 - positive) + negative * total / len(scores)
        return value, -positive_weight if positive < 1 else 0.0, slopes

    return literally


@pytest.mark.parametrize(
    ("margins", "weights", "negative", "positive"),
    [
        ([0.7, 0.8, 0.9], [0.1, 0.15, 0.75], 700.0, 1.0),
        ([-0.5, 0.0, 0.3], [0.2, 0.0, 1.7], 3.0, 2.5),
        ([-1.0], [1.0], 150.0, 0.0),
    ],
)
def test_the_formula_and_its_gradient(margins: list[float], weights: list[float], negative: float, positive: float) -> None:
    loss = MultiMargin(margins=margins, weights=weights, negative_weight=negative, positive_weight=positive)
    positive_B, scores_BN = random_scores(rows=20)
    positive_B[0] = 1.3  # dropout scales cosines
    assert (scores_BN > margins[-1]).any()
    assert (scores_BN < margins[-1]).any() or margins == [-1.0]
    agrees_with(literal(margins, weights, negative, positive), loss, positive_B, scores_BN)


@pytest.mark.parametrize(("loss", "wanted"), [(GOWALLA, 31.7), (YELP, 26.2), (Ccl(margin=0.9, negative_weight=150.0), 3.95)])
def test_the_toy_of_the_specification(loss: Any, wanted: float) -> None:
    assert of_rows(loss, [0.8], [[0.95, 0.75]]) == pytest.approx([wanted], abs=1e-10)


PENALTIES = {
    "gowalla": (GOWALLA, {0.7: 0, 0.75: 3.5, 0.8: 7, 0.85: 15.75, 0.9: 24.5, 0.95: 59.5, 1.0: 94.5}),
    "yelp": (YELP, {0.6: 0, 0.65: 1, 0.7: 2, 0.75: 6, 0.8: 10, 0.85: 18, 0.9: 26, 0.95: 46, 1.0: 66}),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_the_penalty_of_one_negative(name: str) -> None:
    loss, table = PENALTIES[name]
    assert of_rows(loss, [1.0] * len(table), [[score] for score in table]) == pytest.approx([*table.values()], abs=1e-10)


@pytest.mark.parametrize(
    ("loss", "mean_margin", "jensen", "equal_from"), [(GOWALLA, 0.865, 18.375, 0.9), (YELP, 0.835, 15.6, 0.9)]
)
def test_the_matched_single_margin(loss: MultiMargin, mean_margin: float, jensen: float, equal_from: float) -> None:
    """CCL(sum_k v_k m_k) is the same outside the margins; between them more is asked, most at the mean margin."""
    matched = Ccl(margin=mean_margin, negative_weight=loss.negative_weight)
    grid = [-1 + n / 500 for n in range(1001)]
    many, one = (of_rows(each, [1.0] * len(grid), [[score] for score in grid]) for each in (loss, matched))
    for score, ours, theirs in zip(grid, many, one, strict=True):
        if score <= loss.margins[0] or score >= equal_from:
            assert ours == pytest.approx(theirs, abs=1e-9)
        else:
            assert -1e-9 < ours - theirs < jensen + 1e-9
    (at_mean,) = of_rows(loss, [1.0], [[mean_margin]])
    assert at_mean == pytest.approx(jensen, abs=1e-9)
    assert of_rows(matched, [1.0], [[mean_margin]]) == pytest.approx([0], abs=1e-9)


def test_nothing_is_left_to_do() -> None:
    positive_B, scores_BN = torch.tensor([1.0]), torch.tensor([[0.7, 0.1, -1.0]])
    assert fold(GOWALLA, positive_B, scores_BN).tolist() == [0]
    of_positive_B, of_scores_BN = gradients(GOWALLA, positive_B, scores_BN)
    assert of_positive_B.tolist() == [0]
    assert of_scores_BN.tolist() == [[0, 0, 0]]


def test_the_gradients_of_the_specification() -> None:
    scores_BN = torch.full((3, 100), 0.1, dtype=torch.float64)
    scores_BN[0, 0] = 0.85
    of_positive_B, of_scores_BN = gradients(GOWALLA, torch.tensor([0.999, 1.0, 1.11], dtype=torch.float64), scores_BN)
    assert of_positive_B.tolist() == [-1, 0, 0]
    assert of_scores_BN[0, 0].item() == pytest.approx(1.75)
    assert of_scores_BN.sum().item() == pytest.approx(1.75)


def test_repeats_change_nothing_and_inactive_ones_dilute() -> None:
    positive_B, scores_BN = random_scores()
    scores_BN = scores_BN.abs() ** 0.2
    once = fold(GOWALLA, positive_B, scores_BN)
    negatives = once - (1 - positive_B)
    assert (negatives > 1).all(), "each row has active ones"
    assert torch.allclose(fold(GOWALLA, positive_B, scores_BN, scores_BN), once, rtol=1e-13)
    with_inactive = fold(GOWALLA, positive_B, scores_BN, torch.full_like(scores_BN, 0.69))
    assert torch.allclose(with_inactive - (1 - positive_B), negatives / 2, rtol=1e-12)


def test_an_excluded_candidate_is_not_in_the_mean() -> None:
    positive_B, scores_BN = random_scores()
    excluded = torch.full_like(scores_BN, EXCLUDED)
    assert torch.equal(fold(YELP, positive_B, scores_BN, excluded), fold(YELP, positive_B, scores_BN))
    assert torch.equal(fold(YELP, positive_B, excluded), 1 - positive_B), "the positive's part alone"


def refused(**loss: Any) -> str:
    """What a recipe with such a loss is told."""
    with pytest.raises(InputError) as caught:
        config.parse(
            {
                "name": "small",
                "data": {"source": "log.csv"},
                "encoder": {"name": "mf"},
                "loss": {"name": "multi_margin", **loss},
                "negatives": [{"name": "uniform"}],
            }
        )
    return str(caught.value)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"margins": []}, "loss.margins: got [], takes at least 1"),
        ({"margins": [0.7, 0.9, 0.8]}, "loss.margins: got [0.7, 0.9, 0.8], takes numbers that ascend, each once"),
        ({"margins": [0.7, 0.7, 0.8]}, "loss.margins: got [0.7, 0.7, 0.8], takes numbers that ascend, each once"),
        ({"margins": [0.7, 0.8, 1.5]}, "loss.margins.2: got 1.5, takes a number <= 1"),
        ({"margins": [-3, 0.8, 0.9]}, "loss.margins.0: got -3, takes a number >= -1"),
        ({"margins": 0.9}, "loss.margins: got 0.9, takes a valid list"),
        ({"margins": [0.7, "a", 0.9]}, "loss.margins.1: got 'a', takes a finite number"),
        ({"margins": [0.8, 0.9]}, "loss.weights: got [0.1, 0.15, 0.75], takes one for each of loss.margins, 2"),
        ({"weights": [1.0]}, "loss.weights: got [1.0], takes one for each of loss.margins, 3"),
        ({"weights": [0.1, -0.2, 0.3]}, "loss.weights.1: got -0.2, takes a number >= 0"),
        ({"negative_weight": -1}, "loss.negative_weight: got -1, takes a number >= 0"),
        ({"positive_weight": math.inf}, "loss.positive_weight: got inf, takes a finite number"),
    ],
)
def test_what_a_recipe_is_told(loss: dict[str, Any], message: str) -> None:
    assert refused(**loss) == message


def test_a_recipes_own_lists() -> None:
    first, second = (catalog.build("loss", {"name": "multi_margin"}) for _ in range(2))
    assert first.margins == [0.7, 0.8, 0.9]
    assert first.margins is not second.margins, "a default is nobody's to change"
