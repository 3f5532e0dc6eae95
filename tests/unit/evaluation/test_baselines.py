from __future__ import annotations

import numpy as np
import psutil
import pytest
import torch

from components.data.interactions import Interactions
from components.errors import InputError
from components.evaluation import baselines
from components.evaluation.baselines import Ease, MostPopular
from components.evaluation.ranking import Ranker
from tests.unit.evaluation.worlds import rows


def literal_ease(train: Interactions, l2: float) -> np.ndarray:
    """The nine lines of the paper's appendix, dense and in float64."""
    X = np.zeros((train.num_users, train.num_items))
    X[train.users, train.items] = 1
    G = X.T @ X
    G[np.diag_indices(len(G))] += l2
    P = np.linalg.inv(G)
    B = P / -np.diag(P)
    B[np.diag_indices(len(B))] = 0
    return X @ B


@pytest.mark.parametrize("band", [7, 4096])
def test_ease_is_the_papers_closed_form(monkeypatch, band):
    monkeypatch.setattr(baselines, "BAND", band)
    train = rows(80, 50, 900, seed=0)
    ease = Ease.fit(train, 20.0)
    queries = ease.queries(torch.arange(80))
    got = torch.cat([ease.scores(queries, 0, 33), ease.scores(queries, 33, 50)], 1)
    np.testing.assert_allclose(got.numpy(), literal_ease(train, 20.0), atol=2e-6)


def test_ease_counts_a_repeated_row_once():
    once, twice = Interactions.of([0, 0, 1], [0, 1, 1], 2, 3), Interactions.of([0, 0, 0, 1], [0, 1, 1, 1], 2, 3)
    scores = [(e := Ease.fit(train, 1.0)).scores(e.queries(torch.arange(2)), 0, 3) for train in (once, twice)]
    assert torch.equal(*scores)


def test_ease_ranks_a_user_without_history(tmp_path):
    train = Interactions.of([0, 0], [0, 1], 2, 3)
    Ease.fit(train, 1.0).save(tmp_path / "ease.npy")
    items_TK, scores_TK = Ranker(Ease.load(tmp_path / "ease.npy", train), train, 2).top(np.array([1, 0]))
    assert items_TK.tolist() == [[0, 1], [2, -1]]
    assert scores_TK[0].tolist() == [0, 0]


def test_ease_refuses_a_catalogue_beyond_memory():
    items = int(psutil.virtual_memory().total ** 0.5)
    with pytest.raises(InputError, match=f"GiB for {items} items"):
        Ease.fit(Interactions.of([0], [0], 1, items), 1.0)


def test_most_popular_lists_by_degree_what_a_user_has_not_seen():
    train = Interactions.of([0, 1, 2, 0, 1, 3], [2, 2, 2, 1, 1, 3], 4, 4)
    items_TK, scores_TK = Ranker(MostPopular(train), train, 2, item_tile=3).top(np.array([0, 3]))
    assert items_TK.tolist() == [[3, 0], [2, 1]]
    assert scores_TK.tolist() == [[1, 0], [3, 2]]
