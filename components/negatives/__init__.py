"""Where candidates come from.

A source is built with the training log, the workers and the name of its stream of random numbers, its own in a recipe.

A source is called with a batch and the vectors of its positives and gives Candidates; `expected_count(batch, items)` says
how often each of some items is drawn for a row (its n_s q_s(i)), `exclude` what is kept out of a row, and `excludes_positive`
whether the row's own positive is: what the logQ correction needs. `per` is `row` where each row has candidates of its own,
`batch` where they share them. For the plan, `candidates_of_a_row(rows, items)` says how many scores a row of a global batch
takes, and `index_bytes(rows, users, items)` what the source keeps beside a log of that size.
One that remembers earlier batches is a Memory: every row meets all of it, but each worker gives a share alone, so that it is
called with the whole global batch. One with `hardest` asks that each row take the so many of its candidates that score highest.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from components.config import Recipe
from components.data.interactions import Interactions
from components.errors import InputError
from components.masks import Mask
from components.training.batches import Batch

Hardest = Annotated[int, Field(ge=1)] | None  # of a draw: each row keeps so many, null all
UNSEEN = ("row", "seen")  # (per, exclude) of sources that draw from what a user does not have


class Candidates(NamedTuple):
    """Items that stand against each row's positive: shared by the batch, or per row."""

    items: Tensor  # [C], or [B, N]
    vectors: Tensor | None  # [C, D] where the source has them already (in-batch); else the encoder is asked
    excluded: Mask | None  # rows and candidates that must not count
    goes_around: bool = False  # vectors are those of this worker's rows of the global batch, and others have the others'

    def left(self, rows: int) -> Tensor:
        """[B] how many candidates count for a row."""
        if self.excluded is None:
            return torch.full((rows,), self.items.shape[-1], device=self.items.device)
        return self.excluded.left()


class Memory(nn.Module):
    """A source that remembers `size` rows: its state, the same for any number of workers, is part of a checkpoint.

    Its buffers are alike on every worker. Of what is shared out, row m is row m // W of worker m mod W's `share`.
    """

    size: int  # what it tells the plan is of so many rows
    copies = 0  # of the model's weights that it keeps

    @abstractmethod
    def push(self, batch: Batch) -> None:
        """Called on every worker with each batch of the model's, after its step, or the last of its turns' steps."""

    def follow(self, encoder: Any) -> None:
        """Called once, before the first step, with the encoder as it is then."""

    @abstractmethod
    def skip_warm_up(self) -> None:
        """Before its first step: after that step its rows count."""

    def share(self) -> Tensor | None:
        """This worker's rows of what is shared out, at least one; None where there is nothing."""
        return None

    def take(self, share: Tensor) -> None:
        """The share that this worker has now."""

    def vectors_bytes(self) -> int:
        """What it keeps for each row beside what `index_bytes` says, shared out over the workers."""
        return 0

    def told(self, encoder: Any) -> dict[str, float]:
        """Metrics of an epoch, the same on every worker."""
        return {}


def check_hardest(hardest: int | None, count: int, name: str) -> None:
    """Raises an InputError where more are to be kept than are drawn."""
    if hardest is not None and hardest > count:
        raise InputError(f"{name}.hardest: got {hardest}, takes at most count, {count}")


def check_counts(specs: Iterable[dict[str, Any]], items: int, rows: int) -> None:
    """Raises an InputError where a source is to draw more candidates than there are items (all_items costs less), or to
    remember more rows than the log has.
    """
    for n, spec in enumerate(specs):
        if spec.get("count", 0) > items:
            raise InputError(f"negatives.{n}.count: got {spec['count']}, takes at most {items}, the number of items")
        if spec.get("size", 0) > rows:
            raise InputError(f"negatives.{n}.size: got {spec['size']}, takes at most {rows}, the number of training rows")


def check_memory(recipe: Recipe) -> None:
    """Raises an InputError where a bank takes more memory than a worker has: ids and steps, and its share of the vectors."""
    scale, memory = recipe.scale, recipe.scale.memory_per_worker_gib
    number = 8 if recipe.training.precision == "float64" else 4
    for n, spec in enumerate(recipe.negatives):
        of_a_row = 16 + (number * recipe.encoder["dim"] / scale.num_workers if spec.get("stale") else 0)
        if (takes := spec.get("size", 0) * of_a_row / 2**30) > memory:
            raise InputError(
                f"negatives.{n}.size: got {spec['size']}, which is {takes:,.1f} GiB of each worker, "
                f"takes at most {int(memory * 2**30 / of_a_row)} where scale.memory_per_worker_gib is {memory:g}: "
                "set that to what a worker has"
            )


def full_user(specs: Iterable[dict[str, Any]], train: Interactions) -> tuple[int, int] | None:
    """The first source that draws from what a user does not have, and a user who has every item: None if they never meet."""
    drawing = [n for n, spec in enumerate(specs) if (spec.get("per"), spec.get("exclude")) == UNSEEN]
    if not drawing:
        return None
    for user in np.flatnonzero(np.diff(train.offsets) >= train.num_items).tolist():  # the log may have repeats
        if len(np.unique(train.items_of(user))) == train.num_items:
            return drawing[0], user
    return None
