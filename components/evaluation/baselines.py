"""Two baselines that a reader trusts: the most popular items, and EASE."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from scipy import sparse
from scipy.linalg import get_lapack_funcs
from torch import Tensor

from components.data.interactions import Interactions
from components.errors import InputError

BAND = 4096  # rows that are worked on at once


class MostPopular:
    """score(u, i) = training interactions of i, the same for everybody."""

    def __init__(self, train: Interactions) -> None:
        self.degrees_I = torch.from_numpy(train.item_degrees()).double()

    @property
    def num_items(self) -> int:
        return len(self.degrees_I)

    def queries(self, users_T: Tensor) -> Tensor:
        return torch.ones(len(users_T), 1)

    def scores(self, queries_TD: Tensor, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        scores_TS = self.degrees_I[start:stop].expand(len(queries_TD), -1)
        return scores_TS.clone() if out is None else out.copy_(scores_TS)

    def buffer(self, size: int) -> Tensor:
        return self.degrees_I.new_empty(size)


class Ease:
    """score(u, i) = sum over the user's training items j of B_ji, the ridge regression of items on one another, B_ii = 0.

    P = (X'X + l2 I)^-1,  B_ji = -P_ji / P_ii for j != i,  X the binary matrix of training interactions.

    Shapes: weights_JI [num_items + 1, num_items], row j what item j says about the others; the last row, zero, pads.
    Source: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, equation 8, arXiv 1905.03375.
    """

    def __init__(self, train: Interactions, weights_JI: Tensor) -> None:
        self.train, self.weights_JI = train, weights_JI

    @classmethod
    def fit(cls, train: Interactions, l2: float) -> Ease:
        """The closed form, in place: 4 I² bytes (6.7 GB for 41,000 items) and about I³ operations.

        Raises:
            InputError: the matrix would take more than half of the free memory.
        """
        size = train.num_items
        need, free = 4 * size * (size + 1), psutil.virtual_memory().available
        if need > free / 2:
            raise InputError(
                f"evaluation.baselines: got ease, which takes {need / 2**30:.1f} GiB for {size} items, more than half of the "
                f"{free / 2**30:.1f} GiB of free memory; leave it out"
            )
        X = sparse.coo_array((np.ones(len(train), np.float32), (train.users, train.items)), (train.num_users, size)).tocsc()
        X.data[:] = 1  # a repeated row is one interaction
        weights_JI = np.zeros((size + 1, size), np.float32)
        P = weights_JI[:size]
        bands = [slice(start, min(start + BAND, size)) for start in range(0, size, BAND)]
        for band in bands:
            P[band] = (X[:, band].T @ X).toarray()
        np.fill_diagonal(P, P.diagonal() + l2)
        potrf, potri = get_lapack_funcs(("potrf", "potri"), (P,))
        upper, failed = potrf(P.T, lower=1, overwrite_a=1)
        assert failed == 0, f"X'X + {l2} I is not positive definite (LAPACK: {failed})"
        upper, _ = potri(upper, lower=1, overwrite_c=1)
        assert np.shares_memory(upper, P), "LAPACK made a copy"
        for band in bands:  # it wrote one triangle
            P[band, : band.start] = P[: band.start, band].T
            P[band, band] = np.triu(P[band, band]) + np.triu(P[band, band], 1).T
        P /= -P.diagonal().copy()
        np.fill_diagonal(P, 0)
        return cls(train, torch.from_numpy(weights_JI))

    def save(self, path: Path) -> None:
        np.save(path, self.weights_JI.numpy())

    @classmethod
    def load(cls, path: Path, train: Interactions) -> Ease:
        """From `save`, memory-mapped: the processes of a node share one copy."""
        return cls(train, torch.from_numpy(np.load(path, mmap_mode="c")))

    @property
    def num_items(self) -> int:
        return self.weights_JI.shape[1]

    def queries(self, users_T: Tensor) -> Tensor:
        """[T, H] histories, padded with `num_items` to the longest."""
        row, item = self.train.rows_of(users_T.numpy())
        row, item = np.divmod(np.unique(row * self.num_items + item), self.num_items)
        lengths_T = np.bincount(row, minlength=len(users_T))
        place = np.arange(len(row)) - (np.cumsum(lengths_T) - lengths_T)[row]
        histories_TH = np.full((len(users_T), max(lengths_T.max(), 1)), self.num_items)
        histories_TH[row, place] = item
        return torch.from_numpy(histories_TH)

    def scores(self, queries_TD: Tensor, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        return F.embedding_bag(queries_TD, self.weights_JI[:, start:stop], mode="sum", padding_idx=self.num_items)

    def buffer(self, size: int) -> Tensor:
        return self.weights_JI.new_empty(size)  # never touched: `scores` brings its own
