"""Noise for a log: behaviours replaced by items that their user has nowhere; and the log with it as a source for `prepare`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.data.interactions import Interactions
from tests.benchmarks import _logs

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


def write_source(clean: Path, share: float, kind: Kind, seed: int, out: Path) -> None:
    """A log of sequences (user_id, item_id, position) with noise in all rows but each user's last two, which are held out."""
    table = pq.read_table(clean)
    (raw_users, user), (raw_items, item), held_out = _read(table)
    size = len(raw_users), len(raw_items)
    log, targets = (Interactions.of(user[here], item[here], *size) for here in (~held_out, held_out))
    item[~held_out] = replaced(log, targets, share, kind, seed).items
    columns = {"user_id": raw_users[user], "item_id": raw_items[item], "position": np.arange(len(user))}
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}")
    pq.write_table(pa.table(columns), partial)
    partial.rename(out)


def histories(clean: Path, dataset: Path) -> Interactions:
    """What a test's histories are without noise: all rows but each user's last one, in the ids of a dataset of another source.

    Items that it does not know, since noise took their last rows, are left out.
    """
    (raw_users, user), (raw_items, item), _ = _read(pq.read_table(clean))
    before = np.append(user[1:] == user[:-1], False)
    (user, users), (item, items) = (
        _ids(dataset / name, raw[column[before]])
        for name, raw, column in (("users.parquet", raw_users, user), ("items.parquet", raw_items, item))
    )
    known = (user >= 0) & (item >= 0)
    return Interactions.of(user[known], item[known], users, items)


def _ids(folder: Path, raw_N: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """(the ids of raw ids, -1 where there is none; how many there are)."""
    table = pq.read_table(folder, columns=["id", "raw"])
    raw, ids = np.asarray(table["raw"]), np.asarray(table["id"])
    order = np.argsort(raw)
    place = np.minimum(np.searchsorted(raw, raw_N, sorter=order), len(raw) - 1)
    found = order[place]
    return np.where(raw[found] == raw_N, ids[found], -1), len(raw)


def _read(table: pa.Table) -> tuple[Any, Any, NDArray[np.bool_]]:
    """((raw ids, users), (raw ids, items), whether it is one of a user's last), rows by user and position."""
    order = np.lexsort([np.asarray(table["position"]), np.asarray(table["user_id"])])
    users, items = (np.unique(np.asarray(table[name])[order], return_inverse=True) for name in ("user_id", "item_id"))
    after = np.cumsum(np.bincount(users[1]))[users[1]] - np.arange(len(order))
    return users, items, after <= _logs.HELD_OUT


def _pairs(users: NDArray[np.integer], items: NDArray[np.integer], num_items: int) -> NDArray[np.int64]:
    return users.astype(np.int64) * num_items + items
