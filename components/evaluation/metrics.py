"""Metrics of top-K lists, in float64. Per user: arrays over a tile; over the catalogue: from counts of recommended items.

T_u are the user's relevant items, rel_k is 1 if the item at rank k (from 1) is one of them. A user without relevant items
has no metrics. Definitions: SSM's evaluator (Wu et al., ACM TOIS 2024, arXiv 2201.02327) for recall, NDCG and the popularity
groups; trec_eval for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from components.data.statistics import gini

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

NAMES = ("recall", "ndcg", "hit", "precision", "mrr", "map")
HEAD = Fraction(4, 5)  # share of the interactions that the head of the catalogue holds


def per_user(hits_TK: NDArray[np.bool_], relevant_T: NDArray[np.integer], ks: Iterable[int]) -> dict[str, Floats]:
    """`{"recall@10": values_T, ...}` for every metric at every K of `ks` (each at most the width of `hits_TK`).

    recall@K    = sum_{k<=K} rel_k / |T_u|                                      (the true |T_u|, not min(K, |T_u|))
    ndcg@K      = sum_{k<=K} rel_k / log2(k+1)  /  sum_{k<=min(K,|T_u|)} 1 / log2(k+1)
    hit@K       = 1 if any rel_k, k <= K
    precision@K = sum_{k<=K} rel_k / K                                          (K even if the list is shorter)
    mrr@K       = 1 / (the first k <= K with rel_k), 0 without one
    map@K       = sum_{k<=K} rel_k precision@k / |T_u|                          (as trec_eval; RecBole divides by min(K,|T_u|))

    Args:
        relevant_T: |T_u|, at least 1.
    """
    assert (relevant_T >= 1).all(), "a user without relevant items has no metrics"
    ranks_K = np.arange(1, hits_TK.shape[1] + 1)
    discount_K = 1 / np.log2(ranks_K + 1)
    ideal_K = np.cumsum(discount_K)
    count_TK = np.cumsum(hits_TK, axis=1)  # running sums along a row: no K needs another pass, no row another's company
    gain_TK = np.cumsum(hits_TK * discount_K, axis=1)
    precision_TK = np.cumsum(hits_TK * (count_TK / ranks_K), axis=1)
    first_T = np.where(hits_TK.any(axis=1), hits_TK.argmax(axis=1) + 1, np.inf)
    out: dict[str, Floats] = {}
    for k in ks:
        assert 1 <= k <= hits_TK.shape[1], f"metrics at {k} of lists of {hits_TK.shape[1]}"
        out[f"recall@{k}"] = count_TK[:, k - 1] / relevant_T
        out[f"ndcg@{k}"] = gain_TK[:, k - 1] / ideal_K[np.minimum(k, relevant_T) - 1]
        out[f"hit@{k}"] = (count_TK[:, k - 1] > 0).astype(np.float64)
        out[f"precision@{k}"] = count_TK[:, k - 1] / k
        out[f"mrr@{k}"] = np.where(first_T <= k, 1 / first_T, 0.0)
        out[f"map@{k}"] = precision_TK[:, k - 1] / relevant_T
    return out


def f1(precision: float, recall: float) -> float:
    """2 P R / (P + R), P and R the means over users of precision@K and recall@K; 0 where both are.

    It is not the mean of users' own F1.  Source: ALPINE (Li et al., ACM MM 2019), its evaluation of micro-video recommendation.
    """
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def groups(degrees_I: Counts, number: int = 10) -> NDArray[np.int64]:
    """[I] popularity group of each item, 1 (least popular) to `number`, each holding about as many training interactions.

    Items in ascending order of degree (equal ones by id); c = running sum of degrees, n = its end;
    group g where (g-1) n / number < c <= g n / number. Items without interactions are in group 1.

    Source: SSM, section on popularity groups, as in SGL (Wu et al., SIGIR 2021), figure 4.
    """
    order_I = np.argsort(degrees_I, kind="stable")
    running_I = np.cumsum(degrees_I[order_I])
    total = max(int(running_I[-1]), 1)
    group_I = np.empty(len(degrees_I), np.int64)
    group_I[order_I] = np.maximum((running_I * number + total - 1) // total, 1)
    return group_I


def group_hits(items_TK: NDArray[np.integer], hits_TK: NDArray[np.bool_], group_I: NDArray[np.int64], number: int) -> Counts:
    """[T, number] hits of each user in each group; divided by |T_u|, and averaged, they add up to recall@K."""
    row, rank = np.nonzero(hits_TK)
    cell = row * number + group_I[items_TK[row, rank]] - 1
    return np.bincount(cell, minlength=len(items_TK) * number).reshape(-1, number)


def popularity_ranks(degrees_I: Counts) -> Floats:
    """[I] 1 for the most popular item, I for the least; equal degrees share the mean of their ranks."""
    _, place_I, count = np.unique(-degrees_I, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[place_I]


def tail(degrees_I: Counts) -> NDArray[np.bool_]:
    """[I] items outside the head: the fewest most popular items (equal degrees by id) that hold 80 % of the interactions."""
    order_I = np.argsort(-degrees_I, kind="stable")
    before_I = np.cumsum(degrees_I[order_I]) - degrees_I[order_I]
    tail_I = np.empty(len(degrees_I), bool)
    tail_I[order_I] = before_I * HEAD.denominator >= int(degrees_I.sum()) * HEAD.numerator
    return tail_I


def catalogue(counts_I: Counts, degrees_I: Counts, k: int) -> dict[str, float]:
    """What the lists of all users together recommend; c_i = lists that hold item i, d_i = its training interactions.

    coverage@K             = |{i: c_i > 0}| / I
    gini@K                 = that of c                                           (components.data.statistics)
    mean_popularity@K      = sum c_i d_i / sum c
    mean_popularity_rank@K = sum c_i rank_i / sum c                              (`popularity_ranks`: 1 = most popular)
    tail_share@K           = sum_{i in tail} c_i / sum c                         (`tail`)

    Sums are of whole numbers, so they are exact. All are 0 where nothing was recommended.
    """
    total, size = int(counts_I.sum()), len(counts_I)
    sums = {"coverage": 0.0, "gini": 0.0, "mean_popularity": 0.0, "mean_popularity_rank": 0.0, "tail_share": 0.0}
    if total:
        twice_rank_I = (2 * popularity_ranks(degrees_I)).astype(np.int64)
        sums = {
            "coverage": int((counts_I > 0).sum()) / size,
            "gini": gini(counts_I),
            "mean_popularity": int(counts_I @ degrees_I) / total,
            "mean_popularity_rank": int(counts_I @ twice_rank_I) / (2 * total),
            "tail_share": int(counts_I[tail(degrees_I)].sum()) / total,
        }
    return {f"{name}@{k}": value for name, value in sums.items()}
