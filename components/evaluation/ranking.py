"""Full ranking in tiles: users by TILE, items by ITEM_TILE, so that memory does not grow with either.

A tile of users is always computed with TILE rows (the last one is padded), hence by the same kernel on the same shape,
and its bits do not depend on which worker computes it. Equal scores are ordered by the lower item id.
"""

from __future__ import annotations

import time
from collections.abc import Collection

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.data.interactions import Interactions, Ints
from components.errors import InputError
from components.evaluation.protocols import Protocol
from components.evaluation.scorers import Scorer

Floats = NDArray[np.floating]

TILE = 256  # users; a constant, for it decides the bits
ITEM_TILE = 32_768  # items; TILE x ITEM_TILE float32 scores are 32 MiB
BLOCK = 64  # neighbouring items that `top` first looks at as one


class Ranker:
    """The k best items of users, by one protocol or by both; `seconds` is what encoding and ranking took so far.

    Args:
        seen: items that are masked with -inf, each user's own, where seen items are masked.
        k: length of a list.
        item_tile: how many items are scored at once; changes memory, not results (beyond the rounding of BLAS).

    Raises:
        InputError: k exceeds the catalogue.
    """

    def __init__(self, scorer: Scorer, seen: Interactions, k: int, *, item_tile: int = ITEM_TILE) -> None:
        check_k(k, scorer.num_items)
        assert seen.num_items == scorer.num_items, f"{seen.num_items} items in the data, {scorer.num_items} in the model"
        self.scorer, self.seen, self.k = scorer, seen, k
        self.item_tile = max(item_tile, k)
        self.seconds = {"encode": 0.0, "rank": 0.0}
        self._buffer = scorer.buffer(TILE * min(self.item_tile, scorer.num_items))

    def top(self, users_T: NDArray[np.integer], keep: Interactions | None = None) -> tuple[Ints, Floats]:
        """`lists` where seen items are masked."""
        return self.lists(users_T, keep)["masked"]

    @torch.no_grad()
    def lists(
        self, users_T: NDArray[np.integer], keep: Interactions | None = None, protocols: Collection[Protocol] = ("masked",)
    ) -> dict[Protocol, tuple[Ints, Floats]]:
        """Lists of at most TILE users by each of the protocols, out of the same scores.

        Args:
            keep: items that are never masked, though seen: those the current test asks for.

        Returns:
            items_TK, best first, and scores_TK; where a user has fewer than k candidates, item -1 with score -inf.
        """
        height = len(users_T)
        assert 0 < height <= TILE, f"{height} users, a tile holds 1 to {TILE}"
        padded = np.concatenate([users_T, np.repeat(users_T[-1:], TILE - height)]).astype(np.int64)
        row_N, item_N = _masked(self.seen, padded, keep)
        started = time.perf_counter()
        queries_TD = self.scorer.queries(torch.from_numpy(padded))
        encoded = time.perf_counter()
        best: dict[Protocol, tuple[Floats, Ints]] = {}
        for start in range(0, self.scorer.num_items, self.item_tile):
            stop = min(start + self.item_tile, self.scorer.num_items)
            width = stop - start
            out = self._buffer[: TILE * width].view(TILE, width)
            scores_TS = self.scorer.scores(queries_TD, start, stop, out)
            if "not_masked" in protocols:
                best["not_masked"] = self._best(best.get("not_masked"), scores_TS, start)
            if "masked" in protocols:  # the last, for it overwrites scores
                here = (item_N >= start) & (item_N < stop)
                masked = torch.from_numpy(row_N[here] * width + item_N[here] - start).to(scores_TS.device)
                scores_TS.view(-1).index_fill_(0, masked, -torch.inf)
                best["masked"] = self._best(best.get("masked"), scores_TS, start)
        self.seconds["encode"] += encoded - started
        self.seconds["rank"] += time.perf_counter() - encoded
        assert best, "an empty catalogue"
        return {
            protocol: (np.where(scores_TK == -np.inf, np.int32(-1), items_TK)[:height], scores_TK[:height])
            for protocol, (scores_TK, items_TK) in best.items()
        }

    def _best(self, best: tuple[Floats, Ints] | None, scores_TS: Tensor, start: int) -> tuple[Floats, Ints]:
        """The k best of those so far and of the items from `start` on."""
        scores_TK, items_TK = top(scores_TS, min(self.k, scores_TS.shape[1]))
        items_TK = (items_TK + start).astype(np.int32)
        if best is None:
            return scores_TK, items_TK
        scores_TK, items_TK = np.concatenate([best[0], scores_TK], 1), np.concatenate([best[1], items_TK], 1)
        scores_TK, position_TK = _top(scores_TK, self.k)  # earlier items first: position still orders equal scores by id
        return scores_TK, np.take_along_axis(items_TK, position_TK, 1)


def check_k(k: int, num_items: int, name: str = "k") -> None:
    """Raises InputError where a list would be longer than the catalogue."""
    if not 1 <= k <= num_items:
        raise InputError(f"{name}: got {k}, takes a number from 1 to the catalogue's {num_items} items")


def top(scores_TN: Tensor, k: int) -> tuple[Floats, NDArray[np.int64]]:
    """The k largest of each row, in descending order, equal ones by position: (values_TK, positions_TK).

    The k best lie in the k blocks of neighbours with the largest maxima (equal maxima by position), so that only those
    are looked at one by one: one pass of max over the scores instead of a selection. What is left is small and done by
    NumPy: a dozen small torch operators would wait for each other's threads, seconds where the processors are busy.

    Raises:
        ValueError: a score is NaN.
    """
    height, width = scores_TN.shape
    if width <= 4 * k * BLOCK:
        return _top(scores_TN.cpu().numpy(), k)
    whole = width // BLOCK * BLOCK
    blocks_TK = _largest(scores_TN[:, :whole].view(height, -1, BLOCK).amax(2).cpu().numpy(), k)
    inside = (blocks_TK[:, :, None] * BLOCK + np.arange(BLOCK)).reshape(height, -1)
    rest = np.broadcast_to(np.arange(whole, width), (height, width - whole))
    position_TC = np.concatenate([inside, rest], 1)
    values_TC = scores_TN.gather(1, torch.from_numpy(position_TC).to(scores_TN.device)).cpu().numpy()
    values_TK, chosen_TK = _top(values_TC, k)
    return values_TK, np.take_along_axis(position_TC, chosen_TK, 1)


def _top(values_TN: Floats, k: int) -> tuple[Floats, NDArray[np.int64]]:
    positions_TK = _largest(values_TN, k)
    values_TK = np.take_along_axis(values_TN, positions_TK, 1)
    order_TK = np.argsort(-values_TK, axis=1, kind="stable")
    return np.take_along_axis(values_TK, order_TK, 1), np.take_along_axis(positions_TK, order_TK, 1)


def _largest(values_TN: Floats, k: int) -> NDArray[np.int64]:
    """[T, k] ascending positions of each row's k largest values; among those equal to the k-th, the first ones."""
    height, width = values_TN.shape
    best_TK = np.partition(values_TN, width - k, axis=1)[:, width - k :]
    if np.isnan(best_TK).any():  # the largest, to NumPy
        raise ValueError("scores: got NaN, takes numbers; the model has diverged")
    kth_T1 = best_TK[:, :1]
    above_TN, at_TN = values_TN > kth_T1, values_TN == kth_T1
    room_T1 = k - above_TN.sum(1, keepdims=True)
    if (at_TN.sum(1, keepdims=True) > room_T1).any():
        at_TN &= at_TN.cumsum(1) <= room_T1
    return (above_TN | at_TN).nonzero()[1].reshape(height, k)


def _masked(
    seen: Interactions, users_T: NDArray[np.int64], keep: Interactions | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    row_N, item_N = seen.rows_of(users_T)
    if keep is None:
        return row_N, item_N
    kept_row, kept_item = keep.rows_of(users_T)
    masked = ~np.isin(row_N * seen.num_items + item_N, kept_row * seen.num_items + kept_item)
    return row_N[masked], item_N[masked]
