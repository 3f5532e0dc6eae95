"""Similar behaviours come in before some of each history."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from components.views import Uniforms, padding_id
from components.views._common import Ratio, inside, lowest, share_at_least_one, similar_to


class Insert:
    """Before max(1, floor(ratio * length)) positions, any alike, comes one of the `neighbours` items most similar to theirs.

    A history that no longer fits in L loses its oldest behaviours. Before one that has no similar item nothing comes in; a
    history of one behaviour stays as it is.

    Draws: `positions` and `neighbour`, L numbers a row each.
    Source: CoSeRec (Liu et al. 2021, arXiv 2108.06479), ratio .4, always the most similar item.
    Differs: as `substitute`.
    """

    def __init__(
        self,
        num_items: int,
        similar: Tensor | None,
        /,
        *,
        ratio: Ratio = 0.4,
        neighbours: Annotated[int, Field(ge=1)] = 1,
    ) -> None:
        assert similar is not None, "insert takes a table of similar items"
        assert similar.shape[0] == num_items, f"similar items of {similar.shape[0]} items, not of {num_items}"
        assert similar.shape[1] >= neighbours, f"{similar.shape[1]} similar items of each, not {neighbours}"
        self.ratio, self.similar_IN, self.padding = ratio, similar[:, :neighbours], padding_id(num_items)

    def __call__(self, histories_BL: Tensor, lengths_B: Tensor, uniforms: Uniforms) -> tuple[Tensor, Tensor]:
        width, device = histories_BL.shape[1], histories_BL.device
        inside_BL = inside(lengths_B, width)
        keys_BL = uniforms("positions", width).to(device).masked_fill(~inside_BL, torch.inf)
        chosen = lowest(keys_BL, share_at_least_one(lengths_B, self.ratio)).nonzero(as_tuple=True)
        numbers_K = uniforms("neighbour", width).to(device)[chosen]
        new_BL = torch.full_like(histories_BL, self.padding)
        new_BL[chosen] = similar_to(histories_BL[chosen], numbers_K, self.similar_IN)
        comes_BL = new_BL != self.padding
        before_BL = comes_BL.cumsum(dim=1)  # how many come in up to and before a position
        grown_B = lengths_B + before_BL[:, -1]
        # column 0 takes what is padding or too old
        to_BL = torch.arange(1, width + 1, device=device) + before_BL - (grown_B - width).clamp(min=0)[:, None]
        view_BL = histories_BL.new_full((len(histories_BL), width + 1), self.padding)
        view_BL.scatter_(1, torch.where(inside_BL, to_BL, 0).clamp_(min=0), histories_BL)
        view_BL.scatter_(1, torch.where(comes_BL, to_BL - 1, 0).clamp_(min=0), new_BL)
        return view_BL[:, 1:], grown_B.clamp(max=width)
