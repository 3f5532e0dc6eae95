"""What W workers say to each other so that they compute what one would.

Loss and gradient are sums over the rows of the global batch. Each worker owns a contiguous slice of the rows; gathered
tensors are in the order of the rows, and gradients are summed over workers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Workers:
    """The workers of a torch process group, or this process alone where none is initialised."""

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.size = dist.get_world_size() if together else 1

    def share(self, rows: int, rank: int | None = None) -> tuple[int, int]:
        """The slice [start, stop) of `rows` that a worker owns; sizes differ by one at most, and may be 0."""
        rank = self.rank if rank is None else rank
        return rows * rank // self.size, rows * (rank + 1) // self.size

    def gather(self, local_BD: Tensor, rows: int) -> Tensor:
        """All workers' rows [rows, ...] in order; the gradient comes back to its owner, summed over workers.

        Differs from torch's all_gather, which gives no gradient, and from its autograd form, which takes equal sizes only.
        """
        if self.size == 1:
            return local_BD
        return _Gather.apply(local_BD, self, rows)  # pyright: ignore[reportReturnType]

    def gather_slices(self, local: Tensor, sizes: list[int]) -> Tensor:
        """Concatenates tensors whose first dimensions are `sizes`, in the order of ranks (no gradient)."""
        padded = local.new_zeros(max(sizes), *local.shape[1:])
        padded[: len(local)] = local
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def sum(self, value: Tensor) -> Tensor:
        """In place, over all workers."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def gather_objects(self, value: Any) -> list[Any]:
        """One Python object of each worker, in the order of ranks, on every worker."""
        if self.size == 1:
            return [value]
        out: list[Any] = [None] * self.size
        dist.all_gather_object(out, value)
        return out

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sums gradients over workers and makes sparse ones dense.

        An embedding table's gradient travels as the rows that were looked up (ids and values), not as the whole table: for
        batch B and width D that is O(B D) bytes a step, whatever the size of the table.
        """
        for parameter in parameters:
            gradient = parameter.grad
            if gradient is None:
                gradient = torch.zeros_like(parameter)
            if gradient.is_sparse:
                parameter.grad = None  # a dense gradient replaces a sparse one
                parameter.grad = self._dense(gradient, len(parameter))
            else:
                parameter.grad = self.sum(gradient)

    def _dense(self, sparse: Tensor, num_rows: int) -> Tensor:
        ids, values = sparse._indices()[0], sparse._values()
        if self.size > 1:
            sizes = torch.zeros(self.size, dtype=torch.int64, device=ids.device)
            sizes[self.rank] = len(ids)
            counts = self.sum(sizes).tolist()
            ids, values = self.gather_slices(ids, counts), self.gather_slices(values, counts)
        # the backward pass of a dense embedding: sums rows of one id in their order, on all cores
        return torch.ops.aten.embedding_dense_backward(values, ids, num_rows, -1, False)


class Alone(Workers):
    """This process as the only one, whatever group it is in."""

    def __init__(self) -> None:
        self.rank, self.size = 0, 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, workers: Workers, rows: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.workers, ctx.rows = workers, rows
        shares = [workers.share(rows, rank) for rank in range(workers.size)]
        return workers.gather_slices(local, [stop - start for start, stop in shares])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        start, stop = ctx.workers.share(ctx.rows)
        return ctx.workers.sum(gradient.contiguous().clone())[start:stop], None, None
