"""Matrix factorisation: one vector for each user and each item."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from components.data.interactions import Interactions
from components.encoders import Embedded
from components.encoders._common import Init, Similarity, compared, dropped, new_table
from components.training.batches import Batch


class MF(nn.Module):
    """score(u, i) = <e_u, e_i>, or <e_u, e_i> / (|e_u| |e_i|) where the similarity is cosine.

    `train_similarity` and `score_similarity` are apart: the SSM paper trains on cosine and ranks by dot product, by which
    popularity comes back through the norms; MF is stronger with cosine in both. `dropout` is on
    the user's rows, before they are normalised (BSL), or on its vectors, after it: kept coordinates grow by 1 / (1 - dropout),
    so that a cosine in training may exceed 1 (SimpleX). `init: normal` is N(0, init_std^2), and init_std is read by it alone:
    from SimpleX's 1e-4, Adam's first steps turn the vectors far, and ever less as these grow.

    Shapes: tables [num_users, dim] and [num_items, dim].
    Source: Wu et al. 2024, arXiv 2201.02327; dropout on rows: BSL's code (Wu et al., ICDE 2024); dropout on vectors and normal
    init: SimpleX's code (Mao et al., CIKM 2021, arXiv 2109.12613).
    Differs: dropout draws are keyed by the global row, so that they do not depend on the number of workers.
    """

    window = None

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
        dropout_on: Literal["rows", "vectors"] = "rows",
        init: Init = "xavier_uniform",
        init_std: Annotated[float, Field(gt=0)] = 1e-4,
    ) -> None:
        super().__init__()
        self.train_similarity: Similarity = train_similarity
        self.score_similarity: Similarity = score_similarity
        self.dropout, self.dropout_on = dropout, dropout_on
        self.user_table = new_table(train.num_users, dim, init, init_std, generator)
        self.item_table = new_table(train.num_items, dim, init, init_std, generator)

    def queries(self, batch: Batch) -> Embedded:
        """The vectors of a batch's users, [B, D]."""
        rows_BD = F.embedding(batch.users_B, self.user_table, sparse=True)
        vectors_BD = rows_BD
        if self.dropout and self.dropout_on == "rows":
            vectors_BD = dropped(vectors_BD, batch, self.dropout)
        vectors_BD = compared(self.train_similarity, vectors_BD)
        if self.dropout and self.dropout_on == "vectors":
            vectors_BD = dropped(vectors_BD, batch, self.dropout)
        return Embedded(vectors_BD, rows_BD)

    def items(self, ids: Tensor) -> Embedded:
        """The vectors of items, [*ids.shape, D]."""
        rows = F.embedding(ids, self.item_table, sparse=True)
        return Embedded(compared(self.train_similarity, rows), rows)

    def scoring_tables(self) -> tuple[Tensor, Tensor]:
        """Users [num_users, D] and items [num_items, D] whose inner products are the scores; without a gradient."""
        users_UD, items_ID = (compared(self.score_similarity, table.detach()) for table in (self.user_table, self.item_table))
        return users_UD, items_ID

    @staticmethod
    def reads_order(_arguments: Mapping[str, Any]) -> bool:
        """No history is read."""
        return False

    def looked_up(self, rows: int, items: int) -> int:
        """A row of its table for each."""
        return rows

    def index_bytes(self, rows: int, users: int, items: int) -> int:
        """Nothing beside the tables."""
        return 0
