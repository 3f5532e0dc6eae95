"""A trained model without its dataset: raw ids in, the ranking's lists of raw ids out.

Its folder holds nothing that runs when it is read:

    recipe.json  model.safetensors  items.parquet      and, of an encoder that knows users: users.parquet  seen.safetensors

The weights are those of an encoder that reads histories; of one that knows users, the two tables that are ranked by, so that no
graph has to come along. `raw` holds the source's ids by the model's; seen.safetensors, all that users have met, by rows (CSR).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from components import catalog, storage
from components.config import Recipe
from components.data.interactions import Interactions
from components.errors import InputError
from components.evaluation.ranking import TILE, Ranker
from components.evaluation.scorers import Encoded, Factors
from components.training import checkpoint

RECIPE, ITEMS, USERS, SEEN = "recipe.json", "items.parquet", "users.parquet", "seen.safetensors"
NAMED = 5  # of ids that are refused


class Lists(NamedTuple):
    """A list for each row asked for, best item first; shorter than k where candidates run out."""

    items: list[list[Any]]
    scores: list[list[float]]


def save(folder: Path, recipe: Recipe, encoder: Any, known: Interactions, raw_users: pa.Array, raw_items: pa.Array) -> None:
    """Writes the model. `known` is what users have met, and are not shown again; raw ids are in the order of the model's."""
    folder.mkdir(parents=True)
    storage.write_text(folder / RECIPE, recipe.to_json())
    pq.write_table(pa.table({"raw": raw_items}), folder / ITEMS, compression="zstd")
    if encoder.window is not None:
        checkpoint.save_model(folder / checkpoint.MODEL, encoder)
        return
    users_UD, items_ID = (table.detach().cpu().contiguous() for table in encoder.scoring_tables())
    save_file({"users": users_UD, "items": items_ID}, folder / checkpoint.MODEL)
    save_file({name: torch.tensor(getattr(known, name)) for name in ("items", "offsets")}, folder / SEEN)
    pq.write_table(pa.table({"raw": raw_users}), folder / USERS, compression="zstd")


def load(folder: Path) -> OfUsers | OfHistories:
    """The model of such a folder."""
    return OfUsers(folder) if (folder / USERS).is_file() else OfHistories(folder)


class OfUsers:
    """Lists for users that the model knows."""

    column = "user"

    def __init__(self, folder: Path) -> None:
        tables, seen = (checkpoint.load_tensors(folder / name) for name in (checkpoint.MODEL, SEEN))
        self._raw_items, self._users = _raw(folder / ITEMS), pd.Index(_raw(folder / USERS))
        self._scorer = Factors(tables["users"], tables["items"])
        offsets = seen["offsets"].numpy()
        users = np.repeat(np.arange(len(self._users), dtype=np.int32), np.diff(offsets))
        self._seen = Interactions(len(self._users), len(self._raw_items), users, seen["items"].numpy(), offsets)

    def lists(self, raw_users: Sequence[Any], k: int) -> Lists:
        """What `recommend` writes for these users; what they were known to have met when the model was made is not listed.

        Raises:
            InputError: a user is unknown, or k exceeds the catalogue.
        """
        ranker = Ranker(self._scorer, self._seen, k)
        ids = self._users.get_indexer(pd.Index(raw_users))
        unknown = list(dict.fromkeys(str(raw) for raw, place in zip(raw_users, ids, strict=True) if place < 0))
        if unknown:
            more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
            raise InputError(f"user: got {', '.join(unknown[:NAMED])}{more}, takes ids of users that the model was made of")
        return _lists(ranker, ids, self._raw_items)


class OfHistories:
    """Lists for whoever has a history, the oldest item first."""

    column = "history"

    def __init__(self, folder: Path) -> None:
        self._raw_items = _raw(folder / ITEMS)
        self._items = pd.Index(self._raw_items)
        spec = storage.read_json(folder / RECIPE)["encoder"]
        nobody = Interactions.of([], [], 0, len(self._items))
        self._encoder = catalog.build("encoder", spec, nobody, torch.Generator().manual_seed(0))
        self._encoder.load_state_dict(checkpoint.load_tensors(folder / checkpoint.MODEL))
        self._encoder.eval()

    def lists(self, histories: Sequence[Sequence[Any]], k: int) -> Lists:
        """What `recommend` writes for users of these histories, whose items are not listed again.

        Items that the model does not know are left out, as preparation leaves them out; of what is then empty nothing is known,
        and nothing is listed.

        Raises:
            InputError: k exceeds the catalogue.
        """
        item_N = self._items.get_indexer(pd.Index([item for history in histories for item in history]))
        row_N = np.repeat(np.arange(len(histories)), np.array([len(history) for history in histories], np.int64))
        known = item_N >= 0
        log = Interactions.of(row_N[known], item_N[known], len(histories), len(self._items))
        return _lists(Ranker(Encoded(self._encoder, log), log, k), np.arange(len(histories)), self._raw_items)


def _lists(ranker: Ranker, users: NDArray[np.integer], raw_items: NDArray[Any]) -> Lists:
    found = Lists([], [])
    for start in range(0, len(users), TILE):
        for items_K, scores_K in zip(*ranker.top(users[start : start + TILE]), strict=True):
            listed = items_K >= 0
            found.items.append(raw_items[items_K[listed]].tolist())
            found.scores.append(scores_K[listed].astype(np.float32).tolist())
    return found


def _raw(path: Path) -> NDArray[Any]:
    return pq.read_table(path)["raw"].to_numpy()
