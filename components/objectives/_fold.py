"""A loss folded over a source's candidates: their scores at once where they are few, else a tile at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from components.losses import EXCLUDED
from components.masks import Mask
from components.objectives import _tiled
from components.objectives._log_count import LogCount
from components.objectives._products import of_sums

NUMBERS_AT_ONCE = 2**21  # with more of them tiles are as fast or, from 2**23 on whatever the loss, faster (measured)


def is_dense(pool: Any, queries_BD: Tensor) -> bool:
    """Whether the products of these rows are held; not where autocast would round them."""
    rows, width = queries_BD.shape
    return rows * pool.numbers_of_a_row(width) <= NUMBERS_AT_ONCE and not torch.is_autocast_enabled(queries_BD.device.type)


def start(loss: Any, queries_BD: Tensor, positives_BD: Tensor, log_count_B: Tensor | None = None) -> tuple[Tensor, ...]:
    """The state of the fold before the first candidate; in the type of sums."""
    sums = of_sums(queries_BD.dtype)
    return loss.start((queries_BD.to(sums) * positives_BD.to(sums)).sum(dim=1), log_count_B)


def add(
    loss: Any,
    state: tuple[Tensor, ...],
    pool: Any,
    queries_BD: Tensor,
    vectors: Tensor,
    excluded: Mask | None,
    log_count: LogCount | None,
) -> tuple[Tensor, ...]:
    """The state after a pool's candidates; log_count where the loss corrects for it."""
    if not pool.candidates:
        return state
    if not is_dense(pool, queries_BD):
        return _tiled.added(loss, state, pool, queries_BD, vectors, excluded, log_count)
    scores_BT = pool.products(queries_BD, vectors)
    if excluded is not None:
        rows, columns = excluded.pairs()
        with torch.no_grad():  # in place, as no product keeps a copy of its result; a loss gives EXCLUDED the gradient 0
            scores_BT.view(-1).index_fill_(0, rows * scores_BT.shape[1] + columns, EXCLUDED)
    return loss.add(state, scores_BT, None if log_count is None else log_count.tile())
