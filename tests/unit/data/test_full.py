"""A disk that is full, as the kernel says it (/dev/full): one clear error, and nothing half-made."""

from __future__ import annotations

import errno
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from components import storage
from components.data import partitions
from components.data.records import Records
from components.errors import FullError

TABLE = pa.table({"a": np.arange(1000)})


def stream(path: Path) -> None:
    with partitions.parquet_stream(path, TABLE.schema) as writer:
        writer.write_table(TABLE)


def record(path: Path) -> None:
    Records(path.parent, path.parent, {}).add("one", {"alive": np.ones(1000)}, [], [])


WRITERS: dict[str, Callable[[Path], object]] = {
    "batches.arrow": lambda path: partitions.write(TABLE, np.arange(1000) % 3, 3, path),
    "whole.arrow": lambda path: partitions.write_whole(TABLE, path),
    "table.parquet": lambda path: partitions.write_parquet(TABLE, path),
    "stream.parquet": stream,
    "00-one.npz": record,
    "manifest.json": lambda path: storage.write_json(path, {"a": list(range(1000))}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_error_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    known = uuid.UUID(int=0)
    monkeypatch.setattr(uuid, "uuid4", lambda: known)
    monkeypatch.setattr("os.getpid", lambda: known.hex[:8])
    if name == "00-one.npz":  # it clears its folder before it writes
        monkeypatch.setattr(Records, "clear", lambda records: None)
    (tmp_path / f".{name}.{known.hex[:8]}").symlink_to("/dev/full")
    message = rf"^scale\.storage_path: {tmp_path}/{name}: got a full disk \([\d,]+ bytes are free there\), takes more room$"
    with pytest.raises(FullError, match=message):
        WRITERS[name](tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_lock_that_finds_no_room_is_one_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a second start on a disk that is still full."""
    known, folder = uuid.UUID(int=0), tmp_path / "dataset"
    monkeypatch.setattr(uuid, "uuid4", lambda: known)
    folder.mkdir()
    (tmp_path / f".dataset{storage.LOCK}.{known.hex}").symlink_to("/dev/full")
    with (
        pytest.raises(FullError, match=rf"^scale\.storage_path: {folder}/{storage.LOCK}: got a full disk"),
        storage.lock(folder),
    ):
        raise AssertionError("it holds no lock")
    assert list(tmp_path.iterdir()) == [folder]
    assert not list(folder.iterdir())


def test_a_quota_is_named_and_other_faults_are_not_taken_for_one(tmp_path: Path) -> None:
    with pytest.raises(FullError, match="got a quota that is used up"), storage.room(tmp_path / "gone" / "file"):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")
    with pytest.raises(PermissionError), storage.room(tmp_path / "file"):
        raise PermissionError(errno.EACCES, "Permission denied")
