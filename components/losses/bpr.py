"""Bayesian personalised ranking."""

import torch.nn.functional as F
from torch import Tensor


class Bpr:
    """L_b = -sum_j log sigmoid(s_b - s_j).  Source: Rendle et al. 2009, arXiv 1205.2618, eq. 4."""

    temperature, logq, family = 1.0, False, "sum"

    def __init__(self) -> None: ...

    def start(self, positive_B: Tensor, log_count_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return positive_B, positive_B * 0

    def add(self, state: tuple[Tensor, Tensor], scores_BT: Tensor, log_count: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return state[0], state[1] + F.softplus(scores_BT - state[0][:, None]).sum(dim=1)

    def finish(self, state: tuple[Tensor, Tensor]) -> Tensor:
        return state[1]
