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
    global batch, and the place in the sequence. A sequence takes as much of a stream as one of `max_length` would, so that it
    does not matter how long this worker's are. Without a batch nothing is dropped.
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

    def __call__(self, vectors_ND: Tensor, name: str) -> Tensor:
        """Of the vectors of all tokens, or of the last ones."""
        kept = self._kept(name, vectors_ND.shape[1])
        if kept is None:
            return vectors_ND
        kept_ND = kept[:, 0] if self.of_last else kept[self.tokens.sequence_N, self.tokens.place_N]
        return vectors_ND * kept_ND / (1 - self.share)

    def weights(self, name: str, heads: int) -> Tensor | None:
        """[S, queries, heads, max_length] which of attention's weights stay; None: all."""
        kept = self._kept(name, heads * self.max_length)
        return None if kept is None else kept.unflatten(2, (heads, self.max_length))

    def _kept(self, name: str, width: int) -> Tensor | None:
        """[S, places, width]"""
        if self.batch is None or not self.share:
            return None
        places, purpose = 1 if self.of_last else self.max_length, f"{self.batch.stream}{self.stream}dropout {name}"
        start, count = self.first * places * width, len(self.tokens) * places * width
        kept = draws.are_kept(self.batch.key, purpose, start, count, self.share)
        return torch.from_numpy(kept).to(self.tokens.items_N.device).view(-1, places, width)
