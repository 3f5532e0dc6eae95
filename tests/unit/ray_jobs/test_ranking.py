"""What bulk scoring holds does not grow with the users: the driver reads footers alone, and hands out parts of one size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.config import Scale
from ray_jobs import _ranking

K = 3


def refused(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("the driver reads users")


def parts(folder: Path, users: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """(file, first row, rows) of each part that actors are given, of so many users in two files."""
    folder.mkdir()
    files = []
    for n, ids in enumerate(np.array_split(np.arange(users, dtype=np.int32), [users // 3])):
        files.append(folder / f"users-{n}.parquet")
        pq.write_table(pa.table({"id": ids, "raw": ids}), files[-1])
    given: list[tuple[str, int, int]] = []

    def mapped(blocks: list[pa.Table], *_: Any) -> Iterator[pa.Table]:
        for block in blocks:
            (piece,) = block.to_pylist()
            given.append((Path(piece["path"]).name, piece["start"], piece["count"]))
            yield pa.table({"rows": [K * piece["count"]]})

    monkeypatch.setattr(_ranking, "ray", SimpleNamespace(put=lambda value: value))
    monkeypatch.setattr(_ranking, "_mapped", mapped)
    with monkeypatch.context() as reading:
        reading.setattr(pq, "read_table", refused)
        rows = _ranking.recommend(refused, files, pa.array(["a"]), K, Scale(num_workers=2), folder, folder)
    assert rows == K * users
    return given


def test_parts_are_no_larger_where_users_are_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (parts(tmp_path / f"{users}", users, monkeypatch) for users in (200_000, 1_000_000))
    largest = [max(count for *_, count in found) for found in (few, many)]
    assert largest[0] == largest[1] < 10_000
    assert len(many) > 4 * len(few)


@pytest.mark.parametrize("users", [2, 300, 100_003])
def test_every_user_is_in_one_part(users: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = parts(tmp_path / "users", users, monkeypatch)
    sizes = {"users-0.parquet": users // 3, "users-1.parquet": users - users // 3}
    for name, size in sizes.items():
        rows = np.concatenate([np.zeros(0, int), *(np.arange(at, at + count) for file, at, count in found if file == name)])
        assert rows.tolist() == list(range(size))
