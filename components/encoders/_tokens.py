"""Sequences without their padding: layers work on the places that hold something, attention alone on rectangles of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from components import draws
from components.training.batches import Batch, Histories


class Rectangle(NamedTuple):
    """Sequences whose lengths are padded to the same power of two, so that little is padding."""

    sequences_G: Tensor
    tokens_GW: Tensor  # of each place; past a sequence's end, its last one
    seen_GQW: Tensor  # which places a place looks at; Q is W, or 1: the last


class Tokens:
    """The filled places of right-padded sequences, one after another: token n holds items_N[n], at place_N[n] of sequence_N[n].

    An empty sequence has one token, its padding, so that every sequence has a last one.
    """

    def __init__(self, histories: Histories, padding: int) -> None:
        lengths_S = histories.lengths_S.clamp(min=1)
        self.lasts_S = lengths_S.cumsum(0) - 1
        self._firsts_S = self.lasts_S - lengths_S + 1
        self._lengths_S, self._real_SL = lengths_S, histories.items_SL != padding
        self.sequence_N = torch.arange(len(lengths_S), device=lengths_S.device).repeat_interleave(lengths_S)
        self.place_N = torch.arange(len(self.sequence_N), device=lengths_S.device) - self._firsts_S[self.sequence_N]
        self.items_N = histories.items_SL[self.sequence_N, self.place_N]

    def __len__(self) -> int:
        """The number of sequences."""
        return len(self.lasts_S)

    def at(self, sequence_B: Tensor, place_B: Tensor) -> Tensor:
        """The tokens at some places."""
        return self._firsts_S[sequence_B] + place_B

    @cached_property
    def rectangles(self) -> list[Rectangle]:
        """All sequences; a place looks at those up to itself that hold an item, and at itself where none does."""
        return list(self._rectangles())

    @cached_property
    def last_rows(self) -> list[Rectangle]:
        """The same, of the last place of each sequence alone."""
        rows = []
        for group in self.rectangles:
            last_G11 = (self._lengths_S[group.sequences_G] - 1).view(-1, 1, 1)
            rows.append(group._replace(seen_GQW=group.seen_GQW.take_along_dim(last_G11, 1)))
        return rows

    def _rectangles(self) -> Iterator[Rectangle]:
        exponent_S = torch.log2(self._lengths_S.double()).ceil().long()
        for exponent in exponent_S.unique().tolist():
            group_G = (exponent_S == exponent).nonzero().squeeze(1)
            width = min(2**exponent, self._real_SL.shape[1])
            place_W = torch.arange(width, device=group_G.device)
            last_G1 = self._lengths_S[group_G].unsqueeze(1) - 1
            real_GW = self._real_SL[group_G, :width] & (place_W <= last_G1)
            own_WW = torch.eye(width, dtype=torch.bool, device=group_G.device)
            seen_GWW = real_GW.unsqueeze(1) & torch.ones_like(own_WW).tril()
            seen_GWW |= own_WW & ~seen_GWW.any(2, keepdim=True)
            yield Rectangle(group_G, self._firsts_S[group_G].unsqueeze(1) + place_W.minimum(last_G1), seen_GWW)

    @cached_property
    def slots(self) -> Tensor:
        """[N] where each token lies in all rectangles, end to end."""
        start_S, start = torch.empty_like(self.lasts_S), 0
        for sequences_G, tokens_GW, _ in self.rectangles:
            height, width = tokens_GW.shape
            start_S[sequences_G] = start + width * torch.arange(height, device=start_S.device)
            start += tokens_GW.numel()
        return start_S[self.sequence_N] + self.place_N

    @cached_property
    def last_slots(self) -> Tensor:
        """[S] where each sequence's row lies in all `last_rows`, end to end."""
        return torch.cat([self.lasts_S[:0], *(group.sequences_G for group in self.last_rows)]).argsort()


@dataclass(frozen=True)
class Dropout:
    """Some coordinates 0, the others times 1 / (1 - share), keyed by (seed, epoch, step), a name, the sequence's place in the
    global batch, and the place in the sequence. A sequence has as much of a stream as one of `max_length` would, so that it
    does not matter how long this worker's are; drawn is what there are places for. Without a batch nothing is dropped.
    """

    tokens: Tokens
    batch: Batch | None
    share: float
    first: int  # of the sequences, in the global batch
    max_length: int
    stream: str
    of_last: bool = False  # whether there is one vector for each sequence

    def at_last(self) -> Dropout:
        return replace(self, of_last=True)

    def __call__(self, vectors_MD: Tensor, name: str) -> Tensor:
        """Of the vectors of all tokens, or of the last ones."""
        if self.batch is None or not self.share:
            return vectors_MD
        width = vectors_MD.shape[1]
        return vectors_MD * self._kept(self.batch, name, self._rows, width, width) / (1 - self.share)

    def weights(self, name: str, queries_GQ: Tensor, heads: int, width: int) -> Tensor | None:
        """[G, heads, Q, W] which weights stay of attention by some of the vectors for the first places; None: all."""
        if self.batch is None or not self.share:
            return None
        rows_GHQ = self._rows[queries_GQ].unsqueeze(1) * heads + torch.arange(heads, device=queries_GQ.device).view(-1, 1)
        kept_NW = self._kept(self.batch, name, rows_GHQ.view(-1), width, self.max_length)
        return kept_NW.view(*rows_GHQ.shape, width)

    @cached_property
    def _rows(self) -> Tensor:
        """Each vector's row of a stream."""
        rows_N = (self.tokens.sequence_N + self.first) * self.max_length + self.tokens.place_N
        return rows_N[self.tokens.lasts_S] if self.of_last else rows_N

    def _kept(self, batch: Batch, name: str, rows_N: Tensor, width: int, row_width: int) -> Tensor:
        return draws.are_kept(batch.key, f"{batch.stream}{self.stream}dropout {name}", rows_N, width, row_width, self.share)
