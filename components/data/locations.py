"""Where something lies: the one place that makes a file system, and a path there, of a local path or s3://bucket/key.

Of S3 all is the environment's: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; AWS_REGION or
AWS_DEFAULT_REGION; AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL; AWS_MAX_ATTEMPTS for each request.
"""

from __future__ import annotations

import errno
import functools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from components.errors import InputError
from components.paths import S3

ANSWER = "AWS Error"  # in every text that pyarrow makes of what S3 answers
ATTEMPTS = 8  # of a request, ever longer apart, up to 20 s: about a minute in all
CONNECT_SECONDS, REQUEST_SECONDS = 5.0, 60.0
COMPRESSED_BYTES = 1 << 20  # read at once: of a compressed file Arrow asks for 64 KB at a time
DENIED = ("ACCESS_DENIED", "HTTP status 403", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "EXPIRED_TOKEN")
BUSY = ("SLOW_DOWN", "THROTTLING", "SERVICE_UNAVAILABLE", "HTTP status 503", "HTTP status 429")
PASSING = {errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETIMEDOUT}
TRIES, PAUSE_SECONDS = 4, 3.0  # of what fails by a fault that may pass
T = TypeVar("T")


class StorageError(InputError):
    """The storage denies or does not answer. That is no fault of a file: none is put aside for it."""


def passes(error: Exception) -> bool:
    """Whether the machine or the network is at fault, and not the file: tried again, it may work."""
    return isinstance(error, MemoryError) or getattr(error, "errno", None) in PASSING


def lasting(place: str, error: object) -> StorageError:
    """What is said of a fault that did not pass."""
    return StorageError(f"{place}: got no data in {TRIES} tries, takes a storage that answers: {error}")


def insist(place: str, run: Callable[[], T]) -> T:
    """What `run` returns, tried again after faults that may pass.

    Raises:
        StorageError: they did not.
    """
    for n in range(TRIES):
        try:
            return run()
        except (OSError, MemoryError) as error:
            if not passes(error):
                raise
            if n + 1 == TRIES:
                raise lasting(place, error) from error
            time.sleep(PAUSE_SECONDS)
    raise AssertionError("the last try returns or raises")


@dataclass(frozen=True)
class Found:
    """A file, and its path below the source that it was found in (its name, where the source is a file)."""

    path: str
    inside: PurePosixPath
    bytes: int
    mtime_ns: int


def locate(place: str) -> tuple[fs.FileSystem, str]:
    """Raises InputError where the environment has no credentials, or wrong settings."""
    if not place.startswith(S3):
        return fs.LocalFileSystem(), place
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    key, secret = (os.environ.get(name) for name in names)
    if not key or not secret:
        raise StorageError(f"{place}: got no credentials, takes {' and '.join(names)} in the environment of every node")
    return _s3(key, secret, os.environ.get("AWS_SESSION_TOKEN"), _region(), _endpoint(), _attempts()), place.removeprefix(S3)


@functools.lru_cache(maxsize=1)
def _s3(key: str, secret: str, token: str | None, region: str, endpoint: str | None, attempts: int) -> fs.FileSystem:
    parts = urlsplit(endpoint) if endpoint else None
    return fs.S3FileSystem(
        access_key=key,
        secret_key=secret,
        session_token=token,
        region=region,
        scheme=parts.scheme if parts else "https",
        endpoint_override=parts.netloc if parts else None,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        background_writes=False,  # else what waits for a slow network waits in memory
    )


def _region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def _endpoint() -> str | None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if url := os.environ.get(name):
            if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
                raise StorageError(f"{name}: got {url!r}, takes a URL, as https://storage.example:9000")
            return url
    return None


def _attempts() -> int:
    text = os.environ.get("AWS_MAX_ATTEMPTS") or str(ATTEMPTS)
    if not text.isdecimal() or not int(text):
        raise StorageError(f"AWS_MAX_ATTEMPTS: got {text!r}, takes a whole number >= 1")
    return int(text)


def files(place: str) -> list[Found]:
    """The file at a place, or every file below the folder there, in the order of their names.

    Raises:
        FileNotFoundError: there is neither.
        StorageError: S3 denies it, has no such bucket, or does not answer.
    """
    system, path = locate(place)
    with explained(place):
        (there,) = system.get_file_info([path])
        if there.type == fs.FileType.NotFound:
            _require_bucket(system, place)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place)
        if there.is_file:
            return [_found(there, place, PurePosixPath(there.base_name))]
        below = [info for info in system.get_file_info(fs.FileSelector(path, recursive=True)) if info.is_file]
    start = S3 if place.startswith(S3) else ""
    found = [_found(info, start + info.path, PurePosixPath(info.path).relative_to(path)) for info in below]
    return sorted(found, key=lambda file: file.inside)


def _found(info: fs.FileInfo, path: str, inside: PurePosixPath) -> Found:
    return Found(path, inside, info.size, info.mtime_ns)


def _require_bucket(system: fs.FileSystem, place: str) -> None:
    """Where nothing is found, S3 does not say whether it is the bucket that is missing."""
    if place.startswith(S3):
        bucket = place.removeprefix(S3).partition("/")[0]
        (there,) = system.get_file_info([bucket])
        if there.type == fs.FileType.NotFound:
            where = _endpoint() or f"the region {_region()}"
            raise StorageError(f"{place}: got the bucket {bucket!r}, takes one that is there: {where} has none of that name")


def open_file(place: str) -> pa.NativeFile:
    """The bytes of a file, at any position."""
    system, path = locate(place)
    with explained(place):
        return system.open_input_file(path)


def open_compressed(place: str, compression: str) -> pa.NativeFile:
    """The bytes of a compressed file, from its beginning to its end."""
    return pa.CompressedInputStream(pa.BufferedInputStream(open_file(place), COMPRESSED_BYTES), compression)


def etag(place: str, file: pa.NativeFile) -> str | None:
    """What S3 calls the contents of an open file; a local one has no such name."""
    return file.metadata().get("ETag", b"").decode() or None if place.startswith(S3) else None


@contextmanager
def explained(place: str, writing: bool = False) -> Iterator[None]:
    """What S3 answers in place of data, and a file that may not be read, as one StorageError; all else goes on as it is."""
    try:
        yield
    except OSError as error:
        if (trouble := trouble_of(error, place, writing)) is None:
            raise
        raise trouble from error


def trouble_of(error: Exception, place: str, writing: bool = False) -> StorageError | None:
    """S3's answer by what helps against it, or that a file is denied; None of all else. Keys are never part of its text."""
    if getattr(error, "errno", None) in (errno.EACCES, errno.EPERM):
        return StorageError(f"{place}: got permission denied, takes a file that this user may read on every node")
    said = str(error).splitlines()[0] if str(error) else ""
    if not place.startswith(S3) or ANSWER not in said:
        return None
    if any(word in said for word in DENIED):
        rights = "list the bucket (s3:ListBucket) and read it (s3:GetObject)"
        if writing:
            rights = "list the bucket (s3:ListBucket), read it (s3:GetObject) and write to it (s3:PutObject)"
        takes = f"takes a key in AWS_ACCESS_KEY_ID that may {rights}"
        return StorageError(f"{place}: got access denied, {takes}: {said}")
    if "NO_SUCH_BUCKET" in said:
        return StorageError(f"{place}: got a bucket that is not there: {said}")
    if any(word in said for word in BUSY):
        return StorageError(f"{place}: got no answer but to slow down in {_attempts()} tries (AWS_MAX_ATTEMPTS): {said}")
    return StorageError(f"{place}: got no data from {_endpoint() or f'the region {_region()}'}: {said}")
