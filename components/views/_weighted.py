"""Draws from a pool of items: each behaviour has weights of its own, each history some items that it must not get."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FINEST, ROOM = 40, 61  # bits of a weight, and of the sum of all
TOGETHER = 8192  # behaviours of a row of weights side by side, so that both stay in the processor's caches (measured)


class Pool(NamedTuple):
    """Weights as whole numbers, added up: drawing is exact, and an item that must not be drawn never is, not by rounding."""

    items_M: Tensor  # ascending, so that all places of one item are side by side
    heights_UM: Tensor  # [U, M + 1] each row rises by its weights, from above the row before: row after row it ascends

    @classmethod
    def of(cls, items_M: Tensor, scores_UM: Tensor) -> Pool:
        """exp(score) of each behaviour for each item, over its largest; the scores are overwritten.

        In units of 2^-FINEST, coarser where all together would need more than ROOM; one unit at least.
        """
        behaviours, items = scores_UM.shape
        largest = 2 ** min(FINEST, ROOM - (behaviours * (items + 1)).bit_length())
        step = (items + 1) * (largest + 2)
        scores_UM.sub_(scores_UM.amax(dim=1, keepdim=True)).exp_().mul_(largest).add_(1)
        heights_UM = torch.empty(behaviours, items + 1, dtype=torch.int64, device=items_M.device)
        heights_UM[:, 0] = torch.arange(behaviours, device=items_M.device) * step
        heights_UM[:, 1:] = scores_UM
        return cls(items_M, heights_UM.cumsum_(dim=1))

    def draw(self, rows_K: Tensor, numbers_K: Tensor, history_K: Tensor, without_BE: Tensor) -> tuple[Tensor, Tensor]:
        """An item for each of K behaviours by its row of weights, and whether there was one left to draw.

        Never one of without_BE[history_K], ascending ids: with these gone, an item's height is less by their weights below it,
        so the height sought is moved up by as much.
        """
        firsts_BG, ends_BG = self._gaps(without_BE)
        columns_K, any_K = torch.empty_like(rows_K), torch.empty_like(rows_K, dtype=torch.bool)
        for part_N in rows_K.argsort().split(TOGETHER):
            gaps_NG = firsts_BG[history_K[part_N]], ends_BG[history_K[part_N]]
            columns_K[part_N], any_K[part_N] = self._columns(rows_K[part_N], numbers_K[part_N], *gaps_NG)
        return self.items_M[columns_K.clamp(0, len(self.items_M) - 1)], any_K

    def _columns(self, rows_N: Tensor, numbers_N: Tensor, firsts_NG: Tensor, ends_NG: Tensor) -> tuple[Tensor, Tensor]:
        """Places in the pool of what some behaviours get, and whether there was one left for them."""
        width = self.heights_UM.shape[1]
        heights, row_starts_N1 = self.heights_UM.view(-1), (rows_N * width).unsqueeze(1)
        below_NG = heights.take(firsts_NG + row_starts_N1)
        gone_NG = heights.take(ends_NG + row_starts_N1).sub_(below_NG)
        up_to_NG = gone_NG.cumsum(dim=1)
        below_NG.sub_(up_to_NG).add_(gone_NG)
        foot_N, top_N = self.heights_UM[rows_N, 0], self.heights_UM[rows_N, -1]
        left_N = top_N - foot_N - gone_NG.sum(dim=1)
        sought_N = foot_N + (numbers_N * left_N).long()  # below all that is left, for numbers of 53 bits below 1
        sought_N = sought_N + gone_NG.mul_(below_NG <= sought_N.unsqueeze(1)).sum(dim=1)
        return torch.searchsorted(heights, sought_N, right=True) - 1 - rows_N * width, left_N > 0

    def _gaps(self, without_BE: Tensor) -> tuple[Tensor, Tensor]:
        """Where the places of items that a history must not get begin and end, ascending; those it lacks are 0 and 0."""
        firsts_BE = torch.searchsorted(self.items_M, without_BE)
        ends_BE = torch.searchsorted(self.items_M, without_BE, right=True)
        there_BE = ends_BE > firsts_BE
        there_BE[:, 1:] &= without_BE[:, 1:] != without_BE[:, :-1]  # once each
        to_BE = there_BE.cumsum(dim=1)
        most = int(to_BE.max()) if to_BE.numel() else 0
        to_BE.mul_(there_BE)  # column 0 takes the rest
        firsts_BG, ends_BG = (
            places_BE.new_zeros(len(places_BE), most + 1).scatter_(1, to_BE, places_BE * there_BE)[:, 1:]
            for places_BE in (firsts_BE, ends_BE)
        )
        return firsts_BG, ends_BG
