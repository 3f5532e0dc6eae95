"""Manifests are written last, and a folder has one owner."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from components import storage
from components.errors import InputError
from tests.unit.test_serving import Hostile


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


@pytest.mark.parametrize("name", ["../outside.txt", "part/../../outside.txt", "absolute"])
def test_a_manifest_that_lists_what_lies_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    folder, outside = tmp_path / "run", tmp_path / "outside.txt"
    (folder / "part").mkdir(parents=True)
    outside.write_text("abc")
    listed = str(outside) if name == "absolute" else name
    storage.write_json(folder / storage.MANIFEST, {"kind": "run", "files": {listed: {"bytes": 3, "sha256": ""}}})
    with pytest.raises(InputError, match=rf"^run {folder}: manifest.json lists {listed}, takes files below that folder$"):
        storage.open_finished(folder, "run")


@pytest.mark.parametrize("how", ["a pickle", "", "{", "[]", pytest.param("[" * 100_000, id="deep")])
def test_a_manifest_that_is_no_object_is_refused_and_runs_nothing(how: str, tmp_path: Path) -> None:
    folder, struck = tmp_path / "dataset", tmp_path / "struck"
    folder.mkdir()
    (folder / storage.MANIFEST).write_bytes(pickle.dumps(Hostile(struck)) if how == "a pickle" else how.encode())
    with pytest.raises(InputError, match=rf"^{folder}/manifest.json: got (no )?JSON .*, takes the manifest of a dataset$"):
        storage.open_finished(folder, "dataset")
    assert not struck.exists()


@pytest.mark.parametrize("files", [None, ["a.txt"], {"a.txt": 3}, {"a.txt": {}}])
def test_a_manifest_without_a_list_of_files_is_refused(files: Any, tmp_path: Path) -> None:
    storage.write_json(tmp_path / storage.MANIFEST, {"kind": "run"} | ({} if files is None else {"files": files}))
    with pytest.raises(InputError, match=rf"^run {tmp_path}: manifest.json lists no files, takes their names, each with"):
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


HOLDER = {"owner": "ann", "host": "elsewhere", "pid": 7, "since": "2026-01-01", "id": "a"}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(storage, "LEASE_SECONDS", 2.0)


def test_a_dead_processs_lock_is_taken_over_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_touched", None)  # nothing is waited for
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / storage.LOCK).write_text(json.dumps({**HOLDER, "host": socket.gethostname(), "pid": dead.pid}))
    with storage.lock(tmp_path):
        assert storage.read_json(tmp_path / storage.LOCK)["pid"] == os.getpid()


def test_a_lock_that_a_dead_process_left_is_not_held(tmp_path: Path) -> None:
    assert not storage.is_held(tmp_path), "there is none"
    with storage.lock(tmp_path):
        assert storage.is_held(tmp_path)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    until_dead = psutil.Process(dead.pid)
    while until_dead.status() != psutil.STATUS_ZOMBIE:  # nobody has asked how it ended
        time.sleep(0.01)
    path, here = tmp_path / storage.LOCK, {**HOLDER, "host": socket.gethostname()}
    path.write_text(json.dumps({**here, "pid": dead.pid}))
    assert not storage.is_held(tmp_path)
    dead.wait()
    assert not storage.is_held(tmp_path)
    path.write_text(json.dumps(HOLDER))
    assert storage.is_held(tmp_path), "of another host it may be"


def test_only_a_dead_processs_lock_is_removed_from_what_is_finished(tmp_path: Path) -> None:
    storage.remove_dead_lock(tmp_path)  # there is none
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    path, here = tmp_path / storage.LOCK, {**HOLDER, "host": socket.gethostname()}
    for said in (json.dumps({**here, "pid": os.getpid()}), json.dumps(HOLDER), ""):
        path.write_text(said)
        storage.remove_dead_lock(tmp_path)
        assert path.read_text() == said
    path.write_text(json.dumps({**here, "pid": dead.pid}))
    storage.remove_dead_lock(tmp_path)
    assert not path.exists()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "said",
    [json.dumps(HOLDER), "", json.dumps({**HOLDER, "host": socket.gethostname(), "pid": os.getpid()})],
    ids=["elsewhere", "half written", "a namesake here"],
)
def test_a_lock_that_nobody_touches_is_taken_over(tmp_path: Path, said: str) -> None:
    """Of a machine that was lost; of one that wrote half of it; of a container with the same name and numbers."""
    (tmp_path / storage.LOCK).write_text(said)
    with storage.lock(tmp_path):
        assert storage.read_json(tmp_path / storage.LOCK)["owner"] == storage.user()


@pytest.mark.usefixtures("quick")
def test_a_lock_that_its_owner_touches_is_refused_for_as_long(tmp_path: Path) -> None:
    path, ended = tmp_path / storage.LOCK, threading.Event()
    path.write_text(json.dumps(HOLDER))
    owner = threading.Thread(target=storage._beat, args=(path, HOLDER, ended))
    owner.start()
    for _ in range(5):
        with (
            pytest.raises(InputError, match=r"locked by ann \(process 7 on elsewhere, since 2026-01-01\)"),
            storage.lock(tmp_path),
        ):
            pass
    ended.set()
    owner.join()
    with storage.lock(tmp_path):
        pass


@pytest.mark.usefixtures("quick")
def test_an_owner_that_stood_still_and_lost_its_lock_is_interrupted(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from components import storage; storage.BEAT_SECONDS = 0.1\n"
        "with storage.lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "held\n"
    owner.send_signal(signal.SIGSTOP)
    with storage.lock(tmp_path):
        owner.send_signal(signal.SIGCONT)
        _, said = owner.communicate(timeout=30)
        assert owner.returncode == -signal.SIGINT
        assert "was taken over while this process stood still" in said
        assert storage.read_json(tmp_path / storage.LOCK)["pid"] == os.getpid()


@pytest.mark.usefixtures("quick")
def test_one_of_many_takers_has_it(tmp_path: Path) -> None:
    (tmp_path / storage.LOCK).write_text(json.dumps(HOLDER))
    holding, most, won, refused = [], [], [], []

    def take() -> None:
        try:
            with storage.lock(tmp_path):
                holding.append(1)
                most.append(len(holding))
                time.sleep(4)  # longer than the others watch
                holding.pop()
                won.append(1)
        except InputError:
            refused.append(1)

    takers = [threading.Thread(target=take) for _ in range(6)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert (max(most), len(won) + len(refused)) == (1, 6)
    assert won


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
