"""The magnitude study has what its specification asks for, as recipes."""

from __future__ import annotations

from typing import Any

import pytest

from components import config
from tests.benchmarks import magnitudes


def test_both_similarities_and_every_number_of_layers_are_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is ranked by inner product and by cosine, so that all four pairs of training and scoring are there."""
    monkeypatch.setenv("HARDNEG_DATA", "/somewhere")
    encoders: list[dict[str, Any]] = []
    for model in magnitudes.MODELS:
        recipe = config.load(magnitudes.RECIPE, magnitudes.changes(model))
        assert recipe.training.epochs == magnitudes.EPOCHS
        encoders.append({key: recipe.encoder[key] for key in ("layers", "train_similarity", "side", "left", "right")})
    assert len({tuple(each.values()) for each in encoders}) == len(encoders)
    whole = [each for each in encoders if (each["side"], each["left"], each["right"]) == ("both", 0.5, 0.5)]
    asked = {(each["layers"], each["train_similarity"]) for each in whole}
    assert asked == {(layers, "cosine") for layers in range(4)} | {(0, "dot"), (1, "dot")}
