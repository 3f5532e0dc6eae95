"""Splits of the real logs as integer rows, straight from their files: for benchmarks that need no prepared dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.data import splits
from components.data.interactions import Interactions
from tests.benchmarks import _common

FILES = {
    "gowalla": ("gowalla_lightgcn.parquet", 29_858, 40_981),
    "yelp2018": ("yelp2018_lightgcn.parquet", 31_668, 38_048),
    "coat": ("advinfonce_coat.parquet", 290, 295),
    "yahoo": ("advinfonce_yahoo_new.parquet", 14_382, 1_000),
    "tiktok": ("tiktok_diffmm.parquet", 9_308, 6_710),
}

SEQUENCES = {"beauty": "seq_beauty.parquet", "sports": "seq_sports_and_outdoors.parquet"}
TIMED = {"kuairec": "kuairec_dros_test_sessions.parquet"}
NAMES = (*FILES, *SEQUENCES, *TIMED)
HELD_OUT = 2  # last rows of each user
VALID, TEST = 0.1, 0.2  # shares of each user's rows of a log with times, as in its recipes


def path(log: str) -> Path:
    """Ends with a line where HARDNEG_DATA has not its file."""
    name = FILES[log][0] if log in FILES else {**SEQUENCES, **TIMED}[log]
    found = _common.data(name)
    if found is None:
        raise SystemExit(f"HARDNEG_DATA: takes a folder with {name}")
    return found


def read(log: str, split: str) -> Interactions:
    """The rows of a split, or of train+valid; ids are the file's own. Of a log of sequences: train, in order, valid and test,
    users' last rows; so of one with times, their last shares.
    """
    if log in SEQUENCES:
        return _sequences(pq.read_table(path(log)), split)
    if log in TIMED:
        return _timed(pq.read_table(path(log)), split)
    _, users, items = FILES[log]
    table = pq.read_table(path(log), columns=["user_id", "item_id"], filters=[("split", "in", split.split("+"))])
    return Interactions.of(np.asarray(table["user_id"]), np.asarray(table["item_id"]), users, items)


def _sequences(table: Any, split: str) -> Interactions:
    user, item = _in_order(table, "position")
    after = np.cumsum(np.bincount(user))[user] - np.arange(len(user))  # of a user's rows, this one and those that follow
    kept = {"train": after > HELD_OUT, "train+valid": after > 1, "valid": after == HELD_OUT, "test": after == 1}[split]
    return Interactions.of(user[kept], item[kept], int(user.max()) + 1, int(item.max()) + 1)


def _timed(table: Any, split: str) -> Interactions:
    user, item = _in_order(table, "timestamp")
    firsts = np.sort(np.unique(user * (item.max() + 1) + item, return_index=True)[1])  # prepare keeps the first of repeats
    user, item = user[firsts], item[firsts]
    codes = splits.ratio(user, VALID, TEST, None)
    kept = np.isin(codes, [("train", "valid", "test").index(name) for name in split.split("+")])
    return Interactions.of(user[kept], item[kept], int(user.max()) + 1, int(item.max()) + 1)


def _in_order(table: Any, by: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Users and items, numbered from 0: rows by user, and in a user by a column."""
    user, item, place = (np.asarray(table[name]) for name in ("user_id", "item_id", by))
    order = np.lexsort([place, user])
    return np.unique(user[order], return_inverse=True)[1], np.unique(item[order], return_inverse=True)[1]
