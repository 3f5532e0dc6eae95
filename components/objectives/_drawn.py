"""Candidates that are drawn for each row, through the distinct items among them: one vector and one gradient for each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

DENSE = 16  # a product with so many times more items than a row has is cheaper than gathering a row's own (measured)


class Drawn:
    """items_BN as places in the distinct items_U."""

    def __init__(self, items_BN: Tensor) -> None:
        counts_I = torch.bincount(items_BN.reshape(-1))
        self.items_U = counts_I.nonzero().squeeze(1)
        self._counts_U = counts_I[self.items_U]
        self._place_BN = ((counts_I > 0).cumsum(0) - 1)[items_BN]

    def products(self, queries_BD: Tensor, items_UD: Tensor) -> Tensor:
        """[B, N] inner products of each row with its own candidates."""
        if is_dense(len(items_UD), self._place_BN.shape[1]):
            return (queries_BD @ items_UD.T).gather(1, self._place_BN)
        return torch.bmm(F.embedding(self._place_BN, items_UD), queries_BD.unsqueeze(2)).squeeze(2)

    def repeated(self, rows_UD: Tensor) -> Tensor:
        """Rows whose squares add up to those of every draw, with multiplicity: what L2 takes."""
        return rows_UD * self._counts_U.to(rows_UD.dtype).sqrt().unsqueeze(1)


def is_dense(distinct: int, per_row: int) -> bool:
    """Whether rows meet all of the distinct items, of which they take their own."""
    return distinct <= DENSE * per_row
