"""What is ranked: anything that gives every item of the catalogue a score for a user."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from components.data import histories
from components.data.interactions import Interactions
from components.errors import InputError
from components.training.batches import Histories


class Scorer(Protocol):
    """Scores of a range of the catalogue for a tile of users; larger is better, -inf is never recommended.

    `scores` may write into `out` [T, stop - start] and return it, or return a tensor of its own, which the caller may
    overwrite. A user's scores must not depend on the other users of the tile.
    """

    @property
    def num_items(self) -> int: ...

    def queries(self, users_T: Tensor) -> Tensor:
        """[T, Dq] what `scores` needs of each user."""
        ...

    def scores(self, queries_TD: Tensor, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        """[T, stop - start] scores of items start..stop-1."""
        ...

    def buffer(self, size: int) -> Tensor:
        """[size] uninitialised, of the type and on the device of the scores."""
        ...


class Factors:
    """Inner products of two tables: score(u, i) = <user_u, item_i>; what every embedding model exports.

    Args:
        users_UD: one row per user.
        items_ID: one row per item, of the same width, type and device.
    """

    def __init__(self, users_UD: Tensor, items_ID: Tensor) -> None:
        if users_UD.ndim != 2 or items_ID.ndim != 2 or users_UD.shape[1] != items_ID.shape[1]:
            shapes = f"{tuple(users_UD.shape)} and {tuple(items_ID.shape)}"
            raise ValueError(f"Factors: got tables of shapes {shapes}, takes [users, width] and [items, width]")
        self.users_UD = users_UD.detach().contiguous()
        self.items_ID = items_ID.detach().contiguous()

    @property
    def num_items(self) -> int:
        return len(self.items_ID)

    def queries(self, users_T: Tensor) -> Tensor:
        return self.users_UD[users_T.to(self.users_UD.device)]

    def scores(self, queries_TD: Tensor, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        return torch.mm(queries_TD, self.items_ID[start:stop].T, out=out)

    def buffer(self, size: int) -> Tensor:
        return self.items_ID.new_empty(size)


class Encoded:
    """Inner products of encoded histories and a table of items: score(u, i) = <f(h_u), item_i>.

    They do not depend on the tile's other users but for rounding. Of an empty history the model knows nothing: its scores are
    -inf, so that nothing is listed (equal scores would list the lowest ids). Its query is inf throughout.

    Args:
        encoder: has a window.
        log: what it reads of a user: the last rows, as many as its window holds.

    Raises: InputError where these are histories over other items than the encoder's.
    """

    def __init__(self, encoder: Any, log: Interactions) -> None:
        self.items_ID = encoder.scoring_items().contiguous()
        if log.num_items != self.num_items:
            raise InputError(f"histories: got items of a catalogue of {log.num_items}, takes the {self.num_items} of the model")
        self.encoder, self.log = encoder, log

    @property
    def num_items(self) -> int:
        return len(self.items_ID)

    @torch.no_grad()
    def queries(self, users_T: Tensor) -> Tensor:
        read = histories.of_users(self.log, users_T.cpu().numpy(), self.encoder.window.length)
        items_TL, lengths_T = (torch.from_numpy(part).to(self.items_ID.device) for part in read)
        vectors_TD = self.encoder.encode(Histories(items_TL, lengths_T, first=0))
        return vectors_TD.masked_fill((lengths_T == 0).unsqueeze(1), torch.inf)

    def scores(self, queries_TD: Tensor, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        scores_TS = torch.mm(queries_TD, self.items_ID[start:stop].T, out=out)
        scores_TS[(queries_TD == torch.inf).all(dim=1)] = -torch.inf
        return scores_TS

    def buffer(self, size: int) -> Tensor:
        return self.items_ID.new_empty(size)


def of(encoder: Any, log: Interactions) -> Factors | Encoded:
    """The scorer of a trained encoder; `log` is what one that reads histories reads."""
    return Factors(*encoder.scoring_tables()) if encoder.window is None else Encoded(encoder, log)
