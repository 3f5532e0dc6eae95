"""Draws from a pool of items: each behaviour has weights of its own, each history some items that it must not get."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

UNIT = 2**32  # the largest weight of a behaviour


class Pool(NamedTuple):
    """Weights as whole numbers, added up: drawing is exact, and an item that must not be drawn never is, not by rounding.

    Columns are in the order of their ids, so that all of one item's are side by side.
    """

    items_M: Tensor
    heights_UM: Tensor  # [U, M + 1] each row rises by its weights, from above the row before: row after row it ascends

    @classmethod
    def of(cls, pool_M: Tensor, scores_UM: Tensor, own_U: Tensor) -> Pool:
        """exp(score) of each row's behaviour for each item, 1 / UNIT of the largest at least; `own`, never drawn, apart."""
        items_M, order_M = pool_M.sort()
        scores_UM = scores_UM[:, order_M].masked_fill_(own_U[:, None] == items_M, -torch.inf)
        largest_U1 = scores_UM.amax(dim=1, keepdim=True).clamp(min=torch.finfo(scores_UM.dtype).min)
        heights_UM = items_M.new_zeros(len(own_U), len(items_M) + 1)
        step = heights_UM.shape[1] * (UNIT + 1)
        assert len(own_U) * step < 2**63, f"{len(own_U)} behaviours times a pool of {len(items_M)} are too many"
        torch.cumsum((torch.exp(scores_UM - largest_U1) * UNIT).long() + 1, dim=1, out=heights_UM[:, 1:])
        return cls(items_M, heights_UM.add_(torch.arange(len(own_U), device=own_U.device)[:, None] * step))

    def draw(self, rows_K: Tensor, numbers_K: Tensor, history_K: Tensor, without_BE: Tensor) -> tuple[Tensor, Tensor]:
        """An item for each of K behaviours by its row of weights, and whether there was one left to draw.

        Never one of without_BE[history_K], ascending ids: with these gone, an item's height is less by their weights below it,
        so the height sought is moved up by as much.
        """
        firsts_BE = torch.searchsorted(self.items_M, without_BE)
        ends_BE = torch.searchsorted(self.items_M, without_BE, right=True)
        ends_BE[:, 1:] = torch.where(without_BE[:, 1:] == without_BE[:, :-1], firsts_BE[:, 1:], ends_BE[:, 1:])  # once each
        below_KE = self.heights_UM[rows_K[:, None], firsts_BE[history_K]]
        gone_KE = self.heights_UM[rows_K[:, None], ends_BE[history_K]] - below_KE
        below_KE = below_KE - gone_KE.cumsum(dim=1) + gone_KE
        foot_K, top_K = self.heights_UM[rows_K, 0], self.heights_UM[rows_K, -1]
        left_K = top_K - foot_K - gone_KE.sum(dim=1)
        sought_K = foot_K + (numbers_K * left_K).long().minimum(left_K - 1)  # a float may round up to all of it
        sought_K = sought_K + (gone_KE * (below_KE <= sought_K[:, None])).sum(dim=1)
        columns_K = torch.searchsorted(self.heights_UM.view(-1), sought_K, right=True) - 1 - rows_K * self.heights_UM.shape[1]
        return self.items_M[columns_K.clamp(0, len(self.items_M) - 1)], left_K > 0
