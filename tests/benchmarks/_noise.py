"""Noise for a log: behaviours replaced by items that their user has nowhere; and the log with it as a source for `prepare`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.config import Columns
from components.data import interactions
from components.data.interactions import Interactions

Kind = Literal["random", "popular"]
KINDS: tuple[Kind, ...] = ("random", "popular")
ROUNDS = 1000  # of draws, at most


def replaced(log: Interactions, targets: Interactions, share: float, kind: Kind, seed: int) -> Interactions:
    """The log with floor(share * rows) of its rows, drawn at random, replaced, each by an item of its own.

    random: uniform over the catalogue; popular: in proportion to the items' rows in the log. What the user has in `log` or in
    `targets`, or has got as a substitute, is drawn again. The rows and their substitutes do not depend on the share: the noise
    of a small one is part of that of a larger one. All is keyed by the seed; the rows do not depend on the kind.

    Raises:
        ValueError: a user has so many items that there are not substitutes enough.
    """
    chances_I = log.item_degrees() if kind == "popular" else np.ones(log.num_items, np.int64)
    ends_I, random = np.cumsum(chances_I), np.random.default_rng([seed, KINDS.index(kind)])
    known = np.concatenate([_pairs(log.users, log.items, log.num_items), _pairs(targets.users, targets.items, log.num_items)])
    substitute_N = np.full(len(log), -1)
    for _ in range(ROUNDS):
        open_N = np.flatnonzero(substitute_N < 0)
        if not len(open_N):
            break
        drawn = np.searchsorted(ends_I, random.integers(0, ends_I[-1], len(open_N)), side="right")
        pairs = _pairs(log.users[open_N], drawn, log.num_items)
        _, first = np.unique(pairs, return_index=True)  # of a user's equal draws
        fresh = first[~np.isin(pairs[first], known)]
        substitute_N[open_N[fresh]] = drawn[fresh]
        known = np.concatenate([known, pairs[fresh]])
    else:
        user = int(log.users[np.flatnonzero(substitute_N < 0)[0]])
        raise ValueError(f"noise: got user {user} with {len(log.items_of(user))} of {log.num_items} items, takes fewer")
    chosen = np.random.default_rng([seed, len(KINDS)]).permutation(len(log))[: int(share * len(log))]
    items = np.array(log.items)
    items[chosen] = substitute_N[chosen]
    return dataclasses.replace(log, items=items, cache=None)


def write_source(dataset: Path, columns: Columns, share: float, kind: Kind, seed: int, out: Path) -> None:
    """A prepared log as a source for `prepare`, with noise in the rows of train; valid and test stay, a user's last rows.

    A time is a row's place among the user's: so the source is cut where the log was.
    """
    train, *held_out = (interactions.load(dataset, split) for split in ("train", "valid", "test"))
    targets = _together(*held_out)
    whole = _together(replaced(train, targets, share, kind, seed), *held_out)
    raw_users, raw_items = (_raw(dataset / name) for name in ("users.parquet", "items.parquet"))
    place = np.arange(len(whole)) - whole.offsets[whole.users]
    table = {columns.user: raw_users[whole.users], columns.item: raw_items[whole.items], columns.time or "position": place}
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}")
    pq.write_table(pa.table(table), partial)
    partial.rename(out)


def histories(clean: Path, dataset: Path) -> Interactions:
    """What a test's histories are without noise: train and valid of the clean dataset, in the ids of that of a noisy source.

    Items that it does not know, since noise took their last rows, are left out.
    """
    log = interactions.load(clean, "train", "valid")
    (user, users), (item, items) = (
        _ids(dataset / name, _raw(clean / name)[column])
        for name, column in (("users.parquet", log.users), ("items.parquet", log.items))
    )
    known = (user >= 0) & (item >= 0)
    return Interactions.of(user[known], item[known], users, items)


def _together(*logs: Interactions) -> Interactions:
    """A user's rows of one after those of the other."""
    users, items = (np.concatenate([getattr(log, name) for log in logs]) for name in ("users", "items"))
    return Interactions.of(users, items, logs[0].num_users, logs[0].num_items)


def _raw(folder: Path) -> NDArray[Any]:
    """Raw ids by id."""
    table = pq.read_table(folder, columns=["id", "raw"]).sort_by("id")
    return np.asarray(table["raw"])


def _ids(folder: Path, raw_N: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """(the ids of raw ids, -1 where there is none; how many there are)."""
    raw = _raw(folder)
    order = np.argsort(raw)
    found = order[np.minimum(np.searchsorted(raw, raw_N, sorter=order), len(raw) - 1)]
    return np.where(raw[found] == raw_N, found, -1), len(raw)


def _pairs(users: NDArray[np.integer], items: NDArray[np.integer], num_items: int) -> NDArray[np.int64]:
    return users.astype(np.int64) * num_items + items
