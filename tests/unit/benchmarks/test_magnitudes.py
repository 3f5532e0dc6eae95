"""The magnitude study has what its specification asks for, as recipes."""

from __future__ import annotations

from typing import Any

import pytest

from components import config
from tests.benchmarks import _report_models, magnitudes


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


def test_what_inner_products_do_to_each_is_said_where_every_seed_agrees() -> None:
    def run(dot: float, cosine: float) -> dict[str, Any]:
        other = {"ndcg": 0.1, "mean_popularity": 9.0, "less_popular_half": 0.3}
        return {"norm_degree_correlation": 0.5, "dot": {"recall": dot, **other}, "cosine": {"recall": cosine, **other}}

    def told(*mf: dict[str, Any]) -> str:
        models = {"MF (no layer)": [*mf], "LightGCN, 1 layer": [run(0.18, 0.15), run(0.18, 0.17)]}
        return "\n".join(_report_models.magnitudes({"figures": {"epochs": 12, "models": models}}))

    clear = told(run(0.08, 0.1), run(0.09, 0.1))
    assert (
        "LightGCN, 1 layer: inner products in the place of cosines give +12.5% of recall@20 (2 seeds): **favours it**." in clear
    )
    assert "MF (no layer): inner products in the place of cosines give -15.0% of recall@20 (2 seeds): **hurts it**." in clear
    assert "**does neither in every seed**" in told(run(0.08, 0.1), run(0.11, 0.1))
    assert "(one seed): **hurts it**" in told(run(0.08, 0.1))
