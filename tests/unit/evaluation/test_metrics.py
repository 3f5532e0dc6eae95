from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, RR, P, R, Success, nDCG

from components.evaluation import metrics

NAMES = {"recall": R, "ndcg": nDCG, "hit": Success, "precision": P, "mrr": RR, "map": AP}


def test_the_toy_of_the_specification():
    hits_TK = np.array([[True, False, True, False, False]])
    values = metrics.per_user(hits_TK, np.array([3]), [5])
    assert values["recall@5"][0] == pytest.approx(2 / 3)
    assert values["ndcg@5"][0] == pytest.approx(0.7039181)
    assert values["mrr@5"][0] == 1
    assert values["precision@5"][0] == pytest.approx(2 / 5)
    assert values["map@5"][0] == pytest.approx((1 + 2 / 3) / 3)


@pytest.mark.parametrize("seed", range(3))
def test_agreement_with_an_independent_implementation(seed):
    """ir-measures (pytrec_eval underneath) computes every metric from lists and judgements of its own format."""
    rng = np.random.default_rng(seed)
    users, items, width, ks = 40, 60, 25, [1, 5, 10, 25]
    lists_TK = np.stack([rng.permutation(items)[:width] for _ in range(users)])
    relevant = [set(rng.permutation(items)[: rng.integers(1, 40)].tolist()) for _ in range(users)]
    hits_TK = np.array([[item in relevant[u] for item in lists_TK[u]] for u in range(users)])
    values = metrics.per_user(hits_TK, np.array([len(r) for r in relevant]), ks)
    qrels = {str(u): {str(item): 1 for item in relevant[u]} for u in range(users)}
    run = {str(u): {str(item): float(-rank) for rank, item in enumerate(lists_TK[u])} for u in range(users)}
    wanted = {measure @ k: f"{name}@{k}" for name, measure in NAMES.items() for k in ks}
    compared = 0
    for row in ir_measures.iter_calc(list(wanted), qrels, run):
        assert values[wanted[row.measure]][int(row.query_id)] == pytest.approx(row.value, abs=1e-12), row
        compared += 1
    assert compared == users * len(wanted) == users * len(values)


def test_f1_is_of_the_means_and_not_the_mean_of_users_own() -> None:
    """Two users' lists of two: one hit of one relevant item, and two of four; precision 3/4, recall 3/4. Then none at all."""
    values = metrics.per_user(np.array([[True, False], [True, True]]), np.array([1, 4]), [2])
    precision, recall = values["precision@2"].mean(), values["recall@2"].mean()
    assert (precision, recall) == (3 / 4, 3 / 4)
    assert metrics.f1(precision, recall) == 3 / 4
    own = [2 * p * r / (p + r) for p, r in zip(values["precision@2"], values["recall@2"], strict=True)]
    assert abs(np.mean(own) - 3 / 4) > 0.05
    assert metrics.f1(0.2, 0.6) == pytest.approx(2 / (1 / 0.2 + 1 / 0.6))  # the harmonic mean
    assert metrics.f1(0.0, 0.0) == 0.0


def test_a_metric_at_k_ignores_what_follows():
    hits_TK = np.random.default_rng(0).random((30, 20)) < 0.3
    relevant_T = np.maximum(hits_TK.sum(1), 1)
    whole, cut = metrics.per_user(hits_TK, relevant_T, [7, 20]), metrics.per_user(hits_TK[:, :7], relevant_T, [7])
    for name, values in cut.items():
        assert np.array_equal(values, whole[name])


def test_groups_of_the_specification():
    assert metrics.groups(np.array([1, 1, 2, 3, 4, 9]), 2).tolist() == [1, 1, 1, 1, 2, 2]
    assert metrics.groups(np.array([9, 1, 4, 1, 3, 2]), 2).tolist() == [2, 1, 2, 1, 1, 1]  # whatever the items' order


def test_groups_hold_about_as_many_interactions():
    degrees_I = np.random.default_rng(0).zipf(1.7, 4000).clip(max=400)
    group_I = metrics.groups(degrees_I, 10)
    held = np.bincount(group_I, degrees_I)[1:]
    assert len(held) == 10
    assert abs(held - degrees_I.sum() / 10).max() <= degrees_I.max()
    assert (np.diff(group_I[np.argsort(degrees_I, kind="stable")]) >= 0).all()


def test_items_never_trained_on_are_in_the_least_popular_group():
    assert metrics.groups(np.array([0, 5, 0, 5]), 2).tolist() == [1, 1, 1, 2]


def test_group_hits_add_up_to_hits():
    rng = np.random.default_rng(0)
    items_TK, hits_TK = rng.integers(0, 50, (9, 6)), rng.random((9, 6)) < 0.5
    by_group = metrics.group_hits(items_TK, hits_TK, rng.integers(1, 5, 50), 4)
    assert np.array_equal(by_group.sum(1), hits_TK.sum(1))


def test_popularity_ranks_share_ties():
    assert metrics.popularity_ranks(np.array([5, 1, 9, 5])).tolist() == [2.5, 4, 1, 2.5]


def test_the_head_is_the_fewest_items_that_hold_four_fifths():
    assert metrics.tail(np.array([1, 8, 0, 1])).tolist() == [True, False, True, True]
    assert metrics.tail(np.array([5, 5, 5, 5, 5])).tolist() == [False, False, False, False, True]


def test_catalogue_metrics_of_a_toy():
    got = metrics.catalogue(np.array([2, 0, 1, 1]), np.array([8, 1, 0, 1]), 2)
    assert got["coverage@2"] == 3 / 4
    assert got["mean_popularity@2"] == (2 * 8 + 1) / 4
    assert got["mean_popularity_rank@2"] == (2 * 1 + 4 + 2.5) / 4
    assert got["tail_share@2"] == 2 / 4
    pairs = sum(abs(a - b) for a in (2, 0, 1, 1) for b in (2, 0, 1, 1))
    assert got["gini@2"] == pytest.approx(pairs / (2 * 4 * 4))  # half the relative mean difference


def test_gini_reaches_its_ends():
    degrees = np.ones(5, np.int64)
    assert metrics.catalogue(np.full(5, 7), degrees, 1)["gini@1"] == 0
    assert metrics.catalogue(np.array([0, 0, 9, 0, 0]), degrees, 1)["gini@1"] == pytest.approx(1 - 1 / 5)
