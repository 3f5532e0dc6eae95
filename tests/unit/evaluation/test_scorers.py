"""Scores of encoders that read histories: what is read for whom, and what is said of a user without one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from components import catalog
from components.data.interactions import Interactions
from components.errors import InputError
from components.evaluation import samples, scorers
from components.evaluation.evaluate import Task, evaluate_protocols, evaluate_tile
from components.evaluation.ranking import Ranker
from components.training.batches import Histories

ITEMS = 12
HISTORIES = [[1, 2, 3, 4, 5, 6], [7], [], [0, 8]]
LOG = Interactions.of([u for u, own in enumerate(HISTORIES) for _ in own], [i for own in HISTORIES for i in own], 4, ITEMS)
SPECS: list[dict[str, Any]] = [{"name": "sasrec", "dim": 8, "max_length": 4}, {"name": "mean_pool", "dim": 8, "max_length": 4}]


def encoder_of(spec: dict[str, Any]) -> Any:
    encoder = catalog.build("encoder", {**spec, "init_std": 0.5}, LOG, torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "bias" in name:
                parameter += 0.3  # so that a vector of nothing would not be 0 by itself
    return encoder


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["name"])
def test_a_user_is_its_last_items_and_nothing_where_it_has_none(spec: dict[str, Any]) -> None:
    encoder = encoder_of(spec)
    scorer = scorers.of(encoder, LOG)
    queries_TD = scorer.queries(torch.tensor([3, 0, 2, 1]))
    scores_TI = scorer.scores(queries_TD, 0, ITEMS)
    for row, user in enumerate((3, 0, 2, 1)):
        own = HISTORIES[user][-4:]
        if not own:
            assert (scores_TI[row] == -torch.inf).all()
            continue
        read = Histories(torch.tensor([own]), torch.tensor([len(own)]), first=0)
        wanted = encoder.items(torch.arange(ITEMS)).vectors @ encoder.encode(read)[0]
        assert torch.allclose(scores_TI[row], wanted, rtol=1e-10)
    assert not scores_TI.requires_grad
    assert torch.allclose(scorer.scores(queries_TD, 3, 7), scores_TI[:, 3:7], rtol=1e-12)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["name"])
def test_without_a_history_nothing_is_listed(spec: dict[str, Any]) -> None:
    """By either protocol; and a user whose vector happens to be 0 has a list all the same."""
    encoder = encoder_of(spec)
    ranker = Ranker(scorers.of(encoder, LOG), LOG, 5)
    for items_TK, scores_TK in ranker.lists(np.array([2, 0]), None, ("masked", "not_masked")).values():
        assert items_TK[0].tolist() == [-1] * 5
        assert (scores_TK[0] == -np.inf).all()
        assert (items_TK[1] >= 0).all()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
    items_TK, scores_TK = Ranker(scorers.of(encoder, LOG), LOG, 5).top(np.array([1]))
    assert items_TK.tolist() == [[0, 1, 2, 3, 4]]
    assert not scores_TK.any()


def test_without_a_history_a_user_counts_as_missed_and_has_no_sampled_scores() -> None:
    scorer, truth = scorers.of(encoder_of(SPECS[0]), LOG), Interactions.of([0, 2], [9, 0], 4, ITEMS)
    task = Task(truth, LOG)
    rows = evaluate_tile(Ranker(scorer, LOG, ITEMS), task, 0, [ITEMS]).to_pylist()
    assert [(row["user"], row["hit@12"]) for row in rows] == [(0, 1.0), (2, 0.0)]
    positives, negatives = samples.sample_scores(scorer, task, np.random.default_rng(0))
    assert len(positives) == 1
    assert np.isfinite([*positives, *negatives]).all()


def test_both_protocols_on_the_same_lists() -> None:
    """An item of the history that scores above the target: masked it is not listed, unmasked it takes the first rank."""
    encoder = encoder_of(SPECS[1])
    truth = Interactions.of([0], [9], 4, ITEMS)
    with torch.no_grad():
        for weight in (
            encoder.item_table,
            encoder.narrow_weight,
            encoder.widen_weight,
            encoder.narrow_bias,
            encoder.widen_bias,
        ):
            weight.zero_()
        encoder.narrow_bias[0] = 1.0  # every user's vector is (1, 0, ...): an item's score is its row's first number
        encoder.item_table[9, 0], encoder.item_table[4, 0], encoder.item_table[:4, 0] = 2.0, 3.0, -1.0
    ranker, task = Ranker(scorers.of(encoder, LOG), LOG, 5), Task(truth, LOG)
    tables = evaluate_protocols(ranker, task, 0, [1, 5], ["masked", "not_masked"])
    found = {protocol: table.to_pylist()[0] for protocol, table in tables.items()}
    assert (found["masked"]["hit@1"], found["masked"]["ndcg@5"]) == (1.0, 1.0)
    assert (found["not_masked"]["hit@1"], found["not_masked"]["hit@5"]) == (0.0, 1.0)
    assert found["not_masked"]["ndcg@5"] == pytest.approx(0.6309298)  # rank 2: 1 / log2(3)
    assert found["not_masked"]["items"][:2] == [4, 9]


def test_histories_over_another_catalogue_are_refused() -> None:
    with pytest.raises(InputError, match=r"^histories: got items of a catalogue of 13, takes the 12 of the model$"):
        scorers.of(encoder_of(SPECS[0]), Interactions.of([0], [12], 1, 13))
