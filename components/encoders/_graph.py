"""Products with the sparse matrix of an interaction graph, whole or for some of its rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sparse
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from components.data.interactions import Interactions


def incidence(train: Interactions) -> sparse.csr_array:
    """[num_users, num_items] 1 where a user has an item, however often."""
    pairs = (np.ones(len(train)), np.array(train.items), np.array(train.offsets))  # copies: scipy sorts them in place
    matrix = sparse.csr_array(pairs, shape=(train.num_users, train.num_items))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def normalised(matrix: sparse.csr_array, left: float, right: float) -> sparse.csr_array:
    """a_ij / (d_i^left d_j^right), d the degrees of rows and of columns; without an edge there is no entry."""
    rows, columns = (np.maximum(np.asarray(matrix.sum(axis=axis)), 1.0) for axis in (1, 0))
    scaled = matrix.copy()
    scaled.data /= np.repeat(rows**left, np.diff(matrix.indptr)) * (columns**right)[matrix.indices]
    return scaled


class Graph:
    """A sparse matrix to multiply tables by. Its transpose, and what products read of it on a device, are made once."""

    def __init__(self, matrix: sparse.csr_array) -> None:
        self.matrix = matrix
        self._transposed: Graph | None = None
        self._read: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor, Tensor]] = {}

    def __deepcopy__(self, _memo: dict[int, Any]) -> Graph:
        """Itself: a copy of an encoder has weights of its own, and the same graph."""
        return self

    def product(self, table_ND: Tensor, rows: NDArray[np.integer] | None = None) -> Tensor:
        """matrix @ table, [rows, D]; where `rows` are given, theirs alone, at the cost of their entries."""
        return _Product.apply(table_ND, self if rows is None else Graph(self.matrix[rows]))  # pyright: ignore[reportReturnType]

    @property
    def transposed(self) -> Graph:
        """For the backward pass."""
        if self._transposed is None:
            self._transposed = Graph(self.matrix.T.tocsr())
        return self._transposed

    def is_transposed(self, other: Graph) -> None:
        """Says that either is the other's transpose, which is then not made."""
        self._transposed, other._transposed = other, self

    def bags(self, table_ND: Tensor) -> Tensor:
        """The product, without a gradient."""
        indices, starts, weights = self._on(table_ND.device, table_ND.dtype)
        return F.embedding_bag(indices, table_ND, starts, mode="sum", per_sample_weights=weights, include_last_offset=True)

    def _on(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Columns, where each row's begin, and weights in the type of the table."""
        if (device, dtype) not in self._read:
            of_matrix = (self.matrix.indices, self.matrix.indptr, self.matrix.data)
            indices, starts, weights = (torch.from_numpy(each).to(device) for each in of_matrix)
            self._read[device, dtype] = indices, starts, weights.to(dtype)
        return self._read[device, dtype]


class _Product(torch.autograd.Function):
    """An embedding bag for each row sums its entries, on all threads; torch's CSR product takes three times as long."""

    @staticmethod
    def forward(ctx: Any, table_ND: Tensor, graph: Graph) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.graph = graph
        return graph.bags(table_ND)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.graph.transposed.bags(gradient.contiguous()), None
