"""SASRec: a causal transformer over the items of a history."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from components.data.histories import Window
from components.data.interactions import Interactions
from components.encoders._common import new_table
from components.encoders._reader import Reader
from components.encoders._tokens import Dropout, Tokens
from components.errors import InputError
from components.training.batches import Batch, Histories

EPSILON = 1e-12  # of layer normalisation


class SASRec(Reader):
    """score(h, i) = <x_n, e_i>, x_n the last layer at the history's last place n; one table of items for both.

    x_p = drop(LN(e_p + position_p)), p from 0 at the history's first item; then `layers` times, post-LN:
        y_p = LN(x_p + drop(W_o attention(x)_p)),  x_p = LN(y_p + drop(W_2 gelu(W_1 y_p)))
    attention(x)_p = sum_{q <= p} a_pq W_v x_q,  a_p = drop(softmax_q <W_q x_p, W_k x_q> / sqrt(D / heads)), in each of `heads`.
    Linear layers have biases; they, and tables, begin N(0, init_std^2), biases at 0. Padding and places after p have no part in
    x_p; a place in the middle that holds the padding's id (a view masked it) is looked at by no other. Where a batch's rows are
    whole histories, the last layer is computed at their last places alone.

    Shapes: item_table [num_items + 2, dim], its last rows the padding's and a mask's; positions [max_length, dim].
    Raises: InputError where `heads` do not divide `dim`.
    Source: Kang and McAuley 2018, arXiv 1808.09781, in the form of RecBole, DuoRec and MCLRec (Qin et al. 2023, arXiv
    2304.07763): post-LN, gelu, initial values, dropout on embeddings, weights and both outputs.
    Differs: the padding is no candidate (there, a column of the softmax); without a history x is 0. Dropout draws are keyed by
    the row and the place, so that they do not depend on the number of workers, and drop with probabilities of 16 bits: where
    weights are dropped, attention is spelt out, for torch's own would draw by the process's generator. L2 on rows and
    positives is taken on candidates' rows, not on those of histories.
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
        self.item_table = new_table(train.num_items + 2, dim, "normal", init_std, generator)
        self.positions = new_table(max_length, dim, "normal", init_std, generator)
        self.norm = nn.LayerNorm(dim, EPSILON)
        self.blocks = nn.ModuleList(_Block(dim, heads, inner_dim, init_std, generator) for _ in range(layers))

    def encode(self, histories: Histories, batch: Batch | None = None, stream: str = "") -> Tensor:
        """[B, D] the vectors of histories; with dropout where a batch is given, the draws of `stream` in it."""
        tokens = Tokens(histories, self.num_items)
        drop = Dropout(tokens, batch, self.dropout, histories.first, self.window.length, stream)
        items_ND = F.embedding(tokens.items_N, self.item_table, padding_idx=self.num_items, sparse=True)
        x_ND = drop(self.norm(items_ND + F.embedding(tokens.place_N, self.positions)), "embeddings")
        *inner, last = self.blocks
        for n, block in enumerate(inner):
            x_ND = block(x_ND, tokens, drop, f"{n}")
        if histories.sequence_B is None:
            x_SD = last(x_ND, tokens, drop.at_last(), f"{len(inner)}")
            return x_SD * (histories.lengths_S > 0).unsqueeze(1)
        assert histories.place_B is not None, "a place in each row's sequence"
        x_ND = last(x_ND, tokens, drop, f"{len(inner)}")
        return F.embedding(tokens.at(histories.sequence_B, histories.place_B), x_ND)

    def step_bytes(self, sequences: int, width: int) -> int:
        """Vectors of places in each layer, and attention's weights of places for places, which, dropped, are there twice."""
        length, dim, layers = self.window.length, self.positions.shape[1], len(self.blocks)
        block: Any = self.blocks[0]
        inner_dim, heads = block.widen.out_features, block.heads
        of_places = length * (4 * dim + layers * (10 * dim + 3 * inner_dim))
        return sequences * (of_places + layers * heads * length * length * 3) * width

    @staticmethod
    def reads_order(_arguments: Mapping[str, Any]) -> bool:
        """Always."""
        return True

    def index_bytes(self, rows: int, users: int, items: int) -> int:
        """Nothing beside the tables: histories are the mapped rows."""
        return 0


class _Block(nn.Module):
    """One layer, for all tokens, or for the last one of each sequence."""

    def __init__(self, dim: int, heads: int, inner_dim: int, init_std: float, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.out = (_linear(dim, dim, init_std, generator) for _ in range(2))
        self.key_value = _linear(dim, 2 * dim, init_std, generator)
        self.widen = _linear(dim, inner_dim, init_std, generator)
        self.narrow = _linear(inner_dim, dim, init_std, generator)
        self.norm_attention, self.norm_out = nn.LayerNorm(dim, EPSILON), nn.LayerNorm(dim, EPSILON)

    def forward(self, x_ND: Tensor, tokens: Tokens, drop: Dropout, name: str) -> Tensor:
        """[N, D], or [S, D] where `drop` is of the last ones."""
        y_MD = F.embedding(tokens.lasts_S, x_ND) if drop.of_last else x_ND
        a_MD = self._attention(self.query(y_MD), self.key_value(x_ND), tokens, drop, f"weights {name}")
        y_MD = self.norm_attention(y_MD + drop(self.out(a_MD), f"attention {name}"))
        return self.norm_out(y_MD + drop(self.narrow(F.gelu(self.widen(y_MD))), f"out {name}"))

    def _attention(self, q_MD: Tensor, kv_NE: Tensor, tokens: Tokens, drop: Dropout, name: str) -> Tensor:
        """[M, D]. torch's own would drop by the process's generator, not by keys: with dropout it is spelt out."""
        parts = [q_MD[:0]]
        for group in tokens.last_rows if drop.of_last else tokens.rectangles:
            own_GQ = group.sequences_G.unsqueeze(1) if drop.of_last else group.tokens_GW
            read = (F.embedding(own_GQ, q_MD), *F.embedding(group.tokens_GW, kv_NE).chunk(2, dim=2))
            q, k, v = (each.unflatten(2, (self.heads, -1)).transpose(1, 2) for each in read)  # [G, heads, Q or W, D / heads]
            seen, kept = group.seen_GQW.unsqueeze(1), drop.weights(name, own_GQ, self.heads, k.shape[2])
            if kept is None:
                a = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
            else:
                weights = torch.softmax((q @ k.mT / math.sqrt(q.shape[3])).masked_fill(~seen, -torch.inf), dim=3)
                a = (weights * kept / (1 - drop.share)) @ v
            parts.append(a.transpose(1, 2).reshape(-1, q_MD.shape[1]))
        return F.embedding(tokens.last_slots if drop.of_last else tokens.slots, torch.cat(parts))


def _linear(width: int, out: int, init_std: float, generator: torch.Generator) -> nn.Linear:
    linear = nn.utils.skip_init(nn.Linear, width, out)  # torch's own start would draw from the process's generator
    assert isinstance(linear, nn.Linear)
    nn.init.normal_(linear.weight, std=init_std, generator=generator)
    nn.init.zeros_(linear.bias)
    return linear
