"""Records of finished stages: what is taken over after a kill, and what is removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components import storage
from components.data.records import Records

MADE_FROM = {"fingerprint": "abc", "sizes": {"part_rows": 5}}


def records(folder: Path, made_from: dict[str, Any] | None = None) -> Records:
    return Records(folder, folder / ".work", made_from or MADE_FROM)


def put(folder: Path, name: str, content: str = "whole") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def three_stages(folder: Path) -> None:
    """Of which the second reads and removes what the first made in .work."""
    made = records(folder)
    assert made.next("one") is None
    put(folder, ".work/pieces/0")
    put(folder, "quarantine/0")
    made.add("one", {"count": 3, "names": ["é", "b"]}, [".work/pieces", "quarantine"], [])
    put(folder, ".work/rows/0")
    made.add("two", {"alive": np.array([True, False]), "degree": np.arange(3)}, [".work/rows"], [".work/pieces"])
    put(folder, "train/0")
    made.add("three", {}, ["train"], [])


def finished(folder: Path) -> list[str]:
    found, names = records(folder), []
    for name in ("one", "two", "three"):
        if found.next(name) is None:
            break
        names.append(name)
    return names


def test_values_come_back_as_they_were(tmp_path: Path) -> None:
    three_stages(tmp_path)
    found = records(tmp_path)
    assert found.next("one") == {"count": 3, "names": ["é", "b"]}
    second = found.next("two")
    assert second is not None
    assert second["alive"].tolist() == [True, False]
    assert second["alive"].dtype == bool
    assert second["degree"].tolist() == [0, 1, 2]
    assert found.next("three") == {}
    assert found.next("four") is None


def test_what_a_stage_removes_is_gone_and_what_is_finished_stays(tmp_path: Path) -> None:
    three_stages(tmp_path)
    assert not (tmp_path / ".work" / "pieces").exists()
    kept = [put(tmp_path, name) for name in ("train/0", "quarantine/0", ".work/rows/0", storage.LOCK)]
    halves = [put(tmp_path, name) for name in ("valid/0", ".work/pieces/9", ".work/03-four.npz", "stray")]
    assert finished(tmp_path) == ["one", "two", "three"]
    assert all(path.is_file() for path in kept)
    assert not any(path.exists() for path in halves)


@pytest.mark.parametrize(
    ("harmed", "left"),
    [
        ("train/0", ["one", "two"]),
        (".work/rows/0", []),
        ("quarantine/0", []),
        (".work/01-two.npz", []),
        (".work/00-one.json", []),
    ],
)
def test_a_stage_whose_files_are_not_whole_is_done_again(tmp_path: Path, harmed: str, left: list[str]) -> None:
    """And the first too, once the second is to be done that removed what it reads."""
    three_stages(tmp_path)
    (tmp_path / harmed).unlink()
    assert finished(tmp_path) == left
    assert (tmp_path / "quarantine").exists() == bool(left)


def test_a_file_of_another_size_is_not_whole(tmp_path: Path) -> None:
    three_stages(tmp_path)
    put(tmp_path, "train/0", "half")
    assert finished(tmp_path) == ["one", "two"]
    assert not (tmp_path / "train").exists()


def test_a_record_cut_off_is_none(tmp_path: Path) -> None:
    three_stages(tmp_path)
    put(tmp_path, ".work/02-three.json", "")
    assert finished(tmp_path) == ["one", "two"]


def test_stages_made_from_something_else_are_done_again(tmp_path: Path) -> None:
    three_stages(tmp_path)
    other = {**MADE_FROM, "sizes": {"part_rows": 6}}
    assert records(tmp_path, other).next("one") is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_nothing_is_left_of_what_is_forgotten(tmp_path: Path) -> None:
    three_stages(tmp_path)
    lock = put(tmp_path, storage.LOCK)
    records(tmp_path).forget()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [lock]
