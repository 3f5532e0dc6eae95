"""Finished datasets in S3: `scale.datasets`/<fingerprint>/ has the files of a dataset's folder, under the same names.

An object is there whole or not at all, and the manifest is put last: what has one is a dataset. What is brought back is held
against it. Nothing is locked there, for whoever prepares a dataset puts the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components import storage
from components.config import Scale
from components.data import locations
from components.data.locations import StorageError
from components.data.manifest import WORK
from components.data.partitions import Atomic
from components.errors import InputError
from components.storage import LOCK, MANIFEST

STREAMS, CHUNK_BYTES = 8, 8 << 20  # files on their way at once, and what is in memory of each: a part of its object
PROBE, REPAIR = ".probe", f"delete {MANIFEST} there and prepare again"
Advance = Callable[[int], object]  # is told the bytes of each file that has arrived


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        raise StorageError(f"scale.datasets: {error}") from error


def place_of(scale: Scale, folder: Path) -> str | None:
    """Where in S3 the dataset of a folder is kept; None where the recipe asks for no such place."""
    return f"{scale.datasets}/{folder.name}" if scale.datasets else None


@_named()
def look(place: str) -> dict[str, Any] | None:
    """The manifest of the dataset at a place; None where none is there.

    Raises:
        InputError: it is none of a dataset.
        StorageError: S3 denies it, has no such bucket, or does not answer.
    """
    content = _read(place)
    return None if content is None else _manifest(place, content)


def prepared(scale: Scale, folder: Path) -> tuple[str, dict[str, Any]] | None:
    """Where the dataset of a folder is, there or in S3, and its manifest; None where it is not prepared. Raises as `look`."""
    if storage.is_finished(folder):
        return str(folder), storage.open_finished(folder, "dataset")
    place = place_of(scale, folder)
    found = look(place) if place else None
    return (place, found) if place and found else None


@_named()
def try_writing(place: str) -> None:
    """Puts an empty object beside the dataset's place. It stays there: what prepares takes no right to delete.

    Raises:
        StorageError: S3 does not take it.
    """
    _put(io.BytesIO(), f"{place.rpartition('/')[0]}/{PROBE}")


@_named()
def upload(folder: Path, place: str, advance: Advance) -> None:
    """Puts a finished dataset's files, and then its manifest.

    Raises:
        InputError: a file is not what the manifest says.
        StorageError: S3 does not take one.
    """
    entries = storage.open_finished(folder, "dataset")["files"]

    def send(name: str) -> int:
        def put() -> dict[str, Any]:
            with (folder / name).open("rb") as source:
                return _put(source, f"{place}/{name}")

        _require(f"dataset {folder}: {name}", locations.insist(f"{place}/{name}", put), entries[name])
        return entries[name]["bytes"]

    _each(send, entries, advance)
    _put(io.BytesIO((folder / MANIFEST).read_bytes()), f"{place}/{MANIFEST}")


@_named()
def fetch(place: str, folder: Path, advance: Advance) -> None:
    """Brings a dataset from its place into a folder, which the caller has locked: its files, and then its manifest.

    Files that an interrupted fetch has left are not brought twice; what else lies there, of a preparation that was killed, is
    removed.

    Raises:
        InputError: there is no dataset, or an object is not what the manifest says.
        FullError: there is no room for it.
        StorageError: S3 denies it, or does not answer.
    """
    content = _read(place)
    if content is None:
        raise InputError(f"dataset {place}: got no {MANIFEST}, takes a dataset that is finished")
    entries = _manifest(place, content)["files"]
    shutil.rmtree(folder / WORK, ignore_errors=True)
    for path in [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK]:
        if str(path.relative_to(folder)) not in entries:
            path.unlink()

    def bring(name: str) -> int:
        path, source, entry = folder / name, f"{place}/{name}", entries[name]
        if not path.is_file() or storage.entry(path) != entry:
            try:
                locations.insist(source, lambda: _get(source, path, entry))
            except FileNotFoundError as error:
                raise InputError(f"{source}: got no object, takes the one that {MANIFEST} lists; {REPAIR}") from error
        return entry["bytes"]

    _each(bring, entries, advance)
    storage.write_text(folder / MANIFEST, content.decode())


def _read(place: str) -> bytes | None:
    """The manifest as it is there; None where there is none."""
    where = f"{place}/{MANIFEST}"
    try:
        locations.files(where)  # tells a bucket that is not there, too
        with locations.open_file(where) as stream, locations.explained(where):
            return stream.read()
    except FileNotFoundError:
        return None


def _manifest(place: str, content: bytes) -> dict[str, Any]:
    manifest = storage.parse_object(content, f"{place}/{MANIFEST}", "the manifest of a dataset")
    storage.require_kind(manifest, "dataset", place)
    return manifest


def _put(source: Any, target: str) -> dict[str, Any]:
    """Its entry in a manifest."""
    system, path = locations.locate(target)
    with locations.explained(target, writing=True), system.open_output_stream(path, compression=None) as out:
        return _copied(source, out)


def _get(source: str, path: Path, entry: dict[str, Any]) -> None:
    with Atomic(path) as partial, locations.open_file(source) as stream, partial.open("wb") as out:
        with locations.explained(source):
            got = _copied(stream, out)
        _require(source, got, entry)


def _copied(source: Any, target: Any) -> dict[str, Any]:
    digest, count = hashlib.sha256(), 0
    while chunk := source.read(CHUNK_BYTES):
        target.write(chunk)
        digest.update(chunk)
        count += len(chunk)
    return {"bytes": count, "sha256": digest.hexdigest()}


def _require(what: str, got: dict[str, Any], takes: dict[str, Any]) -> None:
    if got != takes:
        has, wants = (f"{entry['bytes']} bytes of sha256 {entry.get('sha256', 'unknown')[:12]}" for entry in (got, takes))
        raise InputError(f"{what}: got {has}, takes {wants} as in {MANIFEST}; {REPAIR}")


def _each(run: Callable[[str], int], names: Iterable[str], advance: Advance) -> None:
    """Runs for STREAMS names at a time; after an error, or Ctrl-C, no other is begun."""
    with ThreadPoolExecutor(STREAMS) as pool:
        tasks = [pool.submit(run, name) for name in names]
        try:
            for task in as_completed(tasks):
                advance(task.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
