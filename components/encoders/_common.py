"""What encoders share: how a table begins, similarity, dropout."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.training.batches import Batch

Similarity = Literal["dot", "cosine"]
Init = Literal["xavier_uniform", "xavier_normal", "normal"]


def new_table(num_rows: int, dim: int, init: Init, init_std: float, generator: torch.Generator) -> nn.Parameter:
    """[num_rows, dim], drawn by Xavier's rules or from N(0, init_std^2)."""
    table = nn.Parameter(torch.empty(num_rows, dim))
    settings = {"std": init_std} if init == "normal" else {}
    getattr(nn.init, f"{init}_")(table, **settings, generator=generator)
    return table


def compared(similarity: Similarity, vectors: Tensor) -> Tensor:
    """Vectors whose inner product is the similarity."""
    return F.normalize(vectors, dim=-1) if similarity == "cosine" else vectors


def dropped(vectors_BD: Tensor, batch: Batch, dropout: float) -> Tensor:
    """Some coordinates 0, the others times 1 / (1 - dropout); keyed by the global row, whichever worker has it."""
    kept_BD = batch.uniforms("dropout", vectors_BD.shape[1]).to(vectors_BD) >= dropout
    return vectors_BD * kept_BD / (1 - dropout)
