"""Matrix factorisation: one vector for each user and each item."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from components.data.interactions import Interactions
from components.encoders import Embedded
from components.training.batches import Batch

Similarity = Literal["dot", "cosine"]


class MF(nn.Module):
    """score(u, i) = <e_u, e_i>, or <e_u, e_i> / (|e_u| |e_i|) where the similarity is cosine.

    `train_similarity` and `score_similarity` are apart: the SSM paper trains on cosine and ranks by dot product, by which
    popularity comes back through the norms; MF is stronger with cosine in both (specification of SSM, P1). `dropout` is on
    the user's vector, before it is normalised.

    Shapes: tables [num_users, dim] and [num_items, dim].
    Source: Wu et al. 2024, arXiv 2201.02327; dropout: BSL's code (Wu et al., ICDE 2024).
    Differs: dropout draws are keyed by the global row, so that they do not depend on the number of workers.
    """

    def __init__(
        self,
        train: Interactions,
        generator: torch.Generator,
        /,
        *,
        dim: Annotated[int, Field(ge=1)] = 64,
        train_similarity: Similarity = "cosine",
        score_similarity: Similarity = "cosine",
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        init: Literal["xavier_uniform", "xavier_normal"] = "xavier_uniform",
    ) -> None:
        super().__init__()
        self.train_similarity: Similarity = train_similarity
        self.score_similarity: Similarity = score_similarity
        self.dropout = dropout
        self.user_table = nn.Parameter(torch.empty(train.num_users, dim))
        self.item_table = nn.Parameter(torch.empty(train.num_items, dim))
        for table in (self.user_table, self.item_table):
            getattr(nn.init, f"{init}_")(table, generator=generator)

    def queries(self, batch: Batch) -> Embedded:
        """The vectors of a batch's users, [B, D]."""
        rows_BD = F.embedding(batch.users_B, self.user_table, sparse=True)
        vectors_BD = rows_BD
        if self.dropout:
            kept_BD = batch.uniforms("dropout", rows_BD.shape[1]).to(rows_BD) >= self.dropout
            vectors_BD = rows_BD * kept_BD / (1 - self.dropout)
        return Embedded(for_similarity(self.train_similarity, vectors_BD), rows_BD)

    def items(self, ids: Tensor) -> Embedded:
        """The vectors of items, [*ids.shape, D]."""
        rows = F.embedding(ids, self.item_table, sparse=True)
        return Embedded(for_similarity(self.train_similarity, rows), rows)

    def scoring_tables(self) -> tuple[Tensor, Tensor]:
        """Users [num_users, D] and items [num_items, D] whose inner products are the scores; without a gradient."""
        users_UD, items_ID = (
            for_similarity(self.score_similarity, table.detach()) for table in (self.user_table, self.item_table)
        )
        return users_UD, items_ID

    def index_bytes(self, rows: int, users: int, items: int) -> int:
        """Nothing beside the tables."""
        return 0


def for_similarity(similarity: Similarity, vectors: Tensor) -> Tensor:
    return F.normalize(vectors, dim=-1) if similarity == "cosine" else vectors
