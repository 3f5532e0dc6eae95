"""Some behaviours of each history are not told."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from components.views import Uniforms, mask_id, padding_id
from components.views._common import Ratio, inside, lowest, share


class Mask:
    """floor(ratio * length) positions, any alike, become `token`; the length stays.

    `own` is the mask's own id, num_items + 1, with a vector that is learned. `padding` is the id of padding, which MCLRec's
    released code takes: those positions leave the keys of attention, and where it is the last one that goes, what is read is
    the output at a padding position.

    Draws: `positions`, L numbers a row.
    Source: CL4SRec (Xie et al. 2020, arXiv 2010.14395), ratio .3, `own`; MCLRec (Qin et al. 2023, arXiv 2304.07763), ratio
    .5, `own` in the paper and `padding` in the code, which made the published numbers and is the default here.
    """

    def __init__(
        self,
        num_items: int,
        similar: Tensor | None,
        /,
        *,
        ratio: Ratio = 0.5,
        token: Literal["padding", "own"] = "padding",
    ) -> None:
        self.ratio = ratio
        self.token = (mask_id if token == "own" else padding_id)(num_items)

    def __call__(self, histories_BL: Tensor, lengths_B: Tensor, uniforms: Uniforms) -> tuple[Tensor, Tensor]:
        width = histories_BL.shape[1]
        keys_BL = uniforms("positions", width).to(histories_BL.device).masked_fill(~inside(lengths_B, width), torch.inf)
        masked_BL = lowest(keys_BL, share(lengths_B, self.ratio))
        return histories_BL.masked_fill(masked_BL, self.token), lengths_B.clone()
