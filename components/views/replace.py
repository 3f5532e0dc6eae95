"""Behaviours that matter little, or much, give way to items like them, or unlike."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from components.views import Uniforms, Weights
from components.views._common import Ratio, inside, lowest, share
from components.views._weighted import Pool

SHORTEST = 3  # behaviours of a history of which a part can be replaced and a part remain


class Replace:
    """max(1, floor(ratio * n)) of the n distinct behaviours of a history are replaced, everywhere they are; the length stays.

    rank_t is the rank of a_t among them over n - 1: 0 the least important, 1 the most; equal ones share the mean rank.

        `dispensable`    t without replacement ~ exp(-ramp sharpness rank_t), substitutes j ~ exp( cos(x_t, j) / temperature)
        `indispensable`  t without replacement ~ exp(+ramp sharpness rank_t), substitutes j ~ exp(-cos(x_t, j) / temperature)

    The first makes positive views, the second negative ones. A substitute is in the pool, and neither in the history nor its
    target; it is drawn by itself, so two behaviours may get the same. A history of fewer than 3 behaviours, or of one again and
    again, comes back as it is, and a behaviour stays for which the pool has nothing left.

    With a temperature below .05, one item of the history in the pool could leave all others without weight. With a sharpness of
    100 ranks decide, not chance; exp of much larger ones is not finite.

    Several views at once: repeat the rows, and let `uniforms` give each repeat numbers of its own. A view differs from its
    history just where it was replaced. Memory: 8 bytes for each distinct behaviour and item of the pool, a few times over.

    Draws: `positions` and `substitute`, L numbers a row each.
    Source: our design after the abstract of CCL4Rec (Zhang et al. 2022, arXiv 2208.08024), whose equations are not public, and
    CauseRec's (Zhang et al., SIGIR 2021, arXiv 2109.05261) dispensable and indispensable behaviours.
    Differs: from CauseRec, whose weights for dissimilar items, 1 - softmax, are nearly uniform.
    """

    def __init__(
        self,
        num_items: int,
        similar: Tensor | None,
        /,
        *,
        replaces: Literal["dispensable", "indispensable"] = "dispensable",
        ratio: Ratio = 0.5,
        sharpness: Annotated[float, Field(ge=0, le=100)] = 5.0,
        temperature: Annotated[float, Field(ge=0.05)] = 0.1,
    ) -> None:
        self.replaces, self.ratio, self.sharpness, self.temperature = replaces, ratio, sharpness, temperature
        self.sign = 1.0 if replaces == "dispensable" else -1.0

    def __call__(self, histories_BL: Tensor, lengths_B: Tensor, uniforms: Uniforms, weights: Weights) -> tuple[Tensor, Tensor]:
        width, device = histories_BL.shape[1], histories_BL.device
        first_BL = _first_places(histories_BL)
        distinct_BL = (first_BL == torch.arange(width, device=device)) & inside(lengths_B, width)
        distinct_B = distinct_BL.sum(dim=1)
        counts_B = share(distinct_B, self.ratio).clamp(min=1) * ((lengths_B >= SHORTEST) & (distinct_B > 1))
        ranks_BL = _ranks(weights.importance_BL.double(), distinct_BL)
        # the first of clocks that ring after exponential times, each at its own rate, are a draw without replacement
        times_BL = -torch.log1p(-uniforms("positions", width).to(device))
        times_BL = times_BL * torch.exp(self.sign * weights.ramp * self.sharpness * ranks_BL)
        chosen = lowest(times_BL.masked_fill(~distinct_BL, torch.inf), counts_B).nonzero(as_tuple=True)
        items_K = histories_BL[chosen]
        used_R, rows_K = items_K.unique(return_inverse=True)
        scores_RM = weights.similarity_UM[torch.searchsorted(weights.behaviours_U, used_R)].mul_(self.sign / self.temperature)
        pool = Pool.of(weights.pool_M, scores_RM)
        without_BE = torch.cat([histories_BL, weights.targets_B[:, None]], dim=1).sort(dim=1).values
        drawn_K, any_K = pool.draw(rows_K, uniforms("substitute", width).to(device)[chosen], chosen[0], without_BE)
        view_BL = histories_BL.clone()
        view_BL[chosen] = torch.where(any_K, drawn_K, items_K)
        return view_BL.gather(1, first_BL), lengths_B.clone()


def _first_places(items_BL: Tensor) -> Tensor:
    """[B, L] where each position's item is for the first time in its row."""
    sorted_BL, order_BL = items_BL.sort(dim=1, stable=True)
    places_BL = torch.arange(items_BL.shape[1], device=items_BL.device).expand_as(items_BL).clone()
    places_BL[:, 1:].masked_fill_(sorted_BL[:, 1:] == sorted_BL[:, :-1], 0)
    starts_BL = places_BL.cummax(dim=1).values
    return torch.empty_like(order_BL).scatter_(1, order_BL, order_BL.gather(1, starts_BL))


def _ranks(values_BL: Tensor, among_BL: Tensor) -> Tensor:
    """[B, L] the mean rank of each value among a row's, from 0 to 1."""
    sorted_BL = values_BL.masked_fill(~among_BL, torch.inf).sort(dim=1).values
    below_BL, up_to_BL = (torch.searchsorted(sorted_BL, values_BL, right=right) for right in (False, True))
    return (below_BL + up_to_BL - 1) / (2 * (among_BL.sum(dim=1, keepdim=True) - 1).clamp(min=1))
