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


def product(matrix: sparse.csr_array, table_ND: Tensor, rows: NDArray[np.integer] | None = None) -> Tensor:
    """matrix @ table, [rows, D]; where `rows` are given, theirs alone, at the cost of their entries."""
    return _Product.apply(table_ND, matrix if rows is None else matrix[rows])  # pyright: ignore[reportReturnType]


class _Product(torch.autograd.Function):
    """An embedding bag for each row sums its entries, on all threads; torch's CSR product takes three times as long."""

    @staticmethod
    def forward(ctx: Any, table_ND: Tensor, matrix: sparse.csr_array) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.matrix = matrix
        return _bags(matrix, table_ND)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _bags(ctx.matrix.T.tocsr(), gradient.contiguous()), None


def _bags(matrix: sparse.csr_array, table_ND: Tensor) -> Tensor:
    indices, starts, weights = (torch.from_numpy(a).to(table_ND.device) for a in (matrix.indices, matrix.indptr, matrix.data))
    weights = weights.to(table_ND.dtype)
    return F.embedding_bag(indices, table_ND, starts, mode="sum", per_sample_weights=weights, include_last_offset=True)
