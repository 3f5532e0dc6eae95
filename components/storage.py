"""What every folder on a storage path shares: a manifest that is written last, and a lock with an owner's name.

A folder is a dataset or a checkpoint if and only if its manifest exists and its files are the ones it lists.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import hashlib
import json
import os
import socket
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.errors import InputError

MANIFEST = "manifest.json"


def write_text(path: Path, text: str) -> None:
    """Writes a whole file or nothing: a reader never sees half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def digest(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def finish(folder: Path, manifest: dict[str, Any], only: Iterable[str] | None = None) -> None:
    """Lists the files below `folder` (or `only` those named) with size and checksum and writes the manifest, last."""
    if only is None:
        found = [f for f in sorted(folder.rglob("*")) if f.is_file() and f.name not in (MANIFEST, LOCK)]
    else:
        found = [folder / name for name in only]
    files = {str(f.relative_to(folder)): {"bytes": f.stat().st_size, "sha256": digest(f)} for f in found}
    write_json(folder / MANIFEST, {**manifest, "files": files})


def is_finished(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def open_finished(folder: Path, kind: str) -> dict[str, Any]:
    """The manifest of a finished folder of a kind (dataset, run), its files' presence and sizes checked.

    Raises:
        InputError: there is no manifest, it is of another kind, or a file that it lists is missing or of another size.
    """
    if not is_finished(folder):
        raise InputError(f"{kind} {folder}: not finished or not there, takes a folder with {MANIFEST}")
    manifest = read_json(folder / MANIFEST)
    if manifest.get("kind") != kind:
        raise InputError(f"{kind} {folder}: got the folder of a {manifest.get('kind')}, takes that of a {kind}")
    for name, entry in manifest["files"].items():
        path = folder / name
        got = path.stat().st_size if path.is_file() else "no file"
        if got != entry["bytes"]:
            raise InputError(f"{kind} {folder}: {name}: got {got}, takes {entry['bytes']} bytes as in {MANIFEST}")
    return manifest


LOCK = ".lock"


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Holds `folder` for this process; a dead owner's lock on this host is taken over.

    Raises:
        InputError: somebody else holds it; names the owner, the process and since when.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    mine = {"owner": user(), "host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%F %T")}
    written = folder.with_name(f".{folder.name}{LOCK}.{uuid.uuid4().hex[:8]}")  # not in the folder, whose files are listed
    written.write_text(json.dumps(mine), encoding="utf-8")
    try:
        while True:
            try:
                os.link(written, path)  # create if absent, with all it says: one of two wins
                break
            except FileExistsError:
                _take_over_or_refuse(folder, path)
    finally:
        written.unlink()
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            if read_json(path) == mine:
                path.unlink()


def user() -> str:
    """Who runs this program: a name, or a number where the machine knows no name for it, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _take_over_or_refuse(folder: Path, path: Path) -> None:
    """Removes the lock of a process of this host that is gone; one taker at a time, who reads the lock it removes."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # ends with the process
        _remove_if_stale(folder, path)
    finally:
        os.close(descriptor)


def _remove_if_stale(folder: Path, path: Path) -> None:
    try:
        holder = read_json(path)
    except FileNotFoundError:
        return  # just released
    except json.JSONDecodeError:
        holder = {"owner": "unknown", "host": "unknown", "pid": 0, "since": "now"}
    if holder["host"] == socket.gethostname() and not _alive(holder["pid"]):
        path.unlink(missing_ok=True)
        return
    raise InputError(
        f"{folder}: locked by {holder['owner']} (process {holder['pid']} on {holder['host']}, since {holder['since']}); "
        f"wait for it, or delete {path} if that process is gone"
    )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
