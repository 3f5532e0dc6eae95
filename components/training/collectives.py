"""What W workers say to each other so that they compute what one would.

Loss and gradient are sums over the rows of the global batch. Each worker owns a contiguous slice of the rows; gathered
tensors are in the order of the rows, and gradients are summed over workers.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Workers:
    """The workers of a torch process group, or this process alone where none is initialised."""

    is_timed = False
    exchange_seconds = 0.0  # of this worker in collectives so far, waiting for the others included, where they are timed

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.size = dist.get_world_size() if together else 1
        self.received = 0  # bytes of tensors that other workers have sent to this one, around a ring
        self.is_timed = together and dist.get_backend() == "gloo"  # NCCL's calls return before they are done

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.exchange_seconds += time.perf_counter() - started

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
        self.received += (self.size - 1) * padded.nbytes
        parts = self._all_gather(padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def _all_gather(self, padded: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        with self._timed():
            dist.all_gather(parts, padded)
        return parts

    def sum(self, value: Tensor) -> Tensor:
        """In place, over all workers."""
        if self.size > 1:
            self.received += 2 * value.nbytes * (self.size - 1) // self.size
            self._all_reduce(value)
        return value

    def _all_reduce(self, value: Tensor) -> None:
        with self._timed():
            dist.all_reduce(value)

    def pass_on(self, mine: Tensor, theirs: Tensor, tag: int) -> Callable[[], None]:
        """Begins to send to the next worker of a ring, and to receive of the one before; what it gives waits for both."""
        sent, received = self.send(mine, tag), self.receive(theirs, tag)

        def wait() -> None:
            received()
            sent()

        return wait

    def send(self, mine: Tensor, tag: int) -> Callable[[], None]:
        """Begins to send to the next worker of a ring; `mine` is not to change before it has waited."""
        return self._begun(dist.isend, mine, (self.rank + 1) % self.size, tag)

    def receive(self, theirs: Tensor, tag: int) -> Callable[[], None]:
        """Begins to receive of the worker before, in place."""
        self.received += theirs.nbytes
        return self._begun(dist.irecv, theirs, (self.rank - 1) % self.size, tag)

    def _begun(self, begin: Callable[..., Any], tensor: Tensor, peer: int, tag: int) -> Callable[[], None]:
        under_way = begin(tensor, peer, tag=tag) if tensor.numel() else None  # both sides know that nothing goes

        def wait() -> None:
            with self._timed():
                if under_way is not None:
                    under_way.wait()
                _ = tensor  # in use until then

        return wait

    def gather_objects(self, value: Any) -> list[Any]:
        """One Python object of each worker, in the order of ranks, on every worker."""
        if self.size == 1:
            return [value]
        out: list[Any] = [None] * self.size
        with self._timed():
            dist.all_gather_object(out, value)
        return out

    def sum_gradients(self, parameters: Iterable[nn.Parameter], *, dense: bool = True) -> None:
        """Sums gradients over workers and makes sparse ones dense, or leaves them with one row for each id.

        An embedding table's gradient travels as the rows that were looked up (ids and values), not as the whole table: for
        batch B and width D that is O(B D) bytes a step, whatever the size of the table.
        """
        for parameter in parameters:
            gradient = parameter.grad
            if gradient is None:
                gradient = torch.zeros_like(parameter)
            if gradient.is_sparse:
                ids, values = self._rows(gradient)
                parameter.grad = None  # another gradient replaces a sparse one
                if dense:  # the backward pass of a dense embedding: sums rows of one id in their order, on all cores
                    parameter.grad = torch.ops.aten.embedding_dense_backward(values, ids, len(parameter), -1, False)
                else:
                    parameter.grad = _once_each(ids, values, parameter)
            else:
                parameter.grad = self.sum(gradient)

    def _rows(self, sparse: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and values of all workers."""
        ids, values = sparse._indices()[0], sparse._values()
        if self.size > 1:
            sizes = torch.zeros(self.size, dtype=torch.int64, device=ids.device)
            sizes[self.rank] = len(ids)
            counts = self.sum(sizes).tolist()
            ids, values = self.gather_slices(ids, counts), self.gather_slices(values, counts)
        return ids, values


def _once_each(ids: Tensor, values: Tensor, table: Tensor) -> Tensor:
    """A sparse gradient of a table; rows of one id are summed in their order."""
    distinct, place = ids.unique(return_inverse=True)
    sums = torch.ops.aten.embedding_dense_backward(values, place, len(distinct), -1, False)
    return torch.sparse_coo_tensor(distinct.unsqueeze(0), sums, table.shape, is_coalesced=True, check_invariants=False)


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
