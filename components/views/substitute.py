"""Some behaviours of each history become similar ones."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from components.views import Uniforms
from components.views._common import Ratio, inside, lowest, share_at_least_one, similar_to


class Substitute:
    """max(1, floor(ratio * length)) positions, any alike, each get one of the `neighbours` items most similar to theirs.

    A behaviour that has no similar item stays; a history of one behaviour, too.

    Draws: `positions` and `neighbour`, L numbers a row each.
    Source: CoSeRec (Liu et al. 2021, arXiv 2108.06479), ratio .1, always the most similar item.
    Differs: a history of one behaviour is its own view; several neighbours may be drawn from; not here is similarity by
    embeddings, to which CoSeRec goes over in the middle of training, for a view reads no model.
    """

    def __init__(
        self,
        num_items: int,
        similar: Tensor | None,
        /,
        *,
        ratio: Ratio = 0.1,
        neighbours: Annotated[int, Field(ge=1)] = 1,
    ) -> None:
        assert similar is not None, "substitute takes a table of similar items"
        assert similar.shape[0] == num_items, f"similar items of {similar.shape[0]} items, not of {num_items}"
        assert similar.shape[1] >= neighbours, f"{similar.shape[1]} similar items of each, not {neighbours}"
        self.ratio, self.similar_IN = ratio, similar[:, :neighbours]

    def __call__(self, histories_BL: Tensor, lengths_B: Tensor, uniforms: Uniforms) -> tuple[Tensor, Tensor]:
        width, device = histories_BL.shape[1], histories_BL.device
        keys_BL = uniforms("positions", width).to(device).masked_fill(~inside(lengths_B, width), torch.inf)
        chosen = lowest(keys_BL, share_at_least_one(lengths_B, self.ratio)).nonzero(as_tuple=True)
        items_K = histories_BL[chosen]
        picked_K = similar_to(items_K, uniforms("neighbour", width).to(device)[chosen], self.similar_IN)
        view_BL = histories_BL.clone()
        view_BL[chosen] = torch.where(picked_K < len(self.similar_IN), picked_K, items_K)
        return view_BL, lengths_B.clone()
