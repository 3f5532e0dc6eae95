"""Which candidates are known positives of a row's user."""

from __future__ import annotations

import torch
from torch import Tensor

from components.data.interactions import Interactions
from components.masks import Mask


class Seen:
    """Finds false negatives. Memory: per batch a byte for each item, and what a Mask has of its users' training rows."""

    def __init__(self, train: Interactions) -> None:
        self.train = train

    def among(self, users_B: Tensor, items_C: Tensor) -> Mask:
        """The candidates that are training items of a row's user, each repeat of them."""
        places = (torch.from_numpy(each) for each in self.train.rows_of(users_B.cpu().numpy()))
        rows_N, items_N = (each.to(items_C.device) for each in places)
        is_candidate_I = torch.zeros(self.train.num_items, dtype=torch.bool, device=items_C.device)
        is_candidate_I[items_C] = True
        hits = is_candidate_I[items_N].nonzero().squeeze(1)  # most history items are no candidates: drop them before sorting
        return Mask(rows_N[hits], items_N[hits], items_C, len(users_B))


def same_item(items_B: Tensor, items_C: Tensor) -> Mask:
    """The candidates that are a row's own item."""
    return Mask(torch.arange(len(items_B), device=items_B.device), items_B, items_C, len(items_B))
