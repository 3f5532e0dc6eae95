"""One loss on the positives of the log against candidates from the sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from components.data.histories import Positives
from components.data.interactions import Interactions
from components.errors import InputError
from components.losses import EXCLUDED
from components.negatives import Candidates
from components.objectives import Learner, Outcome
from components.objectives._drawn import Drawn
from components.training.batches import Batch


class Supervised:
    """queries, positives -> candidates of each source -> one fold of the loss over all of them.

    The dense driver: each source's scores [B, C] exist at once. `positives: sequences` takes every place of whole sequences in
    one pass of an encoder that reads histories; its rows are places, and `training.batch_size` counts sequences.

    Raises: InputError where the loss corrects for logQ and the sources exclude differently: an item that one source keeps out
    of a row and another draws has no expected count that both share; or where it does and positives are drawn for users, for
    sources count on rows of the log.
    Source: Wu et al. 2024, arXiv 2201.02327, for the scheme of one positive against candidates from one or more sources.
    """

    def __init__(
        self,
        encoder: Any,
        loss: Any,
        sources: Sequence[Any],
        _train: Interactions,
        _generator: torch.Generator,
        /,
        *,
        positives: Positives = "rows",
    ) -> None:
        self.encoder, self.loss, self.sources, self.positives = encoder, loss, sources, positives
        if loss.logq and positives == "users":
            raise InputError(f"objective.positives: got {positives!r}, takes 'rows' or 'sequences' where loss.logq is true")
        self.learners = {"model": Learner(encoder)}
        for n, source in enumerate(sources if loss.logq else ()):
            if source.exclude != (first := sources[0].exclude):
                raise InputError(
                    f"negatives.{n}.exclude: got {source.exclude!r}, takes {first!r} as in negatives.0 where loss.logq is true"
                )

    def passes(self, epoch: int) -> tuple[str, ...]:
        """The model's, in every epoch."""
        return ("model",)

    def __call__(self, batch: Batch) -> Outcome:
        query = self.encoder.queries(batch)
        positive = self.encoder.items(batch.items_B)
        queries_BD = query.vectors / self.loss.temperature
        shared_rows, own_rows = [], []
        state = self.loss.start((queries_BD * positive.vectors).sum(dim=1), self._log_count_of_positives(batch))
        for source in self.sources:
            candidates = source(batch, positive.vectors)
            if candidates.items.dim() == 2:
                drawn = Drawn(candidates.items)
                vectors, rows = self.encoder.items(drawn.items_U)
                own_rows.append(drawn.repeated(rows))
                scores_BT = drawn.products(queries_BD, vectors)
            else:
                vectors = candidates.vectors
                if vectors is None:
                    vectors, rows = self.encoder.items(candidates.items)
                    shared_rows.append(rows)
                scores_BT = queries_BD @ vectors.T
            _exclude(scores_BT, candidates)
            state = self.loss.add(state, scores_BT, self._log_count(batch, candidates.items))
        return Outcome(self.loss.finish(state), (query.rows, positive.rows), tuple(shared_rows), tuple(own_rows))

    def _log_count(self, batch: Batch, items: Tensor) -> Tensor | None:
        """log sum_s n_s q_s(i), the draws of an item for a row by all sources; None where the loss has no use for it."""
        if not self.loss.logq:
            return None
        counts: Iterator[Tensor] = (source.expected_count(batch, items) for source in self.sources)
        return torch.log(sum(counts, start=torch.zeros((), dtype=torch.float64, device=items.device)))

    def _log_count_of_positives(self, batch: Batch) -> Tensor | None:
        """log of 1, as the positive is always there, plus its draws by sources that may draw it."""
        if not self.loss.logq:
            return None
        count_B = torch.ones(len(batch.items_B), dtype=torch.float64, device=batch.items_B.device)
        for source in self.sources:
            if not source.excludes_positive:
                count_B = count_B + source.expected_count(batch, batch.items_B)
        return torch.log(count_B)


def _exclude(scores_BT: Tensor, candidates: Candidates) -> None:
    """In place, as no product keeps a copy of its result; a loss gives EXCLUDED the gradient 0 by itself."""
    if candidates.excluded is not None:
        rows, columns = candidates.excluded
        with torch.no_grad():
            scores_BT.view(-1).index_fill_(0, rows * scores_BT.shape[1] + columns, EXCLUDED)
