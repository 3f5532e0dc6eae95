"""The fold of a loss over a pool of candidates, whose scores rows x candidates never exist at once.

Scores come a tile at a time and again in the backward pass, so memory is that of the vectors, their gradients and a tile. Sums
are in float32 at least; under torch.autocast the factors of products are rounded to its type, forward and backward, and nothing
else is. What a pool does for it: `candidates` of a row, `tile_sizes`, `tile` and `add_gradients`, and
`products` where there are few (components.objectives._shared, _drawn). Between products and masks, which are not, what is done
to a tile's scores may be compiled (components.training.compiled).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from components.losses import EXCLUDED
from components.masks import Mask
from components.objectives._log_count import LogCount
from components.objectives._products import of_sums
from components.training.compiled import compilable

LOG2_E = math.log2(math.e)


def log_sum_exp(
    pool: Any, queries_BD: Tensor, vectors: Tensor, excluded: Mask | None = None, log_count: LogCount | None = None
) -> Tensor:
    """[B] log sum_j e^{<q, v_j> - log_count_j}; EXCLUDED, and gradient 0, for a row without candidates."""
    tiles = _Tiles(pool, queries_BD, vectors, excluded, log_count)
    return _LogSumExp.apply(tiles, queries_BD, vectors)  # pyright: ignore[reportReturnType]


def added(
    loss: Any,
    state: tuple[Tensor, ...],
    pool: Any,
    queries_BD: Tensor,
    vectors: Tensor,
    excluded: Mask | None = None,
    log_count: LogCount | None = None,
) -> tuple[Tensor, ...]:
    """The state of the fold after all of the pool's candidates.

    To a loss of the family log_sum_exp they are one candidate, whose score is their log-sum-exp. One of the family sum takes
    them in tile by tile.
    """
    if loss.family == "log_sum_exp":
        return loss.add(state, log_sum_exp(pool, queries_BD, vectors, excluded, log_count).unsqueeze(1))
    tiles = _Tiles(pool, queries_BD, vectors, excluded, log_count)
    return _Sum.apply(loss, tiles, queries_BD, vectors, *state)  # pyright: ignore[reportReturnType]


@torch.no_grad()
def largest(pool: Any, queries_BD: Tensor, vectors: Tensor, excluded: Mask | None = None) -> Tensor:
    """[B] the place of the candidate with the largest <q, v_j>, the first of equal ones; of a pool that all rows share."""
    largest_B = queries_BD.new_full((len(queries_BD),), -torch.inf, dtype=of_sums(queries_BD.dtype))
    place_B = torch.zeros(len(queries_BD), dtype=torch.int64, device=queries_BD.device)
    for rows, columns, scores_RT in scores(pool, queries_BD, vectors, excluded):
        scores_R, place_R = scores_RT.max(dim=1)
        larger_R = scores_R > largest_B[rows]
        place_B[rows] = torch.where(larger_R, place_R + columns.start, place_B[rows])
        largest_B[rows] = torch.where(larger_R, scores_R, largest_B[rows])
    return place_B


@torch.no_grad()
def highest(pool: Any, queries_BD: Tensor, vectors: Tensor, excluded: Mask | None, count: int) -> tuple[Tensor, Tensor]:
    """[B, count] the highest <q, v_j> of each row, EXCLUDED among them where there are no others, and their places."""
    scores_BN = queries_BD.new_full((len(queries_BD), count), -torch.inf, dtype=of_sums(queries_BD.dtype))
    place_BN = torch.zeros_like(scores_BN, dtype=torch.int64)
    for rows, columns, scores_RT in scores(pool, queries_BD, vectors, excluded):
        places_RT = torch.arange(columns.start, columns.stop, device=scores_RT.device).expand_as(scores_RT)
        scores_BN[rows], best_RN = torch.cat([scores_BN[rows], scores_RT], dim=1).topk(count, dim=1)
        place_BN[rows] = torch.cat([place_BN[rows], places_RT], dim=1).gather(1, best_RN)
    return scores_BN, place_BN


def scores(pool: Any, queries_BD: Tensor, vectors: Tensor, excluded: Mask | None) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows, columns and scores of each tile, without a gradient; the next one may be where this one was."""
    tiles = _Tiles(pool, queries_BD, vectors, excluded, None)
    factors_BD = tiles.factors(queries_BD)
    for rows, columns in tiles:
        yield rows, columns, _scores(tiles, factors_BD, vectors, rows, columns)


class _Tiles:
    """Where the tiles are, and what their scores need beside the product."""

    def __init__(
        self, pool: Any, queries_BD: Tensor, vectors: Tensor, excluded: Mask | None, log_count: LogCount | None
    ) -> None:
        self.pool, self._log_count, self._rows = pool, log_count, len(queries_BD)
        device = queries_BD.device.type
        self._rounded_to = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        self._height, self._width = pool.tile_sizes(vectors, self._rows)
        self._excluded = excluded
        self._pairs: tuple[slice, tuple[Tensor, Tensor, list[int]]] | None = None  # of the last columns asked for

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of each; all rows of some columns come first, so that few vectors are in use at a time."""
        for columns in _slices(self.pool.candidates, self._width):
            for rows in _slices(self._rows, self._height):
                yield rows, columns

    def factors(self, each_BD: Tensor) -> Tensor:
        """What products are taken of, which a pool's vectors are brought to the type of."""
        return each_BD.to(self._rounded_to or of_sums(each_BD.dtype))

    def log_count(self, rows: slice, columns: slice) -> Tensor | None:
        return None if self._log_count is None else self._log_count.tile(rows, columns)

    def exclude(self, scores_RT: Tensor, rows: slice, columns: slice, score: float) -> None:
        """In place: the score of candidates that must not count."""
        if self._excluded is not None:
            if self._pairs is None or self._pairs[0] != columns:
                self._pairs = columns, self._by_tile(*self._excluded.pairs(columns))
            row_X, column_X, starts = self._pairs[1]
            tile = rows.start // self._height
            here = slice(starts[tile], starts[tile + 1])
            place_X = (row_X[here] - rows.start) * scores_RT.shape[1] + column_X[here]
            scores_RT.view(-1).index_fill_(0, place_X, score)

    def _by_tile(self, row_X: Tensor, column_X: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        """The pairs of some columns in the order of tiles, and where each tile's begin."""
        if self._rows <= self._height:
            return row_X, column_X, [0, len(row_X)]
        row_X, order_X = torch.sort(row_X)
        tops = torch.arange(0, self._rows + self._height, self._height, device=row_X.device)
        return row_X, column_X[order_X], torch.searchsorted(row_X, tops).tolist()


def _slices(whole: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, whole)) for first in range(0, whole, size)]


class _LogSumExp(torch.autograd.Function):
    """Keeps the log-sum-exp l of each row: d/ds_j = e^{s_j - l}. Powers are of 2: torch's exp takes three times as long."""

    @staticmethod
    def forward(ctx: Any, tiles: _Tiles, queries_BD: Tensor, vectors: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        sums = of_sums(queries_BD.dtype)
        binary_BD = tiles.factors(queries_BD.to(sums) * LOG2_E)
        largest_B = queries_BD.new_full((len(queries_BD),), EXCLUDED * LOG2_E, dtype=sums)
        total_B = torch.zeros_like(largest_B)
        for rows, columns in tiles:
            scores_RT = _binary_scores(tiles, binary_BD, vectors, rows, columns)
            largest_B[rows], total_B[rows] = _taken_in(scores_RT, largest_B[rows], total_B[rows])
        result_B = largest_B + total_B.log2()
        ctx.tiles = tiles
        ctx.save_for_backward(queries_BD, vectors, result_B)
        return result_B / LOG2_E

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_B: Tensor) -> tuple[None, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        queries_BD, vectors, result_B = ctx.saved_tensors
        sums = result_B.dtype
        gradient_B = gradient_B.masked_fill(result_B < EXCLUDED / 2 * LOG2_E, 0)  # of a row without candidates
        binary_BD = ctx.tiles.factors(queries_BD.to(sums) * LOG2_E)
        factors_BD = ctx.tiles.factors(queries_BD.to(sums) * gradient_B.unsqueeze(1))
        of_queries_BD, of_vectors = torch.zeros_like(queries_BD, dtype=sums), torch.zeros_like(vectors, dtype=sums)
        for rows, columns in ctx.tiles:
            weights_RT = _binary_scores(ctx.tiles, binary_BD, vectors, rows, columns, result_B[rows]).exp2_()
            ctx.tiles.pool.add_gradients(weights_RT, factors_BD[rows], vectors, rows, columns, of_queries_BD, of_vectors)
        of_queries_BD *= gradient_B.unsqueeze(1)
        return None, of_queries_BD.to(queries_BD.dtype), of_vectors.to(vectors.dtype)


@compilable
def _taken_in(scores_RT: Tensor, largest_R: Tensor, total_R: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of each row, and the sum of powers of 2 of what scores differ from it by; the scores are overwritten."""
    if torch.compiler.is_compiling():
        scores_RT = scores_RT.clone()  # which is never made, and nothing is written back
    after_R = torch.maximum(largest_R, scores_RT.amax(dim=1))
    weights_RT = scores_RT.sub_(after_R.unsqueeze(1)).exp2_()
    return after_R, total_R * torch.exp2(largest_R - after_R) + weights_RT.sum(dim=1)


def _binary_scores(
    tiles: _Tiles, binary_BD: Tensor, vectors: Tensor, rows: slice, columns: slice, less_R: Tensor | None = None
) -> Tensor:
    """[R, T] logits over log 2, corrected by their counts, and less a number of each row."""
    scores_RT = tiles.pool.tile(binary_BD[rows], vectors, rows, columns, less_R)
    log_count = tiles.log_count(rows, columns)
    if log_count is not None:
        scores_RT.sub_(log_count * LOG2_E)
    tiles.exclude(scores_RT, rows, columns, EXCLUDED * LOG2_E)
    return scores_RT


class _Sum(torch.autograd.Function):
    """Asks the loss for the slope of each tile by itself: what came before it adds nothing to it."""

    @staticmethod
    def forward(ctx: Any, loss: Any, tiles: _Tiles, queries_BD: Tensor, vectors: Tensor, *state: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        factors_BD = tiles.factors(queries_BD)
        after = tuple(each_B.clone() for each_B in state)
        for rows, columns in tiles:
            scores_RT = _scores(tiles, factors_BD, vectors, rows, columns)
            of_rows = _added(loss, tuple(each_B[rows] for each_B in after), scores_RT, tiles.log_count(rows, columns))
            for each_B, each_R in zip(after, of_rows, strict=True):
                each_B[rows] = each_R
        ctx.loss, ctx.tiles = loss, tiles
        ctx.save_for_backward(queries_BD, vectors, *state)
        return after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        queries_BD, vectors, *state = ctx.saved_tensors
        factors_BD = ctx.tiles.factors(queries_BD)
        sums = of_sums(queries_BD.dtype)
        of_queries_BD, of_vectors = (torch.zeros_like(each, dtype=sums) for each in (queries_BD, vectors))
        moving = [n for n, each_B in enumerate(state) if each_B.is_floating_point()]
        of_state = {n: gradients[n].clone() for n in moving}
        for rows, columns in ctx.tiles:
            with torch.enable_grad():
                scores_RT = _scores(ctx.tiles, factors_BD, vectors, rows, columns).requires_grad_()
                before = tuple(each_B[rows].detach().requires_grad_(n in of_state) for n, each_B in enumerate(state))
                after = _added(ctx.loss, before, scores_RT, ctx.tiles.log_count(rows, columns))
            slopes_RT, *of_before = torch.autograd.grad(
                [after[n] for n in moving],
                [scores_RT, *(before[n] for n in moving)],
                [of_state[n][rows] for n in moving],
            )
            ctx.tiles.pool.add_gradients(slopes_RT, factors_BD[rows], vectors, rows, columns, of_queries_BD, of_vectors)
            for n, of_R in zip(moving, of_before, strict=True):
                of_state[n][rows] = of_R
        found = of_queries_BD.to(queries_BD.dtype), of_vectors.to(vectors.dtype)
        return None, None, *found, *(of_state.get(n) for n in range(len(state)))


@compilable
def _added(loss: Any, state: tuple[Tensor, ...], scores_RT: Tensor, log_count: Tensor | None) -> tuple[Tensor, ...]:
    """By the loss itself."""
    return loss.add(state, scores_RT, log_count)


@torch.no_grad()
def _scores(tiles: _Tiles, factors_BD: Tensor, vectors: Tensor, rows: slice, columns: slice) -> Tensor:
    scores_RT = tiles.pool.tile(factors_BD[rows], vectors, rows, columns)
    tiles.exclude(scores_RT, rows, columns, EXCLUDED)
    return scores_RT
