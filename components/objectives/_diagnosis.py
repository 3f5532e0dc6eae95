"""What is told of a learned hardness, and of views, beside the loss."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from components.data.interactions import Interactions
from components.evaluation import metrics
from components.training.collectives import Workers

USERS_AT_ONCE = 256
ROWS_AT_ONCE = 1024
GROUPS = 10
DECIMALS = 6


class ByGroup:
    """Mean hardness of the items of each popularity group among a global batch's negatives, where there are any."""

    def __init__(self, degrees_I: NDArray[np.int64], device: torch.device) -> None:
        self._group_I = torch.from_numpy(metrics.groups(degrees_I, GROUPS)).to(device)
        self._sums = torch.zeros(2, GROUPS + 1, dtype=torch.float64, device=device)

    def add(self, delta_N: Tensor, items_N: Tensor) -> None:
        """Some negatives."""
        group_N = self._group_I[items_N]
        self._sums[0].index_add_(0, group_N, delta_N.double())
        self._sums[1] += torch.bincount(group_N, minlength=GROUPS + 1)

    def told(self, workers: Workers) -> dict[str, float]:
        """Over all workers."""
        sums, counts = workers.sum(self._sums).tolist()
        return {f"hardness_group_{group}": sums[group] / count for group, count in enumerate(counts) if count}


def uniformity(vectors_BD: Tensor, rows: int, workers: Workers) -> float:
    """log of the mean of e^{-2 |x - y|^2} over pairs of different rows (Wang and Isola 2020, arXiv 2005.10242, t = 2).

    Of all `rows` of a global batch; each worker takes the pairs of its own.
    """
    if rows < 2:
        return 0.0
    vectors_GD = workers.gather(vectors_BD, rows)
    total = torch.zeros((), dtype=torch.float64, device=vectors_BD.device)
    for part_RD in vectors_BD.split(ROWS_AT_ONCE):
        total += torch.cdist(part_RD, vectors_GD).square().mul(-2).exp().sum(dtype=torch.float64)
    return math.log((float(workers.sum(total)) - rows) / (rows * (rows - 1)))  # less each row and itself


def rank_correlation(first_RV: Tensor, second_RV: Tensor) -> float:
    """Spearman's, of each row in which neither is the same everywhere; the mean over these rows, 0 where there are none.

    Numbers are taken to DECIMALS, so that rounding orders none that are equal.
    """
    ranks = (rankdata(each_RV.double().cpu().numpy().round(DECIMALS), axis=1) for each_RV in (first_RV, second_RV))
    a_RV, b_RV = (rank_RV - rank_RV.mean(axis=1, keepdims=True) for rank_RV in ranks)
    scale_R = np.sqrt((a_RV**2).sum(axis=1) * (b_RV**2).sum(axis=1))
    known = scale_R > 0
    return float(((a_RV * b_RV).sum(axis=1)[known] / scale_R[known]).mean()) if known.any() else 0.0


def false_negatives(users_UW: Tensor, items_IW: Tensor, train: Interactions, held_out: Interactions) -> dict[str, float]:
    """Share of held-out positives that a hardness g(u, j) = <a_u, b_j> takes for false negatives: those with d < 0.

    d_uj = g(u, j) - log mean_k e^{g(u, k)}, k over the items that u does not have in training; a held-out positive that it
    has there too is left out. The threshold lies above the mean of g, so chance is .5 or somewhat more: `_shuffled` is the rate
    of an unseen item drawn at random in the place of each positive. `_popular` and `_unpopular` are the rates of items of the
    upper and of the lower five popularity groups, where there are any.

    Source: Zhang et al. 2023, arXiv 2310.18700, section on false negatives.
    Differs: the paper takes positives of the test; here they are those that the epoch is chosen on, so that training sees no
    test. On a biased log they are biased as it is.
    """
    popular_I = metrics.groups(train.item_degrees(), GROUPS) > GROUPS // 2
    random = np.random.default_rng(0)
    rates: dict[str, list[NDArray[np.bool_]]] = {"": [], "_shuffled": [], "_popular": [], "_unpopular": []}
    users = np.unique(held_out.users)
    for first in range(0, len(users), USERS_AT_ONCE):
        users_T = users[first : first + USERS_AT_ONCE]
        g_TI = (users_UW[torch.from_numpy(users_T).long().to(users_UW.device)] @ items_IW.T).cpu().double().numpy()
        unseen_TI = np.ones(g_TI.shape, bool)
        unseen_TI[train.rows_of(users_T)] = False
        largest_T1 = g_TI.max(axis=1, keepdims=True)
        mean_T = (np.exp(g_TI - largest_T1) * unseen_TI).sum(axis=1) / np.maximum(unseen_TI.sum(axis=1), 1)
        with np.errstate(divide="ignore"):  # of a user with every item
            taken_TI = g_TI < largest_T1 + np.log(mean_T)[:, None]
        row, item = held_out.rows_of(users_T)
        row, item = (each[unseen_TI[row, item]] for each in (row, item))
        other = random.integers(0, g_TI.shape[1], len(row))
        instead = unseen_TI[row, other]
        taken = taken_TI[row, item]
        rates[""].append(taken)
        rates["_shuffled"].append(taken_TI[row, other][instead])
        rates["_popular"].append(taken[popular_I[item]])
        rates["_unpopular"].append(taken[~popular_I[item]])
    joined = {name: np.concatenate(parts) for name, parts in rates.items() if parts}
    found = {f"false_negative_rate{name}": float(values.mean()) for name, values in joined.items() if len(values)}
    assert all(math.isfinite(rate) for rate in found.values()), found
    return found
