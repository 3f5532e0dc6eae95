"""The magnitude study has what its specification asks for, as recipes, and ranks by both similarities."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from components import config
from components.data import interactions
from components.evaluation import splits
from components.training import checkpoint
from tests.benchmarks import _report_classic, magnitudes
from tests.worlds import small_log


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


def test_a_run_is_ranked_by_inner_products_and_by_cosines_without_what_was_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    task, fitted = small_log(), list[str]()
    tables = [torch.randn(rows, 4) for rows in (task.seen.num_users, task.seen.num_items)]
    run = SimpleNamespace(
        encoder=SimpleNamespace(scoring_tables=lambda: tables),
        recipe=SimpleNamespace(training=SimpleNamespace(fit_on="train+valid")),
    )
    monkeypatch.setattr(checkpoint, "open_run", lambda *_: run)
    monkeypatch.setattr(splits, "task_of", lambda *_: task)
    monkeypatch.setattr(interactions, "load", lambda _, *names: fitted.extend(names) or task.seen)
    told = magnitudes._told(Path("run"), Path("dataset"))
    assert fitted == ["train", "valid"]
    for by in ("dot", "cosine"):
        users, items = (table / table.norm(dim=1, keepdim=True) if by == "cosine" else table for table in tables)
        recalls = []
        for user in range(task.truth.num_users):
            wanted, own = ({*each.items[each.offsets[user] : each.offsets[user + 1]]} for each in (task.truth, task.seen))
            scores = (items @ users[user]).tolist()
            best = sorted({*range(len(items))} - own, key=lambda item, scores=scores: -scores[item])[: magnitudes.K]
            recalls += [len(wanted & {*best}) / len(wanted)] if wanted else []
        assert told[by]["recall"] == pytest.approx(np.mean(recalls))
    assert told["dot"]["recall"] != told["cosine"]["recall"]


def test_the_norms_correlation_is_with_the_degrees_of_what_was_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    task = small_log()
    degrees = torch.from_numpy(task.seen.item_degrees()).float()
    vectors = torch.randn(task.seen.num_users, 4), torch.nn.functional.normalize(torch.randn(len(degrees), 4), dim=1)
    run = SimpleNamespace(recipe=SimpleNamespace(training=SimpleNamespace(fit_on="train")))
    monkeypatch.setattr(checkpoint, "open_run", lambda *_: run)
    monkeypatch.setattr(splits, "task_of", lambda *_: task)
    monkeypatch.setattr(interactions, "load", lambda *_: task.seen)
    for sign in (1, -1):
        scaled = [vectors[0], vectors[1] * torch.exp(sign * degrees / 10).unsqueeze(1)]
        run.encoder = SimpleNamespace(scoring_tables=lambda scaled=scaled: scaled)
        assert magnitudes._told(Path("run"), Path("dataset"))["norm_degree_correlation"] == pytest.approx(sign, abs=0.01)


def test_what_inner_products_do_to_each_is_said_where_every_seed_agrees() -> None:
    def run(dot: float, cosine: float) -> dict[str, Any]:
        other = {"ndcg": 0.1, "mean_popularity": 9.0, "less_popular_half": 0.3}
        return {"norm_degree_correlation": 0.5, "dot": {"recall": dot, **other}, "cosine": {"recall": cosine, **other}}

    def told(*mf: dict[str, Any]) -> str:
        models = {"MF (no layer)": [*mf], "LightGCN, 1 layer": [run(0.18, 0.15), run(0.18, 0.17)]}
        return "\n".join(_report_classic.magnitudes({"figures": {"epochs": 12, "models": models}}))

    clear = told(run(0.08, 0.1), run(0.09, 0.1))
    assert (
        "LightGCN, 1 layer: inner products in the place of cosines give +12.5% of recall@20 (2 seeds): **favours it**." in clear
    )
    assert "MF (no layer): inner products in the place of cosines give -15.0% of recall@20 (2 seeds): **hurts it**." in clear
    assert "**does neither in every seed**" in told(run(0.08, 0.1), run(0.11, 0.1))
    assert "(one seed): **hurts it**" in told(run(0.08, 0.1))
