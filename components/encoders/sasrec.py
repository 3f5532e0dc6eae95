"""SASRec: a causal transformer over the items of a history."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from components.data.histories import Window
from components.data.interactions import Interactions
from components.encoders import Embedded
from components.encoders._common import new_table
from components.encoders._tokens import Dropout, Tokens
from components.errors import InputError
from components.training.batches import Batch, Histories

EPSILON = 1e-12  # of layer normalisation


class SASRec(nn.Module):
    """score(h, i) = <x_n, e_i>, x_n the last layer at the history's last place n; one table of items for both.

    x_p = drop(LN(e_p + position_p)), p from 0 at the history's first item; then `layers` times, post-LN:
        y_p = LN(x_p + drop(W_o attention(x)_p)),  x_p = LN(y_p + drop(W_2 gelu(W_1 y_p)))
    where attention(x)_p = sum_{q <= p} a_pq W_v x_q in each of `heads`, a_p = drop(softmax_q <W_q x_p, W_k x_q> / sqrt(D / heads)).
    Linear layers have biases; they, and tables, begin N(0, init_std^2), biases at 0. Padding and places after p have no part in
    x_p; a place in the middle that holds the padding's id (a view masked it) is looked at by no other. Where a batch's rows are
    whole histories, the last layer is computed at their last places alone.

    Shapes: item_table [num_items + 1, dim], its last row the padding's; positions [max_length, dim].
    Source: Kang and McAuley 2018, arXiv 1808.09781, in the form of RecBole, DuoRec and MCLRec (Qin et al. 2023, arXiv
    2304.07763): post-LN, gelu, initial values, dropout on embeddings, weights and both outputs.
    Differs: the padding is no candidate (there, a column of the softmax); without a history x is 0. Dropout draws are keyed by
    the row and the place, so that they do not depend on the number of workers, and drop with probabilities of 16 bits. L2 on
    rows and positives is taken on candidates' rows, not on those of histories.
    """

    def __init__(
        self,
        train: Interactions,
        generator: torch.Generator,
        /,
        *,
        dim: Annotated[int, Field(ge=1)] = 64,
        layers: Annotated[int, Field(ge=1, le=16)] = 2,
        heads: Annotated[int, Field(ge=1)] = 2,
        inner_dim: Annotated[int, Field(ge=1)] = 256,
        max_length: Annotated[int, Field(ge=1)] = 50,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5,
        init_std: Annotated[float, Field(gt=0)] = 0.02,
    ) -> None:
        if dim % heads:
            raise InputError(f"encoder.heads: got {heads}, takes a number that divides encoder.dim, {dim}")
        super().__init__()
        self.window = Window(max_length)
        self.num_items, self.dropout = train.num_items, dropout
        self.item_table = new_table(train.num_items + 1, dim, "normal", init_std, generator)
        self.positions = new_table(max_length, dim, "normal", init_std, generator)
        self.norm = nn.LayerNorm(dim, EPSILON)
        self.blocks = nn.ModuleList(_Block(dim, heads, inner_dim, init_std, generator) for _ in range(layers))

    def queries(self, batch: Batch) -> Embedded:
        """The vectors of a batch's rows, [B, D]."""
        assert batch.histories is not None, "batches are made with the encoder's window"
        return Embedded(self.encode(batch.histories, batch), self.item_table[:0])

    def items(self, ids: Tensor) -> Embedded:
        """The vectors of items, [*ids.shape, D]."""
        rows = F.embedding(ids, self.item_table, sparse=True)
        return Embedded(rows, rows)

    def scoring_items(self) -> Tensor:
        """[num_items, D], without a gradient."""
        return self.item_table.detach()[: self.num_items]

    def encode(self, histories: Histories, batch: Batch | None = None, stream: str = "") -> Tensor:
        """[B, D] the vectors of histories; with dropout where a batch is given, the draws of `stream` in it."""
        tokens, length = Tokens(histories, self.num_items), self.window.length
        drop = Dropout(tokens, batch, histories.first, self.dropout, places=length, keys=length, stream=stream)
        items_ND = F.embedding(tokens.items_N, self.item_table, padding_idx=self.num_items, sparse=True)
        x_ND = drop(self.norm(items_ND + F.embedding(tokens.place_N, self.positions)), "embeddings")
        *inner, last = self.blocks
        for n, block in enumerate(inner):
            x_ND = block(x_ND, tokens, drop, f"{n}")
        if histories.sequence_B is None:
            x_SD = last(x_ND, tokens, replace(drop, places=1), f"{len(inner)}", to_last=True)
            return x_SD * (histories.lengths_S > 0).unsqueeze(1)
        assert histories.place_B is not None, "a place in each row's sequence"
        x_ND = last(x_ND, tokens, drop, f"{len(inner)}")
        return F.embedding(tokens.at(histories.sequence_B, histories.place_B), x_ND)

    def index_bytes(self, rows: int, users: int, items: int) -> int:
        """Nothing beside the tables: histories are the mapped rows."""
        return 0


class _Block(nn.Module):
    """One layer, for all tokens, or for the last of each sequence."""

    def __init__(self, dim: int, heads: int, inner_dim: int, init_std: float, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (_linear(dim, dim, init_std, generator) for _ in range(4))
        self.widen = _linear(dim, inner_dim, init_std, generator)
        self.narrow = _linear(inner_dim, dim, init_std, generator)
        self.norm_attention, self.norm_out = nn.LayerNorm(dim, EPSILON), nn.LayerNorm(dim, EPSILON)

    def forward(self, x_ND: Tensor, tokens: Tokens, drop: Dropout, name: str, to_last: bool = False) -> Tensor:
        """[N, D], or [S, D] `to_last`."""
        y_MD = F.embedding(tokens.last(), x_ND) if to_last else x_ND
        q_SQD = self.query(y_MD).unsqueeze(1) if to_last else tokens.pad(self.query(y_MD))
        k_SLD, v_SLD = tokens.pad(self.key(x_ND)), tokens.pad(self.value(x_ND))
        a_SQD = self._attention(q_SQD, k_SLD, v_SLD, tokens.visible(to_last), drop, f"weights {name}")
        a_MD = a_SQD.squeeze(1) if to_last else tokens.pack(a_SQD)
        y_MD = self.norm_attention(y_MD + drop(self.out(a_MD), f"attention {name}"))
        return self.norm_out(y_MD + drop(self.narrow(F.gelu(self.widen(y_MD))), f"out {name}"))

    def _attention(
        self, q_SQD: Tensor, k_SLD: Tensor, v_SLD: Tensor, seen_SQL: Tensor, drop: Dropout, name: str
    ) -> Tensor:
        """[S, Q, D]. torch's own drops by the process's generator, not by keys: with dropout it is spelt out."""
        q, k, v = (each.unflatten(2, (self.heads, -1)).transpose(1, 2) for each in (q_SQD, k_SLD, v_SLD))  # [S, H, ., D / H]
        seen = seen_SQL.unsqueeze(1)
        if drop.is_on:
            scores = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).masked_fill(~seen, -torch.inf)
            attended = drop.weights(torch.softmax(scores, dim=3), name) @ v
        else:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return attended.transpose(1, 2).flatten(2)


def _linear(width: int, out: int, init_std: float, generator: torch.Generator) -> nn.Linear:
    linear = nn.utils.skip_init(nn.Linear, width, out)  # torch's own start would draw from the process's generator
    nn.init.normal_(linear.weight, std=init_std, generator=generator)
    nn.init.zeros_(linear.bias)
    return linear
