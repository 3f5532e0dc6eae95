"""Scores of sampled users' held-out items against random unseen ones, for the histogram."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from components.evaluation.evaluate import Task
from components.evaluation.ranking import ITEM_TILE, TILE
from components.evaluation.scorers import Scorer

Floats = NDArray[np.float64]


@torch.no_grad()
def sample_scores(scorer: Scorer, task: Task, rng: np.random.Generator, max_users: int = 4 * TILE) -> tuple[Floats, Floats]:
    """(positives, negatives): each relevant item of some users, and for each a uniform item that is neither seen nor relevant.

    A draw that is seen or relevant is dropped, so there may be fewer negatives than positives; so are users without scores.
    """
    users = np.sort(rng.choice(task.users, min(max_users, len(task.users)), replace=False)).astype(np.int64)
    found: tuple[list[Floats], list[Floats]] = ([], [])
    for start in range(0, len(users), TILE):
        users_T = users[start : start + TILE]
        row, item = task.truth.rows_of(users_T)
        drawn = rng.integers(0, scorer.num_items, len(item))
        known_row, known_item = (np.concatenate(both) for both in zip(task.seen.rows_of(users_T), (row, item), strict=True))
        fresh = ~np.isin(row * scorer.num_items + drawn, known_row * scorer.num_items + known_item)
        for scores, wanted in zip(found, ((row, item), (row[fresh], drawn[fresh])), strict=True):
            values = _scores(scorer, users_T, *wanted)
            scores.append(values[values != -np.inf])
    return np.concatenate(found[0]), np.concatenate(found[1])


def _scores(scorer: Scorer, users_T: NDArray[np.int64], row: NDArray[np.int64], item: NDArray[np.int64]) -> Floats:
    queries_TD = scorer.queries(torch.from_numpy(users_T))
    out = np.empty(len(row))
    for start in range(0, scorer.num_items, ITEM_TILE):
        stop = min(start + ITEM_TILE, scorer.num_items)
        scores_TS = scorer.scores(queries_TD, start, stop)
        here = (item >= start) & (item < stop)
        out[here] = scores_TS.cpu().numpy()[row[here], item[here] - start]
    return out
