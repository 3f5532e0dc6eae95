"""A pool of which each worker holds a share: the queries go around, not the candidates."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor

from components.losses import EXCLUDED
from components.masks import Mask
from components.objectives import _fold, _tiled
from components.objectives._log_count import LogCount
from components.training.batches import Batch
from components.training.collectives import Workers


def batch_of_all(batch: Batch, workers: Workers) -> Batch:
    """The rows of the global batch, without what they are read from."""
    users_G, items_G = (workers.gather(each_B, batch.rows) for each_B in (batch.users_B, batch.items_B))
    return replace(batch, users_B=users_G, items_B=items_G, first_row=0, histories=None)


def mine(batch: Batch) -> slice:
    """This worker's rows of the global batch."""
    return slice(batch.first_row, batch.first_row + len(batch.users_B))


class Everyone:
    """The queries of the global batch, G of them, as each worker's share meets them: gathered once for all pools.

    Each worker folds its share of a pool for all G rows: of the family log_sum_exp its log-sum-exp is one candidate of a row,
    of the family sum it is what it adds. Bytes a step: G x D for the queries and for their gradient, whatever the pools' size.
    """

    def __init__(self, loss: Any, batch: Batch, queries_BD: Tensor, started: tuple[Tensor, ...], workers: Workers) -> None:
        self._loss, self._batch, self._queries_BD, self._started, self._workers = loss, batch, queries_BD, started, workers

    @cached_property
    def queries(self) -> Tensor:
        """[G, D]"""
        return self._gathered(self._queries_BD)

    @cached_property
    def _all_started(self) -> tuple[Tensor, ...]:
        """The fold's first state."""
        return tuple(self._gathered(each_B) for each_B in self._started)

    def add(
        self,
        state: tuple[Tensor, ...],
        pool: Any,
        vectors: Tensor,
        excluded: Mask | None,
        log_count: LogCount | None,
    ) -> tuple[Tensor, ...]:
        """The state of this worker's rows after all workers' shares of a pool."""
        scores = pool, self.queries, vectors, excluded, log_count
        if self._workers.size == 1:
            return _fold.add(self._loss, state, *scores)
        if self._loss.family == "log_sum_exp":
            share_G = _tiled.log_sum_exp(*scores)
            return self._loss.add(state, self._of_all(share_G.clamp(min=EXCLUDED)).T)
        before = self._all_started
        after = _tiled.added(self._loss, before, *scores)
        added = (self._of_all(after_G - before_G).sum(dim=0) for before_G, after_G in zip(before, after, strict=True))
        return tuple(each_B + added_B for each_B, added_B in zip(state, added, strict=True))

    def _gathered(self, each_B: Tensor) -> Tensor:
        return self._workers.gather(each_B, self._batch.rows)

    def _of_all(self, share_G: Tensor) -> Tensor:
        """[W, B] of all shares."""
        return self._workers.gather(share_G.unsqueeze(0), self._workers.size)[:, mine(self._batch)]
