"""A contiguous part of each history in another order."""

from __future__ import annotations

import torch
from torch import Tensor

from components.views import Uniforms
from components.views._common import Ratio, share


class Reorder:
    """A window of floor(ratio * length) behaviours is shuffled, all orders alike, the old one too; its start is uniform.

    Draws: `start`, one number a row, and `order`, L numbers a row.
    Source: CL4SRec (Xie et al. 2020, arXiv 2010.14395), ratio .6; .8 as in MCLRec's code (Qin et al. 2023, arXiv
    2304.07763).
    """

    def __init__(self, num_items: int, similar: Tensor | None, /, *, ratio: Ratio = 0.8) -> None:
        self.ratio = ratio

    def __call__(self, histories_BL: Tensor, lengths_B: Tensor, uniforms: Uniforms) -> tuple[Tensor, Tensor]:
        width, device = histories_BL.shape[1], histories_BL.device
        window_B1 = share(lengths_B, self.ratio)[:, None]
        starts_B1 = (uniforms("start", 1).to(device) * (lengths_B[:, None] - window_B1 + 1)).long()
        places_L = torch.arange(width, device=device)
        within_BL = (places_L >= starts_B1) & (places_L < starts_B1 + window_B1)
        # start + a number below 1 lies after the positions before the window, and before those after it
        keys_BL = torch.where(within_BL, starts_B1 + uniforms("order", width).to(device), places_L.double())
        return histories_BL.gather(1, keys_BL.argsort(dim=1, stable=True)), lengths_B.clone()
