"""A dataset's rows as training sees them: whose, and in which order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import storage
from components.data import interactions

ROWS = {  # user, item, time; users 0 and 1 are in the first shard, 2 in the second
    "train": [[(0, 10, 5), (0, 11, 9), (1, 12, 3)], [(2, 13, 1), (2, 14, 4)]],
    "valid": [[(0, 15, 7), (0, 16, 9)], [(2, 17, 1)]],
    "test": [[(0, 18, 6), (1, 19, 2)], []],
}


@pytest.fixture(params=[True, False])
def dataset(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, bool]:
    """A finished dataset, with times or without."""
    monkeypatch.setenv("HARDNEG_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "dataset"
    names = {"user": pa.int32(), "item": pa.int32(), "time": pa.int64()}
    for split, shards in ROWS.items():
        (folder / split).mkdir(parents=True)
        for n, rows in enumerate(shards):
            table = pa.table({name: pa.array([row[k] for row in rows], kind) for k, (name, kind) in enumerate(names.items())})
            pq.write_table(table if request.param else table.drop_columns("time"), folder / split / f"part-{n:05d}.parquet")
    storage.finish(folder, {"kind": "dataset", "num_users": 4, "num_items": 20, "has_time": request.param})
    return folder, request.param


@pytest.mark.parametrize(
    ("splits", "by_time", "by_split"),
    [
        (["train"], [[10, 11], [12], [13, 14], []], [[10, 11], [12], [13, 14], []]),
        (["train", "valid"], [[10, 15, 11, 16], [12], [13, 17, 14], []], [[10, 11, 15, 16], [12], [13, 14, 17], []]),
        (["valid", "train"], [[10, 15, 16, 11], [12], [17, 13, 14], []], [[15, 16, 10, 11], [12], [17, 13, 14], []]),
        (
            ["train", "valid", "test"],
            [[10, 18, 15, 11, 16], [19, 12], [13, 17, 14], []],
            [[10, 11, 15, 16, 18], [12, 19], [13, 14, 17], []],
        ),
    ],
)
def test_a_users_rows_are_in_the_order_of_time_over_splits_or_split_after_split(
    dataset: tuple[Path, bool], splits: list[str], by_time: list[list[int]], by_split: list[list[int]]
) -> None:
    folder, has_time = dataset
    for _ in range(2):  # written, then mapped
        loaded = interactions.load(folder, *splits)
        got = [loaded.rows_of(np.array([user]))[1].tolist() for user in range(4)]
        assert got == (by_time if has_time else by_split)
        assert loaded.users.tolist() == [user for user, items in enumerate(got) for _ in items]
