"""Sequences without their padding: layers work on the places that hold something, attention alone sees a rectangle."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from components import draws
from components.training.batches import Batch, Histories


class Tokens:
    """The filled places of right-padded sequences, one after another: token n is place_N[n] of a sequence.

    An empty sequence has one token, its padding, so that every sequence has a last one.
    """

    def __init__(self, histories: Histories, padding: int) -> None:
        items_SL, lengths_S = histories.items_SL, histories.lengths_S.clamp(min=1)
        self.shape = items_SL.shape
        self._slot_N = (_places(items_SL) < lengths_S[:, None]).view(-1).nonzero().squeeze(1)
        self.items_N = items_SL.reshape(-1)[self._slot_N]
        self.place_N = self._slot_N % self.shape[1]
        self._firsts_S = lengths_S.cumsum(0) - lengths_S
        self._lasts_S = lengths_S - 1
        self._real_SL = (items_SL != padding) & (_places(items_SL) < lengths_S[:, None])

    def at(self, sequence_B: Tensor, place_B: Tensor) -> Tensor:
        """The tokens at some places."""
        return self._firsts_S[sequence_B] + place_B

    def last(self) -> Tensor:
        """[S] the last token of each sequence."""
        return self._firsts_S + self._lasts_S

    def pad(self, vectors_ND: Tensor) -> Tensor:
        """[S, L, D], 0 where there is no token."""
        flat = vectors_ND.new_zeros(self.shape.numel(), vectors_ND.shape[1]).index_copy(0, self._slot_N, vectors_ND)
        return flat.view(*self.shape, -1)

    def pack(self, vectors_SLD: Tensor) -> Tensor:
        """[N, D]; the gradient is that of F.embedding, which sums on all cores."""
        return F.embedding(self._slot_N, vectors_SLD.reshape(self.shape.numel(), -1))

    def pick(self, values_SLD: Tensor) -> Tensor:
        """[N, D] as `pack`, of what has no gradient."""
        return values_SLD.reshape(self.shape.numel(), -1)[self._slot_N]

    def visible(self, to_last: bool) -> Tensor:
        """[S, L, L] which places a place looks at: of its own and earlier ones those that hold an item; itself where none does.

        `to_last`: [S, 1, L], of the last token alone.
        """
        if to_last:
            own = (_places(self._real_SL) == self._lasts_S[:, None]).unsqueeze(1)
            seen = self._real_SL.unsqueeze(1)
        else:
            length = self.shape[1]
            own = torch.eye(length, dtype=torch.bool, device=self._real_SL.device)
            seen = torch.ones_like(own).tril() & self._real_SL.unsqueeze(1)
        return seen | (own & ~seen.any(2, keepdim=True))


@dataclass(frozen=True)
class Dropout:
    """Some coordinates 0, the others times 1 / (1 - share): keyed by (seed, epoch, step), a name, the sequence's place in the
    global batch, and the place in it. `places` is how many of these a sequence takes of a stream: however long this worker's are.
    """

    tokens: Tokens
    batch: Batch | None  # None: nothing is dropped
    first: int
    share: float
    places: int  # 1 where there is one vector for each sequence
    keys: int
    stream: str

    @property
    def is_on(self) -> bool:
        return self.batch is not None and self.share > 0

    def __call__(self, vectors_ND: Tensor, name: str) -> Tensor:
        """Of each token's vector, or of each sequence's."""
        if not self.is_on:
            return vectors_ND
        kept_SPD = self._kept(name, vectors_ND.shape[1])
        kept_ND = kept_SPD.squeeze(1) if self.places == 1 else self.tokens.pick(kept_SPD[:, : self.tokens.shape[1]])
        return vectors_ND * kept_ND / (1 - self.share)

    def weights(self, weights_SHQL: Tensor, name: str) -> Tensor:
        """Of attention's weights."""
        _, heads, queries, keys = weights_SHQL.shape
        kept_SPHK = self._kept(name, heads * self.keys).unflatten(2, (heads, self.keys))
        return weights_SHQL * kept_SPHK[:, :queries, :, :keys].transpose(1, 2) / (1 - self.share)

    def _kept(self, name: str, width: int) -> Tensor:
        """[S, places, width]"""
        assert self.batch is not None, "draws are a batch's"
        sequences, purpose = self.tokens.shape[0], f"{self.batch.stream}{self.stream}dropout {name}"
        size = self.places * width
        kept = draws.are_kept(self.batch.key, purpose, self.first * size, sequences * size, self.share)
        return torch.from_numpy(kept).to(self.tokens.items_N.device).view(sequences, self.places, width)


def _places(items_SL: Tensor) -> Tensor:
    return torch.arange(items_SL.shape[1], device=items_SL.device)
