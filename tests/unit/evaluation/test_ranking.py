from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from components.data.interactions import Interactions
from components.errors import InputError
from components.evaluation.protocols import Protocol
from components.evaluation.ranking import BLOCK, TILE, Ranker, top
from components.evaluation.scorers import Factors
from tests.unit.evaluation.worlds import world


def plain_top(scores_I: np.ndarray, k: int) -> list[int]:
    """By descending score, then ascending id."""
    return sorted(range(len(scores_I)), key=lambda i: (-scores_I[i], i))[:k]


@pytest.mark.parametrize("item_tile", [64, 700, 10_000])
def test_lists_are_those_of_a_full_sort_of_unmasked_items(item_tile):
    factors, task = world()
    users_T = task.tile(1)
    items_TK, scores_TK = Ranker(factors, task.seen, 15, item_tile=item_tile).top(users_T, keep=task.truth)
    dense = (factors.users_UD @ factors.items_ID.T).double().numpy()
    for row, user in enumerate(users_T):
        masked = set(task.seen.items_of(user)) - set(task.truth.items_of(user))
        wanted = [i for i in plain_top(dense[user], 15 + len(masked)) if i not in masked][:15]
        assert items_TK[row].tolist() == wanted
        np.testing.assert_allclose(scores_TK[row], dense[user, wanted], rtol=1e-5)


@pytest.mark.parametrize("item_tile", [64, 10_000])
def test_both_protocols_come_out_of_one_scoring(item_tile, monkeypatch):
    """Each is bit for bit what it is by itself: masked with the task's seen items, not masked with none."""
    factors, task = world()
    users_T, nothing = task.tile(1), Interactions.of([], [], task.seen.num_users, task.seen.num_items)
    alone: dict[Protocol, Any] = {
        "masked": Ranker(factors, task.seen, 15, item_tile=item_tile).top(users_T, keep=task.truth),
        "not_masked": Ranker(factors, nothing, 15, item_tile=item_tile).top(users_T),
    }
    scored, scores = [], factors.scores
    monkeypatch.setattr(factors, "scores", lambda *given: scored.append(given[1:3]) or scores(*given))
    ranker = Ranker(factors, task.seen, 15, item_tile=item_tile)
    both = ranker.lists(users_T, task.truth, ("masked", "not_masked"))
    for protocol, (items_TK, scores_TK) in alone.items():
        assert np.array_equal(both[protocol][0], items_TK)
        assert np.array_equal(both[protocol][1], scores_TK)
    assert not np.array_equal(both["masked"][0], both["not_masked"][0])
    assert len(scored) == len(set(scored)) == -(-900 // item_tile), "every item is scored once"
    assert ranker.seconds["encode"] > 0
    assert ranker.seconds["rank"] > 0
    spent = dict(ranker.seconds)
    ranker.lists(users_T)
    assert all(ranker.seconds[what] > before for what, before in spent.items()), "they add up"


def test_the_current_tests_own_items_are_not_masked_and_others_are():
    factors = Factors(torch.ones(1, 1), torch.tensor([[4.0], [3.0], [2.0], [1.0]]))
    seen = Interactions.of([0, 0], [0, 1], 1, 4)
    truth = Interactions.of([0], [1], 1, 4)
    items_TK, _ = Ranker(factors, seen, 2).top(np.array([0]), keep=truth)
    assert items_TK.tolist() == [[1, 2]]
    items_TK, _ = Ranker(factors, seen, 2).top(np.array([0]))
    assert items_TK.tolist() == [[2, 3]]


@pytest.mark.parametrize("width", [30, 50 * BLOCK, 50 * BLOCK + 17])
@pytest.mark.parametrize("levels", [1, 3, 40])
def test_equal_scores_are_ordered_by_id(width, levels):
    scores_TN = torch.randint(levels, (5, width), generator=torch.Generator().manual_seed(levels)).float()
    values_TK, positions_TK = top(scores_TN, 10)
    for row in range(5):
        assert positions_TK[row].tolist() == plain_top(scores_TN[row].numpy(), 10)
        assert values_TK[row].tolist() == scores_TN[row, positions_TK[row]].tolist()


def test_ties_over_the_edge_of_item_tiles_are_ordered_by_id():
    factors = Factors(torch.ones(1, 1), torch.ones(50, 1))
    items_TK, _ = Ranker(factors, Interactions.of([0], [1], 1, 50), 12, item_tile=13).top(np.array([0]))
    assert items_TK.tolist() == [[0, *range(2, 13)]]


def test_a_user_with_fewer_candidates_than_k_gets_a_short_list():
    factors = Factors(torch.ones(2, 1), torch.arange(5.0)[:, None])
    seen = Interactions.of([0, 0, 0], [0, 4, 2], 2, 5)
    items_TK, scores_TK = Ranker(factors, seen, 4, item_tile=4).top(np.array([0, 1]))
    assert items_TK.tolist() == [[3, 1, -1, -1], [4, 3, 2, 1]]
    assert scores_TK[0].tolist() == [3, 1, -np.inf, -np.inf]


def test_a_users_list_does_not_depend_on_the_tile_it_is_in():
    factors, task = world(width=64)
    ranker = Ranker(factors, task.seen, 20)
    items_TK, scores_TK = ranker.top(np.arange(TILE))
    for size in (1, 7, 100):
        fewer_items, fewer_scores = ranker.top(np.arange(size))
        assert np.array_equal(fewer_items, items_TK[:size])
        assert np.array_equal(fewer_scores, scores_TK[:size])


@pytest.mark.parametrize("k", [0, 51])
def test_k_beyond_the_catalogue_is_refused(k):
    factors = Factors(torch.ones(1, 1), torch.ones(50, 1))
    with pytest.raises(InputError, match=f"k: got {k}, .*50 items"):
        Ranker(factors, Interactions.of([], [], 1, 50), k)


def test_a_diverged_model_is_refused():
    factors = Factors(torch.tensor([[torch.nan]]), torch.ones(500, 1))
    with pytest.raises(ValueError, match="NaN"):
        Ranker(factors, Interactions.of([], [], 1, 500), 5).top(np.array([0]))
