"""A contiguous part of each history."""

from __future__ import annotations

import torch
from torch import Tensor

from components.views import Uniforms, padding_id
from components.views._common import Ratio, inside, share


class Crop:
    """floor(ratio * length) behaviours in a row, one at least, from a start that is uniform over all there are.

    Draws: `start`, one number a row.
    Source: CL4SRec (Xie et al. 2020, arXiv 2010.14395), ratio .6; .5 as in MCLRec (Qin et al. 2023, arXiv 2304.07763), whose
    code names the share that goes.
    """

    def __init__(self, num_items: int, similar: Tensor | None, /, *, ratio: Ratio = 0.5) -> None:
        self.ratio, self.padding = ratio, padding_id(num_items)

    def __call__(self, histories_BL: Tensor, lengths_B: Tensor, uniforms: Uniforms) -> tuple[Tensor, Tensor]:
        width, device = histories_BL.shape[1], histories_BL.device
        kept_B = share(lengths_B, self.ratio).clamp(min=1).minimum(lengths_B)
        starts_B1 = (uniforms("start", 1).to(device) * (lengths_B - kept_B + 1)[:, None]).long()
        from_BL = (starts_B1 + torch.arange(width, device=device)).clamp(max=width - 1)
        return histories_BL.gather(1, from_BL).masked_fill_(~inside(kept_B, width), self.padding), kept_B
