"""Views: histories -> histories, drawn anew at every call; what contrastive objectives compare.

Ids: 0 .. num_items-1 are items, num_items is padding and num_items + 1 the mask (`padding_id`, `mask_id`): a table of vectors
for histories has num_items + 2 rows.

A view is built with the number of items and a table of similar items (`similar_for`; a view that takes none looks at none),
and called with

    histories_BL    int64, right padded
    lengths_B       of each history, 0 to L
    uniforms        (purpose, n) -> [B, n] numbers on [0, 1) in float64, another stream for each purpose

It gives new (histories_BL, lengths_B), of the same width, right padded; it changes neither of those it got. A history of no
or one behaviour is its own view. `replace` takes Weights, too; no view reads a model.

Why `uniforms` is no torch.Generator: a generator's numbers go to whichever rows a worker has, and W workers would not draw what
one draws. Batch.uniforms, under a name for each view, is keyed by (seed, epoch, step, global row). A row's numbers are
counted by L, so all workers hand in one width (max_length), and cut to their longest history after the views: what `insert`
adds then has room, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from components.data import similar
from components.data.interactions import Interactions
from components.errors import InputError

Uniforms = Callable[[str, int], Tensor]


class Weights(NamedTuple):
    """What `replace` is told of the behaviours of a batch: what a model says of them, without a gradient."""

    importance_BL: Tensor  # a_t; anything at padding
    targets_B: Tensor  # never a substitute
    pool_M: Tensor  # items to draw substitutes from, ascending; one that is there twice is drawn twice as often
    behaviours_U: Tensor  # the distinct items of the histories, ascending; others may be among them
    similarity_UM: Tensor  # cos(e_x, e_j), float32 or float64, of each behaviour and item of the pool; 0: any alike
    ramp: float = 1.0  # of `sharpness`: rises from 0 (any positions alike) in a curriculum


def padding_id(num_items: int) -> int:
    """Right of every history."""
    return num_items


def mask_id(num_items: int) -> int:
    """In the place of a behaviour that is not told."""
    return num_items + 1


def most_neighbours(specs: Iterable[dict[str, Any]]) -> int:
    """How many similar items of each some views draw from."""
    return max((spec.get("neighbours", 0) for spec in specs), default=0)


def check_neighbours(specs: Iterable[dict[str, Any]], items: int) -> None:
    """Raises an InputError where a view is to draw from more similar items than an item has others."""
    for n, spec in enumerate(specs):
        if spec.get("neighbours", 0) >= items:
            raise InputError(f"views.{n}.neighbours: got {spec['neighbours']}, takes less than {items}, the number of items")


def similar_for(specs: Iterable[dict[str, Any]], train: Interactions) -> Tensor | None:
    """[num_items, N] the similar items that some views draw from, N the most `neighbours` of any; None where none draws."""
    most = most_neighbours(specs)
    return torch.from_numpy(similar.mapped(train, most)) if most else None
