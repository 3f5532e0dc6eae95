"""SimpleX: a user is its own vector and those of the items in its history."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from components.data.interactions import Interactions
from components.encoders import Embedded
from components.encoders._common import Init, Similarity, compared, dropped, new_table
from components.training.batches import Batch

HISTORY_ROWS_AT_ONCE = 2**18  # when all users are scored: bounds memory
ID_COPIES, ITEM_COPIES = 10, 4  # of a history's ids, and of vectors of its items, at the peak of the backward pass


class Simplex(nn.Module):
    """u = gamma e_u + (1 - gamma) W_v pool(h_1 .. h_n), over the items of the user's history; cosines, as MF has them.

    pool mean: 1/n sum_i h_i. pool user_attention: sum_i a_i h_i with a = softmax_i <tanh(W_k h_i + b_k), e_u>. Without a
    history it is 0. In training a row's history is the user's others: the row's own item, each time it occurs, is left out;
    for ranking it is all of them. h_i are rows of the item table or, where not `shared_items`, of a table of their own.
    `dropout` is on the user's normalised vector (MF's `dropout_on: vectors`). With gamma 1 this is MF, and there is no pool.
    The defaults are the published ones for Gowalla; for Yelp2018 gamma 1, for Amazon-Book gamma .5, mean and shared items.

    Shapes: user_table [num_users, dim], item_table and history_table [num_items, dim], W_v, W_k [dim, dim], b_k [dim]. A batch
    takes memory for the histories of its rows: their number times dim, a few times over with user_attention.
    Source: Mao et al., CIKM 2021, arXiv 2109.12613, and its code in RecBox (W_v, the attention, initial values: tables by
    `init`, W by Xavier's normal, b_k 0).
    Differs: RecBox pads histories and its softmax counts each place that is padded as a score of 0, so that a short history
    weighs less than a long one; here the weights of a history sum to 1. Dropout draws are keyed by the global row.
    """

    window = None

    def __init__(
        self,
        train: Interactions,
        generator: torch.Generator,
        /,
        *,
        dim: Annotated[int, Field(ge=1)] = 64,
        gamma: Annotated[float, Field(ge=0, le=1)] = 0.8,
        pool: Literal["mean", "user_attention"] = "user_attention",
        shared_items: bool = False,
        train_similarity: Similarity = "cosine",
        score_similarity: Similarity = "cosine",
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        init: Init = "normal",
        init_std: Annotated[float, Field(gt=0)] = 1e-4,
    ) -> None:
        super().__init__()
        self.log = train
        self.gamma, self.pool, self.shared_items, self.dropout = gamma, pool, shared_items, dropout
        self.train_similarity: Similarity = train_similarity
        self.score_similarity: Similarity = score_similarity
        self.user_table = new_table(train.num_users, dim, init, init_std, generator)
        self.item_table = new_table(train.num_items, dim, init, init_std, generator)
        if gamma == 1:  # what nothing reads would be exchanged between workers as a whole, and kept by Adam
            return
        if not shared_items:
            self.history_table = new_table(train.num_items, dim, init, init_std, generator)
        self.value_weight = new_table(dim, dim, "xavier_normal", init_std, generator)
        if pool == "user_attention":
            self.key_weight = new_table(dim, dim, "xavier_normal", init_std, generator)
            self.key_bias = nn.Parameter(torch.zeros(dim))

    def queries(self, batch: Batch) -> Embedded:
        """The vectors of a batch's users, [B, D]; the rows are their own, without their histories'."""
        rows_BD = F.embedding(batch.users_B, self.user_table, sparse=True)
        vectors_BD = compared(self.train_similarity, self._users(batch.users_B, rows_BD, without_B=batch.items_B))
        return Embedded(dropped(vectors_BD, batch, self.dropout) if self.dropout else vectors_BD, rows_BD)

    def items(self, ids: Tensor) -> Embedded:
        """The vectors of items, [*ids.shape, D]."""
        rows = F.embedding(ids, self.item_table, sparse=True)
        return Embedded(compared(self.train_similarity, rows), rows)

    @torch.no_grad()
    def scoring_tables(self) -> tuple[Tensor, Tensor]:
        """Users [num_users, D] and items [num_items, D] whose inner products are the scores; without a gradient."""
        ends = np.searchsorted(self.log.offsets, np.arange(HISTORY_ROWS_AT_ONCE, len(self.log), HISTORY_ROWS_AT_ONCE))
        parts = torch.arange(self.log.num_users, device=self.user_table.device).tensor_split(ends.tolist())
        users_UD = torch.cat([self._users(users_B, self.user_table[users_B], without_B=None) for users_B in parts])
        return compared(self.score_similarity, users_UD), compared(self.score_similarity, self.item_table.detach())

    @staticmethod
    def reads_order(_arguments: Mapping[str, Any]) -> bool:
        """No history is read."""
        return False

    def looked_up(self, rows: int, items: int) -> int:
        """A row of its table for each, and each item of their histories once."""
        return rows + (items if self.gamma < 1 else 0)

    def index_bytes(self, rows: int, users: int, items: int) -> int:
        """Nothing beside the tables: histories are the mapped rows."""
        return 0

    def read_bytes(self, rows: int, history: float, users: int, items: int, width: int) -> int:
        """Ids and weights of the histories' items, their distinct vectors, and where attention is paid vectors of each."""
        if self.gamma == 1:
            return 0
        of_batch, dim, attends = math.ceil(rows * history), self.user_table.shape[1], self.pool == "user_attention"
        of_ids, of_items = 8 * ID_COPIES * of_batch, min(of_batch, items)
        return of_ids + dim * width * (ITEM_COPIES * (of_batch + of_items) if attends else ITEM_COPIES // 2 * of_items)

    def _users(self, users_B: Tensor, rows_BD: Tensor, without_B: Tensor | None) -> Tensor:
        """[B, D] gamma e_u + (1 - gamma) W_v pool; an item of `without_B` is left out of its row's history."""
        if self.gamma == 1:
            return rows_BD
        history = (torch.from_numpy(ids).to(users_B.device) for ids in self.log.rows_of(users_B.cpu().numpy()))
        place_N, item_N = history  # history row n is of the user at place_N[n]
        if without_B is not None:
            others_N = item_N != without_B[place_N]
            place_N, item_N = place_N[others_N], item_N[others_N]
        # of an item in many histories, one row is looked up, and one row of the gradient is exchanged between workers
        distinct_I, which_N = torch.unique(item_N, return_inverse=True)
        table = self.item_table if self.shared_items else self.history_table
        items_ID = F.embedding(distinct_I, table, sparse=True)
        counts_B = torch.bincount(place_N, minlength=len(users_B))
        if self.pool == "mean":
            weights_N = (1 / counts_B.to(rows_BD))[place_N]
        else:
            keys_ID = torch.tanh(F.linear(items_ID, self.key_weight, self.key_bias))
            # F.embedding, as its backward pass sums on all cores, and that of an index does not
            scores_N = (F.embedding(which_N, keys_ID) * F.embedding(place_N, rows_BD)).sum(dim=1)
            weights_N = _softmax(scores_N, place_N, len(users_B))
        firsts_B = counts_B.cumsum(0) - counts_B
        pooled_BD = F.embedding_bag(which_N, items_ID, firsts_B, mode="sum", per_sample_weights=weights_N)
        return self.gamma * rows_BD + (1 - self.gamma) * F.linear(pooled_BD, self.value_weight)


def _softmax(scores_N: Tensor, place_N: Tensor, places: int) -> Tensor:
    """Over the scores of each place."""
    highest_B = scores_N.new_zeros(places).scatter_reduce(0, place_N, scores_N.detach(), "amax", include_self=False)
    raised_N = torch.exp(scores_N - highest_B[place_N])
    return raised_N / raised_N.new_zeros(places).index_add(0, place_N, raised_N).gather(0, place_N)
