"""One loss on the positives of the log against candidates from the sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from components.data.histories import Positives
from components.data.interactions import Interactions
from components.errors import InputError
from components.objectives import Learner, Outcome, _fold
from components.objectives._log_count import LogCount
from components.objectives._mixture import Mixture
from components.objectives._products import of_sums
from components.training.batches import Batch
from components.training.collectives import Workers


class Supervised:
    """queries, positives -> candidates of each source -> one fold of the loss over all of them.

    Each source's scores [B, C] exist at once where they are few, else a tile at a time (components.objectives._fold).
    `positives: sequences` takes every place of whole sequences in one pass of an encoder that reads histories; its rows are
    places, and `training.batch_size` counts sequences.

    Raises: InputError where the loss corrects for logQ and the sources exclude differently: an item that one source keeps out
    of a row and another draws has no expected count that both share; or one has `hardest`; or positives are drawn for users, as
    sources count on rows of the log.
    Source: Wu et al. 2024, arXiv 2201.02327, for the scheme of one positive against candidates from one or more sources.
    """

    takes_views, turns, first_whole_epoch, encodes = False, (("model",),), 0, 1

    def __init__(
        self,
        encoder: Any,
        loss: Any,
        sources: Sequence[Any],
        _train: Interactions,
        _generator: torch.Generator,
        workers: Workers,
        _views: Sequence[Any],
        /,
        *,
        positives: Positives = "rows",
    ) -> None:
        self.encoder, self.loss, self.sources, self.workers, self.positives = encoder, loss, sources, workers, positives
        if loss.logq and positives == "users":
            raise InputError(f"objective.positives: got {positives!r}, takes 'rows' or 'sequences' where loss.logq is true")
        self.learners = {"model": Learner(encoder)}
        for n, source in enumerate(sources if loss.logq else ()):
            if getattr(source, "hardest", None):
                raise InputError(
                    f"negatives.{n}.hardest: got {source.hardest}, takes null where loss.logq is true: no q is known"
                )
            if source.exclude != (first := sources[0].exclude):
                raise InputError(
                    f"negatives.{n}.exclude: got {source.exclude!r}, takes {first!r} as in negatives.0 where loss.logq is true"
                )

    def step_bytes(self, rows: int, batch_rows: int, items: int | None, width: int, use_gpu: bool = False) -> int:
        """What the encoder holds."""
        places = self.encoder.window.length if self.positives == "sequences" else 1
        return self.encoder.queries_bytes(rows, rows * places, width)

    def passes(self, epoch: int) -> tuple[str, ...]:
        """The model's, in every epoch."""
        return ("model",)

    def __call__(self, batch: Batch) -> Outcome:
        return self.of_queries(batch, self.encoder.queries(batch))

    def of_queries(self, batch: Batch, query: Any) -> Outcome:
        """The same, for one that has them already."""
        positive = self.encoder.items(batch.items_B)
        queries_BD = query.vectors / self.loss.temperature
        mixture = Mixture(self.encoder, self.sources, batch, queries_BD, positive.vectors, self.workers)
        log_counts = [self._log_count(met.batch, met.candidates.items, queries_BD.dtype) for met in mixture.met]
        state = _fold.start(self.loss, queries_BD, positive.vectors, self._log_count_of_positives(batch))
        state = mixture.fold(self.loss, state, queries_BD, log_counts=log_counts)
        rows = (query.rows, positive.rows), mixture.shared_rows, mixture.own_rows
        named = {"queries": query.vectors, "positives": positive.vectors, **mixture.named}
        return Outcome(self.loss.finish(state), *rows, mixture.left() == 0, named)

    def _log_count(self, batch: Batch, items: Tensor, dtype: torch.dtype) -> LogCount | None:
        """log sum_s n_s q_s(i), the draws of an item for a row by all sources; None where the loss has no use for it."""
        if not self.loss.logq:
            return None
        return LogCount((source.expected_count(batch, items) for source in self.sources), of_sums(dtype))

    def _log_count_of_positives(self, batch: Batch) -> Tensor | None:
        """log of 1, as the positive is always there, plus its draws by sources that may draw it."""
        if not self.loss.logq:
            return None
        count_B = torch.ones(len(batch.items_B), dtype=torch.float64, device=batch.items_B.device)
        for source in self.sources:
            if not source.excludes_positive:
                count_B = count_B + source.expected_count(batch, batch.items_B)
        return torch.log(count_B)
