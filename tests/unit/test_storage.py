"""Manifests are written last, and a folder has one owner."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from components import storage
from components.errors import InputError


def test_a_folder_is_finished_when_its_manifest_is_there(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "a.txt").write_text("abc")
    with pytest.raises(InputError, match="not finished or not there"):
        storage.open_finished(tmp_path, "dataset")
    storage.finish(tmp_path, {"kind": "dataset"})
    manifest = storage.open_finished(tmp_path, "dataset")
    assert manifest["kind"] == "dataset"
    assert manifest["files"]["part/a.txt"]["bytes"] == 3
    assert manifest["files"]["part/a.txt"]["sha256"].startswith("ba7816bf")


@pytest.mark.parametrize("damage", ["shorter", "gone"])
def test_a_finished_folder_whose_files_changed_is_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("abc")
    storage.finish(tmp_path, {"kind": "run"})
    path.write_text("ab") if damage == "shorter" else path.unlink()
    with pytest.raises(InputError, match=r"a.txt: got (2|no file), takes 3 bytes"):
        storage.open_finished(tmp_path, "run")


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    storage.finish(tmp_path, {"kind": "dataset"})
    with pytest.raises(InputError, match=rf"^run {tmp_path}: got the folder of a dataset, takes that of a run"):
        storage.open_finished(tmp_path, "run")


def test_nobody_sees_a_lock_that_does_not_say_whose_it_is(tmp_path: Path) -> None:
    folder, seen, ended = tmp_path / "dataset", [], threading.Event()

    def look() -> None:
        while not ended.is_set():
            with contextlib.suppress(FileNotFoundError):
                seen.append((folder / storage.LOCK).read_text())

    looking = threading.Thread(target=look)
    looking.start()
    for _ in range(500):
        with storage.lock(folder):
            pass
    ended.set()
    looking.join()
    assert {json.loads(text)["pid"] for text in seen} == {os.getpid()}
    assert list(tmp_path.iterdir()) == [folder], "nothing is left beside it"


def test_a_lock_names_its_owner(tmp_path: Path) -> None:
    with (
        storage.lock(tmp_path),
        pytest.raises(InputError, match=rf"locked by .* \(process {os.getpid()} on "),
        storage.lock(tmp_path),
    ):
        pass
    with storage.lock(tmp_path):  # released
        pass


def test_a_dead_owners_lock_is_taken_over_and_another_hosts_is_not(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    holder = {"owner": "ann", "host": socket.gethostname(), "pid": dead.pid, "since": "2026-01-01"}
    (tmp_path / storage.LOCK).write_text(json.dumps(holder))
    with storage.lock(tmp_path):
        pass
    (tmp_path / storage.LOCK).write_text(json.dumps({**holder, "host": "elsewhere"}))
    with pytest.raises(InputError, match="locked by ann"), storage.lock(tmp_path):
        pass


def test_a_fresh_lock_is_not_taken_for_the_dead_one_that_was_there(tmp_path: Path) -> None:
    """Somebody read a dead owner's lock, somebody else took it over meanwhile: the fresh one stays."""
    with storage.lock(tmp_path):
        with pytest.raises(InputError, match="locked by"):
            storage._take_over_or_refuse(tmp_path, tmp_path / storage.LOCK)
        assert (tmp_path / storage.LOCK).exists()


def test_an_unknown_user_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(storage.getpass, "getuser", unknown)
    assert storage.user() == str(os.getuid())


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    storage.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="nan"):
        storage.write_json(path, {"a": float("nan")})
    assert storage.read_json(path) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]
