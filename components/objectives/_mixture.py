"""What the rows of a batch meet of each source, and folds over the candidates of all of them, wherever these are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from components.losses import EXCLUDED
from components.masks import Mask
from components.negatives import Candidates, Memory
from components.objectives import _fold, _ring, _shares, _tiled
from components.objectives._drawn import Drawn
from components.objectives._log_count import LogCount
from components.objectives._products import of_sums
from components.objectives._shared import Shared
from components.training.batches import Batch
from components.training.collectives import Workers


class Met(NamedTuple):
    """A source's candidates. `batch` is of the rows that meet them: of a memory, the global batch's."""

    batch: Batch
    candidates: Candidates
    pool: Any
    ids: Tensor  # of the vectors: the distinct ones of rows' own candidates; this worker's of what goes around
    vectors: Tensor
    is_memory: bool


class Mixture:
    """The candidates of all sources for a batch.

    Of a source with `hardest` each row takes so many, those that score highest for it; which these are has no gradient.
    """

    def __init__(
        self, encoder: Any, sources: Sequence[Any], batch: Batch, queries_BD: Tensor, positives_BD: Tensor, workers: Workers
    ) -> None:
        self._encoder, self._batch, self._workers = encoder, batch, workers
        self.shared_rows: tuple[Tensor, ...] = ()  # as an Outcome has them
        self.own_rows: tuple[Tensor, ...] = ()
        self.met = [self._meet(source, queries_BD, positives_BD) for source in sources]

    def fold(
        self,
        loss: Any,
        state: tuple[Tensor, ...],
        queries_BD: Tensor,
        vectors: Sequence[Tensor] | None = None,
        log_counts: Sequence[LogCount | None] | None = None,
    ) -> tuple[Tensor, ...]:
        """The state after all candidates, of which other `vectors` may be met."""
        everyone = _shares.Everyone(loss, self._batch, queries_BD, state, self._workers)
        for n, met in enumerate(self.met):
            excluded = met.candidates.excluded
            scored = vectors[n] if vectors is not None else met.vectors
            log_count = log_counts[n] if log_counts is not None else None
            if met.candidates.goes_around:
                of_all = len(met.candidates.items), excluded, log_count, self._workers
                state = _ring.add(loss, state, queries_BD, scored, *of_all)
            elif met.is_memory:
                state = everyone.add(state, met.pool, scored, excluded, log_count)
            else:
                state = _fold.add(loss, state, met.pool, queries_BD, scored, excluded, log_count)
        return state

    def log_sum_exp(self, queries_BD: Tensor, vectors: Sequence[Tensor] | None = None) -> Tensor:
        """[B] log sum_j e^{<q, v_j>} over all candidates; about EXCLUDED for a row without any."""
        nothing_B = queries_BD.new_full((len(queries_BD),), EXCLUDED, dtype=of_sums(queries_BD.dtype))
        (total_B,) = self.fold(_Total(), (nothing_B,), queries_BD, vectors)
        return total_B

    def left(self) -> Tensor:
        """[B] how many candidates count for a row."""
        left_B = torch.zeros(len(self._batch.users_B), dtype=torch.int64, device=self._batch.users_B.device)
        for met in self.met:
            of_source = met.candidates.left(len(met.batch.users_B))
            left_B += self._workers.sum(of_source)[_shares.mine(self._batch)] if met.is_memory else of_source
        return left_B

    def of_met(self, met: Met, each_B: Tensor) -> Tensor:
        """What there is for each of this worker's rows, for each of those that meet a source."""
        return self._workers.gather(each_B, self._batch.rows) if met.is_memory else each_B

    @property
    def named(self) -> dict[str, Tensor]:
        """Vectors, as an Outcome has them."""
        return {f"candidates of negatives.{n}": met.vectors for n, met in enumerate(self.met)}

    @cached_property
    def _of_all(self) -> Batch:
        return _shares.batch_of_all(self._batch, self._workers)

    def _meet(self, source: Any, queries_BD: Tensor, positives_BD: Tensor) -> Met:
        is_memory = isinstance(source, Memory)
        batch = self._of_all if is_memory else self._batch
        candidates = source(batch, positives_BD)
        if getattr(source, "hardest", None):
            candidates = self._hardest(candidates, source.hardest, queries_BD)
        if candidates.items.dim() == 2:
            drawn = Drawn(candidates.items)
            vectors, rows = self._encoder.items(drawn.items_U)
            self.own_rows += (drawn.repeated(rows),)
            return Met(batch, candidates, drawn, drawn.items_U, vectors, is_memory)
        ids, vectors = batch.items_B if candidates.goes_around else candidates.items, candidates.vectors
        if vectors is None:
            vectors, rows = self._encoder.items(ids)
            if is_memory:
                self.own_rows += (rows,)
            else:
                self.shared_rows += (rows,)
        return Met(batch, candidates, Shared(len(candidates.items)), ids, vectors, is_memory)

    @torch.no_grad()
    def _hardest(self, candidates: Candidates, count: int, queries_BD: Tensor) -> Candidates:
        """The `count` of each row's candidates that score highest; excluded where a row has fewer that count."""
        items = candidates.items
        drawn = Drawn(items) if items.dim() == 2 else None
        pool, ids = (Shared(len(items)), items) if drawn is None else (drawn, drawn.items_U)
        vectors = self._encoder.items(ids).vectors
        scores_BN, place_BN = _tiled.highest(pool, queries_BD, vectors, candidates.excluded, count)
        items_BN = items[place_BN] if drawn is None else items.gather(1, place_BN)
        row_X, column_X = (scores_BN <= EXCLUDED / 2).nonzero(as_tuple=True)
        return Candidates(items_BN, None, Mask.of_pairs(row_X, column_X, *items_BN.shape))


class _Total:
    """A fold that is the log-sum-exp of all candidates alone."""

    family = "log_sum_exp"

    def add(self, state: tuple[Tensor], scores_BT: Tensor, _log_count: Tensor | None = None) -> tuple[Tensor]:
        return (torch.logaddexp(state[0], torch.logsumexp(scores_BT, dim=1)),)
