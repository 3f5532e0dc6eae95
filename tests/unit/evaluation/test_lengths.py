"""Groups of users by the length of their history."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.evaluation.lengths import by_history_length, cut


def test_groups_are_about_as_many_users_and_hold_each_length_once() -> None:
    lengths = np.random.default_rng(0).geometric(0.2, 1000)
    bounds = cut(lengths, number=5)
    assert bounds[0][0] == lengths.min()
    assert bounds[-1][1] == lengths.max()
    assert all(before[1] < after[0] for before, after in itertools.pairwise(bounds))
    sizes = [int(((lengths >= low) & (lengths <= high)).sum()) for low, high in bounds]
    assert sum(sizes) == 1000
    most_alike = np.bincount(lengths).max()
    assert all(abs(size - 200) <= most_alike for size in sizes)


def test_fewer_lengths_than_groups() -> None:
    assert cut(np.array([3] * 90 + [4] * 10)) == [(3, 3), (4, 4)]
    assert cut(np.array([7])) == [(7, 7)]
    assert cut(np.array([], int)) == []


def test_means_of_each_group(tmp_path: Path) -> None:
    lengths_U = np.array([2, 9, 2, 3, 9, 4, 0])  # user 6 is not asked for
    users, hits = [0, 1, 2, 3, 4, 5], [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    pq.write_table(pa.table({"user": users, "hit@5": hits, "other": hits}), tmp_path / "u.parquet", row_group_size=2)
    found = by_history_length(tmp_path / "u.parquet", lengths_U, ["hit@5"])
    assert sum(group["users"] for group in found) == 6
    for group in found:
        mine = [hit for user, hit in zip(users, hits, strict=True) if group["from"] <= lengths_U[user] <= group["to"]]
        assert group["users"] == len(mine) > 0
        assert group["hit@5"] == pytest.approx(sum(mine) / len(mine))
    assert found[0]["from"] == 2
    assert found[-1]["to"] == 9
