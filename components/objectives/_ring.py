"""A pool of which each worker brings its own rows: the candidates go around a ring of workers, and none ever has them all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from components.losses import EXCLUDED
from components.masks import Mask
from components.objectives import _tiled
from components.objectives._log_count import LogCount
from components.objectives._shared import Shared
from components.training.collectives import Workers


def add(
    loss: Any,
    state: tuple[Tensor, ...],
    queries_BD: Tensor,
    own_BD: Tensor,
    rows: int,
    excluded: Mask | None,
    log_count: LogCount | None,
    workers: Workers,
) -> tuple[Tensor, ...]:
    """The state after the candidates of all workers, `rows` of them, of which `own_BD` are this one's.

    Each block of candidates is met while the next one is on its way; in the backward pass they go around again, each followed
    by its gradient, which comes home last. Of the family log_sum_exp a block's log-sum-exp is one candidate of a row, of the
    family sum it is what it adds. Memory: three blocks and a tile. Bytes received: the others' blocks, and twice that again in
    the backward pass.
    """
    blocks = _Blocks(loss, rows, excluded, log_count, workers)
    found: Any = _Ring.apply(blocks, queries_BD, own_BD, *state)
    if blocks.sums:
        return tuple(each_B + added_B for each_B, added_B in zip(state, found, strict=True))
    return loss.add(state, torch.stack(found, dim=1))


class _Blocks:
    """What a worker makes of each worker's candidates."""

    def __init__(self, loss: Any, rows: int, excluded: Mask | None, log_count: LogCount | None, workers: Workers) -> None:
        self._loss, self._excluded, self._log_count, self.workers = loss, excluded, log_count, workers
        self._slices = [slice(*workers.share(rows, rank)) for rank in range(workers.size)]
        self.sums = loss.family != "log_sum_exp"

    def found(self, queries_BD: Tensor, block_CD: Tensor, rank: int, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The block's log-sum-exp alone, or what it adds to each part of the state."""
        columns = self._slices[rank]
        excluded = None if self._excluded is None else self._excluded.part(columns)
        log_count = None if self._log_count is None else self._log_count.part(columns)
        scores = Shared(columns.stop - columns.start), queries_BD, block_CD, excluded, log_count
        if not self.sums:
            return (_tiled.log_sum_exp(*scores).clamp(min=EXCLUDED),)
        after = _tiled.added(self._loss, state, *scores)
        return tuple(after_B - each_B for after_B, each_B in zip(after, state, strict=True))

    def around(self, own_BD: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Every worker's block and who brought it, this worker's own first; the next one comes while one is in use."""
        workers, block_CD = self.workers, own_BD
        for turn in range(workers.size):
            rank, following = ((workers.rank - turn - n) % workers.size for n in (0, 1))
            if turn + 1 == workers.size:
                yield rank, block_CD
                return
            next_CD = own_BD.new_zeros(self.rows_of(following), own_BD.shape[1])
            arrived = workers.pass_on(block_CD, next_CD, BLOCK)
            yield rank, block_CD
            arrived()
            block_CD = next_CD

    def rows_of(self, rank: int) -> int:
        return self._slices[rank].stop - self._slices[rank].start


BLOCK, GRADIENT = 1, 2  # tags of what is under way at once


class _Ring(torch.autograd.Function):
    """[B] of each block of the family log_sum_exp, else sums over the blocks; the backward pass computes each block again."""

    @staticmethod
    def forward(ctx: Any, blocks: _Blocks, queries_BD: Tensor, own_BD: Tensor, *state: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        device = queries_BD.device.type
        ctx.blocks = blocks
        ctx.rounded = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        ctx.save_for_backward(queries_BD, own_BD, *state)
        around = blocks.around(own_BD.contiguous())
        of_blocks = _in_order({rank: blocks.found(queries_BD, block_CD, rank, state) for rank, block_CD in around})
        if blocks.sums:
            return tuple(torch.stack(each).sum(dim=0) for each in zip(*of_blocks, strict=True))
        return tuple(found_B for (found_B,) in of_blocks)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        queries_BD, own_BD, *state = ctx.saved_tensors
        blocks, workers = ctx.blocks, ctx.blocks.workers
        moving = [n for n, each_B in enumerate(state) if blocks.sums and each_B.is_floating_point()]
        of_rows: dict[int, list[Tensor]] = {}
        sent = []
        for rank, block_CD in blocks.around(own_BD.contiguous()):
            before_CD = torch.zeros_like(block_CD)
            arrived = workers.receive(before_CD, GRADIENT) if rank != workers.rank else None
            with torch.enable_grad(), torch.autocast(queries_BD.device.type, ctx.rounded[1], enabled=ctx.rounded[0]):
                block_CD, rows_BD = block_CD.detach().requires_grad_(), queries_BD.detach().requires_grad_()
                states = tuple(each_B.detach().requires_grad_(n in moving) for n, each_B in enumerate(state))
                found = blocks.found(rows_BD, block_CD, rank, states)
            asked = ([found[n] for n in moving], [gradients[n] for n in moving]) if blocks.sums else (found, gradients[rank])
            inputs = [block_CD, rows_BD, *(states[n] for n in moving)]
            of_block_CD, *of_rows[rank] = torch.autograd.grad(asked[0], inputs, asked[1])
            if arrived is not None:
                arrived()
            sent.append(workers.send(of_block_CD + before_CD, GRADIENT))
        home_CD = torch.empty_like(own_BD, memory_format=torch.contiguous_format)
        workers.receive(home_CD, GRADIENT)()
        for done in sent:
            done()
        of_queries_BD, *of_moving = (torch.stack(each).sum(dim=0) for each in zip(*_in_order(of_rows), strict=True))
        of_state = dict(zip(moving, of_moving, strict=True))
        return None, of_queries_BD, home_CD, *(of_state.get(n) for n in range(len(state)))


def _in_order(of_ranks: dict[int, Any]) -> list[Any]:
    """So that sums are added up alike on every worker."""
    return [of_ranks[rank] for rank in sorted(of_ranks)]
