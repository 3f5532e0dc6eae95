"""Objectives: one file per training scheme.

Called with a batch, an objective gives an Outcome. `learners` are who learns, by name, `model` (the encoder) among them, and
`passes(epoch)` says which of them goes over the positives of an epoch, one after the other, `model` last; `positives` which
those are (components.training.batches). Where an epoch has other passes, `diagnose(batch, held_out)` says on every worker what
they led to, of which `batch` is its rows; an objective that takes views may have one too, which is asked after every epoch.
`first_whole_epoch` is one in which all passes and terms take part, and `sources` are those that candidates come from.
Where the encoder reads histories, `step_bytes(rows, batch_rows, items, width, use_gpu)` says for the plan what a worker's step
over so many of a batch's holds at most beside scores and candidates, in numbers of `width` bytes, out of so many items (None:
not known), in tiles of a CPU or a GPU; `encodes` is how many histories are encoded for each row of a batch at most, in all
turns of the model. One that meets candidates twice, with other vectors beside their own and with these alone, says with
`appended` how wide the others are.
In the model's pass learners may take `turns` on each batch: those of each one step together, on the loss of that `batch.turn`;
the first turn's loss is the one that is logged. Where `takes_views`, an objective is built with the recipe's views; others
refuse them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn


class Outcome(NamedTuple):
    """The loss of each of this worker's rows, and the table rows that the batch touched, for L2."""

    loss_B: Tensor
    positive_rows: tuple[Tensor, ...]  # users and positives of this worker
    shared_rows: tuple[Tensor, ...]  # of pools that every worker has alike
    own_rows: tuple[Tensor, ...]  # of candidates drawn for this worker's rows, or of its share of a memory
    alone_B: Tensor | None = None  # which rows have no candidate that counts
    vectors: dict[str, Tensor] = {}  # by name, to say which are not finite


@dataclass(frozen=True)
class Learner:
    """Parameters with an Adam of their own; `learning_rate` None is the recipe's. One who maximises climbs on the same loss."""

    module: nn.Module
    learning_rate: float | None = None
    maximise: bool = False
