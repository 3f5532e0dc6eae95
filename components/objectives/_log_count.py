"""What the logQ correction takes from each logit."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor

from components.losses import EXCLUDED


class LogCount:
    """log_bj = log sum_s n_s q_s(j), the draws of candidate j for row b by all sources.

    Counts are [], [C], [B, 1], or [B, C] where each row has candidates of its own. Those of rows and those of candidates stay
    apart until a tile asks for the log of their sum, which is of type `dtype`. A candidate that no source
    draws has no weight, as if it were excluded.
    """

    def __init__(self, counts: Iterable[Tensor], dtype: torch.dtype) -> None:
        counts, self._dtype = list(counts), dtype
        nothing = torch.zeros((), dtype=torch.float64, device=counts[0].device)
        self._of_candidates = sum((count for count in counts if count.dim() < 2), start=nothing)
        self._of_rows = sum((count for count in counts if count.dim() == 2), start=nothing)
        if not self._of_rows.dim():
            self._of_candidates = _log(self._of_candidates).to(dtype)

    def part(self, columns: slice) -> LogCount:
        """Of some candidates alone."""
        part = copy.copy(self)
        if part._of_candidates.dim():
            part._of_candidates = part._of_candidates[columns]
        if part._of_rows.dim() and part._of_rows.shape[1] > 1:
            part._of_rows = part._of_rows[:, columns]
        return part

    def tile(self, rows: slice = slice(None), columns: slice = slice(None)) -> Tensor:
        """[], [T], [R, 1] or [R, T]; of everything without arguments."""
        of_candidates = self._of_candidates[columns] if self._of_candidates.dim() else self._of_candidates
        if not self._of_rows.dim():
            return of_candidates
        of_rows = self._of_rows[rows] if self._of_rows.shape[1] == 1 else self._of_rows[rows, columns]
        return _log((of_rows + of_candidates).to(self._dtype))


def _log(counts: Tensor) -> Tensor:
    return torch.log(counts).masked_fill_(counts == 0, -EXCLUDED)
