"""Objectives: one file per training scheme. Called with a batch, an objective gives an Outcome."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Outcome(NamedTuple):
    """The loss of each of this worker's rows, and the table rows that the batch touched, for L2."""

    loss_B: Tensor
    positive_rows: tuple[Tensor, ...]  # users and positives of this worker
    shared_rows: tuple[Tensor, ...]  # of pools that every worker has alike
    own_rows: tuple[Tensor, ...]  # of candidates drawn for this worker's rows
