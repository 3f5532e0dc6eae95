"""What every folder on a storage path shares: a manifest that is written last, and a lock with an owner's name.

A folder is a dataset or a checkpoint if and only if its manifest exists and its files are the ones it lists.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import hashlib
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.errors import FullError, InputError

MANIFEST = "manifest.json"
REPORT = "report"  # of a dataset: a page and its pictures
FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def room(path: Path) -> Iterator[None]:
    """Says in one line that `path` could not be written for want of room.

    Raises:
        FullError: the file system or its quota is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        free = shutil.disk_usage(next(folder for folder in path.parents if folder.exists())).free
        what = "a quota that is used up" if error.errno == errno.EDQUOT else "a full disk"
        raise FullError(f"scale.storage_path: {path}: got {what} ({free:,} bytes are free there), takes more room") from error


def write_text(path: Path, text: str) -> None:
    """Writes a whole file or nothing: a reader never sees half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with room(path):
            partial.write_text(text, encoding="utf-8")
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_object(path: Path, takes: str) -> dict[str, Any]:
    """What a file says that somebody else may have put there. Raises as `parse_object`."""
    return parse_object(path.read_bytes(), path, takes)


def parse_object(content: bytes, place: Path | str, takes: str) -> dict[str, Any]:
    """What the content of a place says.

    Raises:
        InputError: it is no JSON object, but a pickle, say, which would run what it holds.
    """
    try:
        found = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # of what is no text, no JSON, or JSON without an end
        raise InputError(f"{place}: got no JSON ({error}), takes {takes}") from error
    if not isinstance(found, dict):
        raise InputError(f"{place}: got JSON that is no object, takes {takes}")
    return found


def digest(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def entry(path: Path) -> dict[str, Any]:
    """What a manifest says of a file: size and checksum."""
    return {"bytes": path.stat().st_size, "sha256": digest(path)}


def finish(folder: Path, manifest: dict[str, Any], only: Iterable[str] | None = None) -> None:
    """Lists the files below `folder` (or `only` those named) with size and checksum and writes the manifest, last."""
    if only is None:
        found = [f for f in sorted(folder.rglob("*")) if f.is_file() and f.name not in (MANIFEST, LOCK)]
    else:
        found = [folder / name for name in only]
    write_manifest(folder, manifest, {str(f.relative_to(folder)): entry(f) for f in found})


def write_manifest(folder: Path, manifest: dict[str, Any], files: dict[str, dict[str, Any]]) -> None:
    """With the entries of files that were taken where these were written: no folder is listed, none is read again."""
    write_json(folder / MANIFEST, {**manifest, "files": files})


def is_finished(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def open_finished(folder: Path, kind: str) -> dict[str, Any]:
    """The manifest of a finished folder of a kind (dataset, run), its files' presence and sizes checked.

    Raises:
        InputError: there is no manifest, or what is there is none, or it is of another kind, or a file that it lists lies
            elsewhere, is missing or has another size.
    """
    if not is_finished(folder):
        raise InputError(f"{kind} {folder}: not finished or not there, takes a folder with {MANIFEST}")
    manifest = read_object(folder / MANIFEST, f"the manifest of a {kind}")
    require_kind(manifest, kind, folder)
    for name, entry in manifest["files"].items():
        path = folder / name
        got = path.stat().st_size if path.is_file() else "no file"
        if got != entry["bytes"]:
            raise InputError(f"{kind} {folder}: {name}: got {got}, takes {entry['bytes']} bytes as in {MANIFEST}")
    return manifest


def require_kind(manifest: dict[str, Any], kind: str, folder: Path | str) -> None:
    """Raises InputError where it is the manifest of another kind, or lists no files, or one that lies elsewhere."""
    if manifest.get("kind") != kind:
        raise InputError(f"{kind} {folder}: got the folder of a {manifest.get('kind')}, takes that of a {kind}")
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(isinstance(entry, dict) and "bytes" in entry for entry in files.values()):
        raise InputError(f"{kind} {folder}: {MANIFEST} lists no files, takes their names, each with its bytes")
    for name in files:
        if Path(name).is_absolute() or ".." in Path(name).parts:  # it would have us read whatever its writer likes
            raise InputError(f"{kind} {folder}: {MANIFEST} lists {name}, takes files below that folder")


LOCK = ".lock"
BEAT_SECONDS, LEASE_SECONDS = 2.0, 60.0  # an owner touches its lock; one that has not for so long is gone


class LockedError(InputError):
    """Somebody else holds a folder."""


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Holds `folder` for this process. The lock of an owner that is gone is taken over: at once where it was a process of this
    host, after LEASE_SECONDS without a sign of it elsewhere (a head's pod that was lost has a new name when it comes back).

    An owner that stood still for longer, and whose lock was taken meanwhile, is interrupted as by Ctrl-C.

    Raises:
        LockedError: somebody else holds it; names the owner, the process and since when.
        FullError: there is no room for it.
    """
    with room(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    mine = {"owner": user(), "host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%F %T")}
    mine["id"] = uuid.uuid4().hex
    written = folder.with_name(f".{folder.name}{LOCK}.{mine['id']}")  # not in the folder, whose files are listed
    try:
        with room(path):
            written.write_text(json.dumps(mine), encoding="utf-8")
        while True:
            try:
                with room(path):
                    os.link(written, path)  # create if absent, with all it says: one of two wins
                break
            except FileExistsError:
                _take_over_or_refuse(folder, path)
    finally:
        written.unlink(missing_ok=True)
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, mine, ended), daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        if _holder(path) == mine:
            path.unlink(missing_ok=True)


def is_held(folder: Path) -> bool:
    """Whether the folder is locked, and not by a process of this host that is gone."""
    holder = _holder(folder / LOCK)
    return holder is not None and not _died_here(holder)


def _beat(path: Path, mine: dict[str, Any], ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):  # a storage that is away for a moment: the next beat tells
            if not path.parent.exists():  # its owner removed what it had begun
                return
            if _holder(path) != mine:
                print(f"{path}: was taken over while this process stood still; it ends here", file=sys.stderr, flush=True)
                os.kill(os.getpid(), signal.SIGINT)
                return
            os.utime(path)


def _holder(path: Path) -> dict[str, Any] | None:
    """What a lock says; None where there is none, {} where it says nothing that can be read."""
    try:
        return read_json(path)
    except FileNotFoundError:
        return None
    except json.JSONDecodeError:
        return {}


def user() -> str:
    """Who runs this program: a name, or a number where the machine knows no name for it, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def remove_dead_lock(folder: Path) -> None:
    """Removes the lock of a process of this host that was killed with its work done. Others' locks stay, as do those that
    this process may not write.
    """
    path = folder / LOCK
    with contextlib.suppress(FileNotFoundError, PermissionError), path.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as _take_over_or_refuse
        holder = _holder(path)
        if holder and _died_here(holder) and _is_at(path, file.fileno()):
            path.unlink(missing_ok=True)


def _take_over_or_refuse(folder: Path, path: Path) -> None:
    """Removes the lock of an owner that is gone; one taker at a time, who removes the very file that it has watched.

    Raises:
        LockedError: the owner lives, or the lock is another user's.
    """
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # of takers; ends with the process
            holder = _holder(path)
            if holder is None or not _is_at(path, file.fileno()):
                return  # released, or taken over while this one waited
            if _is_gone(path, holder):
                path.unlink(missing_ok=True)
                return
    except FileNotFoundError:
        return
    except PermissionError:
        holder = _holder(path) or {}
    who = f"{holder.get('owner', 'unknown')} (process {holder.get('pid', 'unknown')} on {holder.get('host', 'unknown')}"
    raise LockedError(
        f"{folder}: locked by {who}, since {holder.get('since', 'unknown')}); "
        f"wait for it, or delete {path} if that process is gone"
    )


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _is_gone(path: Path, holder: dict[str, Any]) -> bool:
    """A process of this host is looked for. Of others the lock is watched: clocks may differ, so only its changes count."""
    if _died_here(holder):
        return True
    seen, since, is_told = _touched(path), time.monotonic(), False
    while time.monotonic() - since < LEASE_SECONDS:
        time.sleep(BEAT_SECONDS / 4)
        if _touched(path) != seen:
            return False
        if not is_told and time.monotonic() - since > 2 * BEAT_SECONDS:
            is_told = True
            print(f"{path}: no sign of its owner; it is taken over after {LEASE_SECONDS:.0f} s without one", flush=True)
    return True


def _died_here(holder: dict[str, Any]) -> bool:
    return holder.get("host") == socket.gethostname() and not _alive(holder["pid"])


def _touched(path: Path) -> int:
    """Opened, for a network's file system may answer out of its memory otherwise."""
    try:
        with path.open() as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return 0


def _alive(pid: int) -> bool:
    """One that has ended and whose parent has not asked how holds nothing any more."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError):  # without /proc it counts as alive until it is asked
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True
