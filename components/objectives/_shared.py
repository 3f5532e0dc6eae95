"""Candidates that all rows of a batch share."""

from __future__ import annotations

import torch
from torch import Tensor

from components.objectives._products import add_product, of_sums, product

ROWS, COLUMNS = 1024, 256  # of a tile on CPU: 1 MiB of float32, which a core's cache holds
ROWS_OF_DEVICE, COLUMNS_OF_DEVICE = 4096, 16384  # elsewhere, where a kernel's start costs more than memory


class Shared:
    """A pool of vectors_CD. A tile is some rows with some of the candidates (_tiled)."""

    def __init__(self, candidates: int) -> None:
        self.candidates = candidates
        self._scores: Tensor | None = None

    def products(self, queries_BD: Tensor, vectors_CD: Tensor) -> Tensor:
        """[B, C] inner products of each row with every candidate."""
        return queries_BD @ vectors_CD.T

    def numbers_of_a_row(self, width: int) -> int:
        """What `products` holds for each."""
        return self.candidates

    def tile_sizes(self, vectors_CD: Tensor, rows: int) -> tuple[int, int]:
        """Rows and candidates: as many numbers where a batch has fewer rows."""
        height, width = (ROWS, COLUMNS) if vectors_CD.device.type == "cpu" else (ROWS_OF_DEVICE, COLUMNS_OF_DEVICE)
        return height, width * height // min(max(rows, 1), height)

    def tile(self, queries_RD: Tensor, vectors_CD: Tensor, rows: slice, columns: slice, less_R: Tensor | None = None) -> Tensor:
        """[R, T] inner products of some rows with some candidates, less a number of each row; where the last tile was."""
        tile_TD = vectors_CD[columns].to(queries_RD.dtype)
        if queries_RD.dtype != of_sums(queries_RD.dtype):
            scores_RT = product(queries_RD, tile_TD.T)
            return scores_RT if less_R is None else scores_RT.sub_(less_R.unsqueeze(1))
        size = len(queries_RD) * len(tile_TD)
        if self._scores is None or len(self._scores) < size:
            self._scores = queries_RD.new_empty(size)
        scores_RT = self._scores[:size].view(len(queries_RD), len(tile_TD))
        if less_R is None:
            return torch.mm(queries_RD, tile_TD.T, out=scores_RT)
        return torch.addmm(-less_R.unsqueeze(1), queries_RD, tile_TD.T, out=scores_RT)

    def add_gradients(
        self,
        slopes_RT: Tensor,
        factors_RD: Tensor,
        vectors_CD: Tensor,
        rows: slice,
        columns: slice,
        of_queries_BD: Tensor,
        of_vectors_CD: Tensor,
    ) -> None:
        """Those of a tile: sum_j slope_rj vector_j for each row, and sum_r slope_rj factors_r for each candidate."""
        slopes_RT = slopes_RT.to(factors_RD.dtype)
        add_product(of_queries_BD[rows], slopes_RT, vectors_CD[columns].to(slopes_RT.dtype))
        add_product(of_vectors_CD[columns], slopes_RT.T, factors_RD)


def numbers_of_a_tile(*, use_gpu: bool) -> int:
    """For the plan."""
    return ROWS_OF_DEVICE * COLUMNS_OF_DEVICE if use_gpu else ROWS * COLUMNS
