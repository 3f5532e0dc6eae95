"""Splits of the real logs as integer rows, straight from their files: for benchmarks that need no prepared dataset."""

from __future__ import annotations

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


def read(log: str, split: str) -> Interactions:
    """The rows of a split; ids are the file's own."""
    name, users, items = FILES[log]
    path = _common.data(name)
    if path is None:
        raise SystemExit(f"HARDNEG_DATA: takes a folder with {name}")
    table = pq.read_table(path, columns=["user_id", "item_id"], filters=[("split", "=", split)])
    return Interactions.of(np.asarray(table["user_id"]), np.asarray(table["item_id"]), users, items)
