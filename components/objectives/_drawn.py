"""Candidates that are drawn for each row, through the distinct items among them: one vector and one gradient for each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from components.objectives._products import add_product, product

DENSE = 16  # a product with so many times more items than a row has is cheaper than gathering a row's own (measured)
NUMBERS_AT_ONCE = 2**22  # of a tile of rows


class Drawn:
    """items_BN as places in the distinct items_U. A tile is some rows with all of their candidates (_tiled)."""

    def __init__(self, items_BN: Tensor) -> None:
        counts_I = torch.bincount(items_BN.reshape(-1))
        self.items_U = counts_I.nonzero().squeeze(1)
        self._counts_U = counts_I[self.items_U]
        self._place_BN = ((counts_I > 0).cumsum(0) - 1)[items_BN]
        self.candidates = self._place_BN.shape[1]
        self._is_dense = is_dense(len(self.items_U), self.candidates)

    def products(self, queries_BD: Tensor, items_UD: Tensor) -> Tensor:
        """[B, N] inner products of each row with its own candidates."""
        return self._products(queries_BD, items_UD, self._place_BN)

    def repeated(self, rows_UD: Tensor) -> Tensor:
        """Rows whose squares add up to those of every draw, with multiplicity: what L2 takes."""
        return rows_UD * self._counts_U.to(rows_UD.dtype).sqrt().unsqueeze(1)

    def numbers_of_a_row(self, width: int) -> int:
        """What `products` holds for each: its scores of all items, or the vectors of its candidates."""
        return len(self.items_U) if self._is_dense else self.candidates * width

    def tile_sizes(self, items_UD: Tensor, _rows: int) -> tuple[int, int]:
        """Rows, and the candidates of each."""
        return max(NUMBERS_AT_ONCE // max(self.numbers_of_a_row(items_UD.shape[1]), 1), 1), self.candidates

    def tile(self, queries_RD: Tensor, items_UD: Tensor, rows: slice, columns: slice, less_R: Tensor | None = None) -> Tensor:
        """[R, N] inner products of some rows, less a number of each."""
        scores_RN = self._products(queries_RD, items_UD.to(queries_RD.dtype), self._place_BN[rows])
        return scores_RN if less_R is None else scores_RN.sub_(less_R.unsqueeze(1))

    def add_gradients(
        self,
        slopes_RN: Tensor,
        factors_RD: Tensor,
        items_UD: Tensor,
        rows: slice,
        columns: slice,
        of_queries_BD: Tensor,
        of_items_UD: Tensor,
    ) -> None:
        """Those of a tile: sum_j slope_rj item_j for each row, and sum_r slope_rj factors_r for each item."""
        items_UD, place_RN = items_UD.to(factors_RD.dtype), self._place_BN[rows]
        if self._is_dense:
            slopes_RU = slopes_RN.new_zeros(len(slopes_RN), len(items_UD)).scatter_add_(1, place_RN, slopes_RN)
            slopes_RU = slopes_RU.to(factors_RD.dtype)
            add_product(of_queries_BD[rows], slopes_RU, items_UD)
            add_product(of_items_UD, slopes_RU.T, factors_RD)
        else:
            slopes_R1N = slopes_RN.to(factors_RD.dtype).unsqueeze(1)
            of_queries_BD[rows] += product(slopes_R1N, F.embedding(place_RN, items_UD)).squeeze(1)
            of_draws_RND = slopes_RN.unsqueeze(2) * factors_RD.unsqueeze(1)
            # the backward pass of an embedding: index_add_ is many times slower
            of_items_UD += torch.ops.aten.embedding_dense_backward(of_draws_RND, place_RN, len(items_UD), -1, False)

    def _products(self, queries_RD: Tensor, items_UD: Tensor, place_RN: Tensor) -> Tensor:
        if self._is_dense:
            return product(queries_RD, items_UD.T).gather(1, place_RN)
        return product(F.embedding(place_RN, items_UD), queries_RD.unsqueeze(2)).squeeze(2)


def is_dense(distinct: int, per_row: int) -> bool:
    """Whether rows meet all of the distinct items, of which they take their own."""
    return distinct <= DENSE * per_row
