from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from components.data.interactions import Interactions
from components.evaluation import exact
from components.evaluation.evaluate import Summary, Task, evaluate_tile, validate
from components.evaluation.exact import ExactSum
from components.evaluation.ranking import TILE, Ranker
from tests.unit.evaluation.worlds import world

KS = [5, 20]


def summary_of(workers: list[list[int]]) -> Summary:
    """What workers with these tiles each find, every one of them loading everything anew."""
    summary = Summary(KS, world(num_users=1500)[1].seen.item_degrees())
    for tiles in workers:
        scorer, task = world(num_users=1500)
        ranker = Ranker(scorer, task.seen, max(KS))
        for tile in tiles:
            summary.add(evaluate_tile(ranker, task, tile, KS))
    return summary


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_gives_the_same_bits(workers):
    _, task = world(num_users=1500)
    tiles = list(range(task.num_tiles))
    assert len(tiles) >= 6
    one = summary_of([tiles])
    many = summary_of([tiles[rank::workers] for rank in reversed(range(workers))])
    assert many.metrics() == one.metrics()
    assert [many.group_recall(k) for k in KS] == [one.group_recall(k) for k in KS]
    assert many.num_users == len(task.users)


def test_every_user_with_relevant_items_is_in_one_tile():
    _, task = world()
    users = np.concatenate([task.tile(n) for n in range(task.num_tiles)])
    assert users.tolist() == [u for u in range(task.truth.num_users) if len(task.truth.items_of(u))]
    assert {len(task.tile(n)) for n in range(task.num_tiles - 1)} == {TILE}


def test_validate_is_the_column_of_the_full_evaluation():
    scorer, task = world()
    ranker = Ranker(scorer, task.seen, 20)
    tiles = range(task.num_tiles)
    values = validate(scorer, task, ["recall@20", "ndcg@5"], tiles)
    for name, got in values.items():
        wanted = [evaluate_tile(ranker, task, n, KS)[name].to_numpy() for n in tiles]
        assert np.array_equal(got, np.concatenate(wanted))
    assert {name: len(got) for name, got in validate(scorer, task, ["recall@20"], []).items()} == {"recall@20": 0}


def test_a_summary_has_f1_of_its_means() -> None:
    found = summary_of([list(range(world(num_users=1500)[1].num_tiles))]).metrics()
    for k in KS:
        precision, recall = found[f"precision@{k}"], found[f"recall@{k}"]
        assert found[f"f1@{k}"] == pytest.approx(2 / (1 / precision + 1 / recall))


def test_what_a_task_counts() -> None:
    """Four users with held-out rows, one of them without a history; a repeated row counts once, another user's does not."""
    truth = Interactions.of([0, 0, 0, 1, 2, 3], [2, 2, 1, 3, 0, 0], 5, 5)
    history = Interactions.of([0, 0, 1, 2, 4], [2, 2, 0, 4, 3], 5, 5)
    seen = Interactions.of([3], [0], 5, 5)
    counts = {"users": 4, "users_without_history": 1, "targets": 5, "targets_in_history": 1}
    assert Task(truth, seen, history).counts() == counts
    assert Task(truth, history).counts() == counts, "what is seen is the history where no other is given"


def test_counts_go_over_every_tile() -> None:
    _, task = world(num_users=1500)
    assert task.num_tiles > 3
    pairs = [set(zip(log.users.tolist(), log.items.tolist(), strict=True)) for log in (task.truth, task.history)]
    without = {user for user, _ in pairs[0]} - {user for user, _ in pairs[1]}
    found = task.counts()
    assert (found["targets"], found["targets_in_history"]) == (len(pairs[0]), len(pairs[0] & pairs[1]))
    assert (found["users"], found["users_without_history"]) == (len(task.users), len(without))


def test_group_contributions_add_up_to_recall():
    _, task = world(num_users=1500)
    summary = summary_of([list(range(task.num_tiles))])
    for k in KS:
        assert len(summary.group_recall(k)) == 10
        assert sum(summary.group_recall(k)) == pytest.approx(summary.metrics()[f"recall@{k}"], abs=1e-14)
        assert summary.metrics()[f"recall@{k}"] > 0


def test_a_repeated_row_counts_once():
    truth = Interactions.of([0, 0, 0], [2, 2, 1], 1, 4)
    hits_TK, relevant_T = Task(truth, truth).hits(np.array([0], np.int32), np.array([[2, 3, -1]], np.int32))
    assert hits_TK.tolist() == [[True, False, False]]
    assert relevant_T.tolist() == [2]


def test_an_exact_sum_is_rounded_once():
    values = np.random.default_rng(0).random(5000) * 10.0 ** np.random.default_rng(1).integers(-300, 300, 5000)
    values[::7] *= -1
    values[0], values[1] = 5e-324, 0.0
    assert exact.mean(values) == float(sum(map(Fraction, values)) / len(values))
    thirds = np.full(3, 1 / 3)
    assert exact.mean(thirds) == math.fsum(thirds) / 3


def test_an_exact_sum_takes_parts_in_any_order():
    values = np.random.default_rng(0).random(1000)
    total = ExactSum()
    total.add(values[10:])
    total.add(values[:10])
    assert total.mean() == exact.mean(values[::-1])
    assert ExactSum().mean() == 0.0
