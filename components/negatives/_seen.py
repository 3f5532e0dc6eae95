"""Which candidates are known positives of a row's user."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from components.data.interactions import Interactions, ragged


class Seen:
    """Finds false negatives. Memory: two int32 per item, and per batch one entry for each training row of its users."""

    def __init__(self, train: Interactions) -> None:
        self.train = train
        self._first = np.zeros(train.num_items, np.int32)  # scratch: where an item's columns begin, and how many it has
        self._count = np.zeros(train.num_items, np.int32)

    def among(self, users_B: Tensor, items_C: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and columns (b, c) such that item c is a training item of user b; each repeated column is found."""
        candidates = items_C.cpu().numpy()
        order = np.argsort(candidates, kind="stable")
        distinct, first, count = np.unique(candidates[order], return_index=True, return_counts=True)
        self._first[distinct], self._count[distinct] = first, count
        rows, items = self.train.rows_of(users_B.cpu().numpy())
        hits = np.flatnonzero(self._count[items])  # most history items are no candidates: drop them before repeating
        rows, items = rows[hits], items[hits]
        repeats = self._count[items]
        columns = order[ragged(self._first[items], repeats)]
        self._count[distinct] = 0
        pairs = np.stack([np.repeat(rows, repeats), columns])
        found = torch.from_numpy(pairs).to(users_B.device)
        return found[0], found[1]


def same_item(items_B: Tensor, items_C: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns (b, c) such that candidate c is the item of row b."""
    order = items_C.argsort(stable=True)
    first, end = (torch.searchsorted(items_C[order], items_B, right=right).cpu().numpy() for right in (False, True))
    rows = np.repeat(np.arange(len(first)), end - first)
    return torch.from_numpy(rows).to(items_B.device), order[torch.from_numpy(ragged(first, end - first)).to(order.device)]
