"""CCL against its formula in plain loops, the facts of its specification, and the multi-margin loss with one margin."""

from __future__ import annotations

import pytest
import torch

from components import catalog
from components.errors import InputError
from components.losses import EXCLUDED
from components.losses.ccl import Ccl
from components.losses.multi_margin import MultiMargin
from tests.unit.losses.folding import agrees_with, fold, gradients, of_rows, random_scores


@pytest.mark.parametrize(("margin", "weight"), [(0.9, 150.0), (0.2, 250.0), (-0.4, 1.0)])
def test_the_formula_and_its_gradient(margin: float, weight: float) -> None:
    def literally(positive: float, scores: list[float]) -> tuple[float, float, list[float]]:
        total, slopes = 0.0, []
        for score in scores:
            total += max(0.0, score - margin)
            slopes.append(weight / len(scores) if score > margin else 0.0)
        return max(0.0, 1 - positive) + weight * total / len(scores), -1.0 if positive < 1 else 0.0, slopes

    positive_B, scores_BN = random_scores(rows=20)
    assert (scores_BN > margin).any()
    agrees_with(literally, Ccl(margin=margin, negative_weight=weight), positive_B, scores_BN)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("margin", "weight"), [(0.9, 150.0), (0.865, 700.0), (0.1, 3.7)])
def test_it_is_multi_margin_with_one_margin_to_the_bit(margin: float, weight: float, dtype: torch.dtype) -> None:
    positive_B, scores_BN = (drawn.to(dtype) for drawn in random_scores(rows=40))
    scores_BN[3, 2] = EXCLUDED
    many = MultiMargin(margins=[margin], weights=[1.0], negative_weight=weight)
    one = Ccl(margin=margin, negative_weight=weight)
    assert torch.equal(fold(one, positive_B, scores_BN), fold(many, positive_B, scores_BN))
    for ours, theirs in zip(gradients(one, positive_B, scores_BN), gradients(many, positive_B, scores_BN), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("margin", "weight", "score", "wanted"),
    [
        (0.9, 150.0, 0.95, 7.5),
        (0.9, 150.0, 1.0, 15.0),
        (0.9, 700.0, 1.0, 70.0),
        (0.865, 700.0, 0.9, 24.5),
        (0.865, 700.0, 0.95, 59.5),
        (0.865, 700.0, 1.0, 94.5),
        (0.835, 400.0, 0.9, 26.0),
        (0.835, 400.0, 1.0, 66.0),
    ],
)
def test_the_penalty_of_one_negative(margin: float, weight: float, score: float, wanted: float) -> None:
    """Worked by hand."""
    assert of_rows(Ccl(margin=margin, negative_weight=weight), [1.0], [[score]]) == pytest.approx([wanted], abs=1e-10)


def test_what_it_takes() -> None:
    assert catalog.check("loss", {"name": "ccl"}) == {"margin": 0.9, "negative_weight": 150.0}
    with pytest.raises(InputError, match=r"^loss\.margin: got 1\.1, takes a number <= 1$"):
        catalog.check("loss", {"name": "ccl", "margin": 1.1})
    with pytest.raises(InputError, match=r"^loss\.margins: unknown key"):
        catalog.check("loss", {"name": "ccl", "margins": [0.9]})
