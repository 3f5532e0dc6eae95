"""Splits of the real logs as integer rows, straight from their files: for benchmarks that need no prepared dataset."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.parquet as pq

from components.data.interactions import Interactions
from tests.benchmarks import _common

FILES = {
    "gowalla": ("gowalla_lightgcn.parquet", 29_858, 40_981),
    "yelp2018": ("yelp2018_lightgcn.parquet", 31_668, 38_048),
    "coat": ("advinfonce_coat.parquet", 290, 295),
    "yahoo": ("advinfonce_yahoo_new.parquet", 14_382, 1_000),
}

SEQUENCES = {"beauty": "seq_beauty.parquet", "sports": "seq_sports_and_outdoors.parquet"}
HELD_OUT = 2  # last rows of each user


def read(log: str, split: str) -> Interactions:
    """The rows of a split, or of train+valid; ids are the file's own. Of a log of sequences: train, in order, valid and test,
    users' last rows.
    """
    name = SEQUENCES[log] if log in SEQUENCES else FILES[log][0]
    path = _common.data(name)
    if path is None:
        raise SystemExit(f"HARDNEG_DATA: takes a folder with {name}")
    if log in SEQUENCES:
        return _sequences(pq.read_table(path), split)
    _, users, items = FILES[log]
    table = pq.read_table(path, columns=["user_id", "item_id"], filters=[("split", "in", split.split("+"))])
    return Interactions.of(np.asarray(table["user_id"]), np.asarray(table["item_id"]), users, items)


def _sequences(table: Any, split: str) -> Interactions:
    user, item, position = (np.asarray(table[name]) for name in ("user_id", "item_id", "position"))
    order = np.lexsort([position, user])
    user, item = np.unique(user[order], return_inverse=True)[1], np.unique(item[order], return_inverse=True)[1]
    after = np.cumsum(np.bincount(user))[user] - np.arange(len(user))  # of a user's rows, this one and those that follow
    kept = {"train": after > HELD_OUT, "train+valid": after > 1, "valid": after == HELD_OUT, "test": after == 1}[split]
    return Interactions.of(user[kept], item[kept], int(user.max()) + 1, int(item.max()) + 1)
