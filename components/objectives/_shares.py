"""A pool of which each worker holds a share: the queries go around, not the candidates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from components.losses import EXCLUDED
from components.objectives import _fold, _tiled
from components.objectives._log_count import LogCount
from components.training.batches import Batch
from components.training.collectives import Workers


def add(
    loss: Any,
    state: tuple[Tensor, ...],
    started: tuple[Tensor, ...],
    pool: Any,
    queries_GD: Tensor,
    vectors: Tensor,
    excluded: _tiled.Excluded | None,
    log_count: LogCount | None,
    batch: Batch,
    workers: Workers,
) -> tuple[Tensor, ...]:
    """The state of this worker's rows after all workers' shares; queries_GD are of the global batch, `started` its first state.

    Each worker folds its share for all G rows: of the family log_sum_exp its log-sum-exp is one candidate of a row, of the
    family sum it is what it adds. Bytes a step: G x D for the queries and for their gradient, whatever the size of the pool.
    """
    if workers.size == 1:
        return _fold.add(loss, state, pool, queries_GD, vectors, excluded, log_count)
    mine = slice(batch.first_row, batch.first_row + len(batch.users_B))

    def of_all(share_G: Tensor) -> Tensor:
        """[W, B] of all shares."""
        return workers.gather(share_G.unsqueeze(0), workers.size)[:, mine]

    if loss.family == "log_sum_exp":
        share_G = _tiled.log_sum_exp(pool, queries_GD, vectors, excluded, log_count)
        return loss.add(state, of_all(share_G.clamp(min=EXCLUDED)).T)
    before = tuple(workers.gather(each_B, batch.rows) for each_B in started)
    after = _tiled.added(loss, before, pool, queries_GD, vectors, excluded, log_count)
    added = (of_all(after_G - before_G).sum(dim=0) for before_G, after_G in zip(before, after, strict=True))
    return tuple(each_B + added_B for each_B, added_B in zip(state, added, strict=True))


def any_of_all(left_G: Tensor, batch: Batch, workers: Workers) -> Tensor:
    """[B] whether any worker's share has something left for a row."""
    return workers.sum(left_G.to(torch.int32))[batch.first_row : batch.first_row + len(batch.users_B)] > 0
