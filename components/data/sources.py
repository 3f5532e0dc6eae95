"""What a recipe's `data.source` is: its files, formats, columns and sizes, found out before any row is read."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from components.config import Data
from components.data import finding, json_lines, lines, locations, readers, temporal, values
from components.data.files import DELIMITERS, Part, SourceFile
from components.data.locations import Found
from components.errors import InputError
from components.paths import S3
from components.split_rules import GivenSplit, TemporalSplit

OPENERS = 16  # files opened at once: the wait is the storage's
HEAD_BYTES = 1 << 16  # enough rows to see what times look like
PART_BYTES = 32 << 20  # of text, for one task
PART_ROWS = 1 << 20  # of Parquet, for one task
BYTES_PER_ROW = 24  # of text: a guess that only sets the number of partitions
COMPRESSED_BYTES_PER_ROW = 8


@dataclass(frozen=True)
class BadFile:
    """A file that cannot be read and was put aside."""

    path: str
    bytes: int
    mtime_ns: int
    reason: str


def _estimated_rows(file: SourceFile) -> int:
    if file.rows is not None:
        return file.rows
    return file.bytes // (BYTES_PER_ROW if file.compression is None else COMPRESSED_BYTES_PER_ROW)


@dataclass(frozen=True)
class SourcePlan:
    """The source before it is read. Ids are int64 where every file has integers, else text as written.

    `fractions` says whether a time may have one: never where all files' are integers or dates, and are kept as they are.
    """

    files: tuple[SourceFile, ...]
    user_type: Literal["int64", "string"]
    item_type: Literal["int64", "string"]
    time_kind: Literal["number", "date"] | None
    fractions: bool = True
    bad: tuple[BadFile, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    @property
    def rows(self) -> int | None:
        """Exact where every file's footer tells, else None."""
        rows = [file.rows for file in self.files if file.rows is not None]
        return sum(rows) if len(rows) == len(self.files) else None

    @property
    def estimated_rows(self) -> int:
        return sum(_estimated_rows(file) for file in self.files)

    def bare(self) -> SourcePlan:
        """Without its files: what a task needs beside the parts that it reads."""
        return replace(self, files=(), bad=())

    def parts(self, part_bytes: int = PART_BYTES, part_rows: int = PART_ROWS) -> list[Part]:
        """Cuts every file into tasks, by its size alone."""
        spans = ((file, *span) for file in self.files for span in _cut(file, part_bytes, part_rows))
        blocks = {True: part_bytes, False: part_rows}
        return [Part(n, *span, block=blocks[span[0].rows is None]) for n, span in enumerate(spans)]

    def tasks(self, part_bytes: int = PART_BYTES, part_rows: int = PART_ROWS) -> list[list[Part]]:
        """The parts, small ones together: a task has at most what one part may have, or one part."""
        tasks: list[list[Part]] = []
        room = 0.0
        for part in self.parts(part_bytes, part_rows):
            size = size_of(part, part_bytes, part_rows)
            if size > room:
                tasks.append([])
                room = 1.0
            tasks[-1].append(part)
            room -= size
        return tasks

    def describe(self) -> list[dict[str, object]]:
        """What the fingerprint and the manifest say of the source: everything but its contents."""
        names = ("path", "format", "split", "bytes", "mtime_ns", "rows", "footer")
        good = [{name: getattr(file, name) for name in names + ("etag",) * bool(file.etag)} for file in self.files]
        return good + [vars(file) for file in self.bad]


def size_of(part: Part, part_bytes: int = PART_BYTES, part_rows: int = PART_ROWS) -> float:
    """As a share of the largest part; compressed text and large row groups may be more than one."""
    if part.file.rows is not None:
        return sum(part.file.row_groups[part.start : part.stop]) / part_rows
    if part.file.compression is not None:
        return part.file.bytes * BYTES_PER_ROW / COMPRESSED_BYTES_PER_ROW / part_bytes
    return (part.stop - part.start) / part_bytes


def inspect(data: Data) -> SourcePlan:
    """Finds and checks the source cheaply: names, sizes, headers, footers.

    Raises:
        InputError: nothing there, an empty or unreadable file, no rows, a column that is not there or of a useless type.
    """
    with ThreadPoolExecutor(OPENERS) as pool:
        opened = list(pool.map(lambda found: _try_open(found[0], found[1], found[2], data.encoding), finding.find(data)))
    files = tuple(file for file in opened if isinstance(file, SourceFile))
    bad = [file for file in opened if isinstance(file, BadFile)]
    if bad and (data.on_bad_file == "fail" or len(bad) == len(opened)):
        more = f" ({len(bad)} of {len(opened)} files are bad)" if len(bad) > 1 else ""
        raise InputError(bad[0].reason + more)
    if isinstance(data.source, dict) and not isinstance(data.split, GivenSplit):
        raise InputError(f"data.split.by: got {data.split.by!r}, takes 'given' where data.source maps train, valid and test")
    for file in files:
        _check_columns(data, file)
    _check_missing(data, files)
    if not any(file.rows or (file.rows is None and file.data_start < file.end) for file in files):
        what = "a header without rows" if files[0].rows is None else "no rows"
        raise InputError(f"data.source: {', '.join(file.path for file in files[:3])}: got {what}, takes at least one row")
    time_kind = _time_kind(files, data) if data.columns.time else None
    if isinstance(data.split, TemporalSplit) and data.split.test_from is not None:
        temporal.times_of_rule(data.split, time_kind)
    return SourcePlan(
        files,
        user_type=_id_type(files, data.columns.user, "user"),
        item_type=_id_type(files, data.columns.item, "item"),
        time_kind=time_kind,
        fractions=time_kind == "number" and (data.time_units != "keep" or _kinds(files, str(data.columns.time)) != {"integer"}),
        bad=tuple(bad),
    )


def changed(data: Data, plan: SourcePlan) -> bool:
    """Whether the source is not what it was. Its names, sizes and times tell; of S3, whose times are whole seconds, its ETags,
    for which every object is opened again.

    Raises:
        InputError: it is not there any more, or cannot be read.
    """
    files = [*plan.files, *plan.bad]
    if any(file.path.startswith(S3) for file in files):
        return inspect(data).describe() != plan.describe()
    found = [(there.path, there.bytes, there.mtime_ns) for there, *_ in finding.find(data)]
    return sorted(found) != sorted((file.path, file.bytes, file.mtime_ns) for file in files)


def open_one(path: str, encoding: str) -> SourceFile:
    """A single file by its suffix (item titles).

    Raises:
        InputError: not there, empty, of an unknown suffix or unreadable.
        StorageError: denied, or by a fault that did not pass.
    """
    try:
        found = locations.files(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    if len(found) != 1 or found[0].path != path:
        raise InputError(f"{path}: got a folder, takes a file")
    suffix = finding.plain(found[0].inside).suffix
    kind = finding.SUFFIXES.get(suffix.lower())
    if kind is None:
        raise InputError(f"{path}: got the suffix {suffix!r}, takes one of {', '.join(finding.SUFFIXES)}")
    return locations.insist(path, lambda: _open(found[0], kind, None, encoding))


def file_split(data: Data, file: SourceFile) -> str | None:
    """The split that the file's place decides; None where a column does, or a rule."""
    return file.split if data.split.by == "given" else None


# opening ------------------------------------------------------------------------------------------------------------


def _try_open(found: Found, kind: str, split: str | None, encoding: str) -> SourceFile | BadFile:
    try:
        return locations.insist(found.path, lambda: _open(found, kind, split, encoding))
    except locations.StorageError as error:
        raise locations.StorageError(f"data.source: {error}") from error
    except InputError as error:
        return BadFile(found.path, found.bytes, found.mtime_ns, str(error))


def _open(found: Found, kind: str, split: str | None, encoding: str) -> SourceFile:
    path = found.path
    compression = finding.COMPRESSIONS.get(found.inside.suffix.lower()) if kind != "parquet" else None
    base = SourceFile(path, kind, split, found.bytes, found.mtime_ns, (), compression=compression)
    base = _with(base, partitions=finding.partitions(found.inside))
    try:
        with locations.explained(path):
            if kind == "parquet" and found.bytes:
                return _open_parquet(base)
            with lines.open_text(base) as stream:
                base = _with(base, etag=locations.etag(path, stream.raw))
                head, more = _head(stream, path, kind)
    except OSError as error:
        if locations.passes(error):
            raise
        raise InputError(f"{path}: {error.strerror or error}") from error
    if not head:
        raise InputError(f"{path}: got an empty file, takes {'a header and ' if kind in DELIMITERS else ''}rows")
    bom = 3 if head.startswith(b"\xef\xbb\xbf") else 0
    if kind == "lightgcn":
        return _with(base, columns=("user", "item"), data_start=bom)
    if kind == "jsonl":
        return _with(base, columns=json_lines.keys(path, head[bom:], encoding), data_start=bom, more=more)
    names = _header(path, head[bom:].rstrip(b"\r\n"), kind, encoding)
    return _with(base, columns=names, data_start=len(head))


def _head(stream: io.BufferedReader, path: str, kind: str) -> tuple[bytes, bool]:
    """(what tells the columns: the header, or whole lines of JSON; whether more lines follow)."""
    if kind != "jsonl":
        return (lines.rest_of_line(stream, path, 0) if kind in DELIMITERS else stream.read(3)), True
    head = stream.read(HEAD_BYTES)
    head += stream.readline(lines.BLOCK_BYTES)
    return head, bool(stream.read(1))


def _with(file: SourceFile, **changes: object) -> SourceFile:
    return SourceFile(**{**vars(file), **changes})  # pyright: ignore[reportArgumentType]


def _header(path: str, line: bytes, kind: str, encoding: str) -> tuple[str, ...]:
    try:
        text = line.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: the header is not {encoding}: {error}; data.encoding: latin-1 reads it") from error
    if "\r" in text:
        raise InputError(f"{path}: got a header with a carriage return in it, takes lines that end in a line feed")
    if kind == "csv":
        try:
            return tuple(next(csv.reader([text]), [])) or ("",)
        except csv.Error as error:
            raise InputError(f"{path}: got a header that is no line of CSV: {error}") from error
    names = text.split(DELIMITERS[kind])
    return tuple(name.partition(":")[0] for name in names) if kind == "inter" else tuple(names)


def _open_parquet(base: SourceFile) -> SourceFile:
    with locations.open_file(base.path) as stream:
        try:
            with pq.ParquetFile(stream) as file:
                meta, schema = file.metadata, file.schema_arrow
                stream.seek(-(meta.serialized_size + 8), 2)
                footer = hashlib.sha256(stream.read()).hexdigest()[:16]
        except (pa.ArrowException, OSError) as error:
            if locations.passes(error):
                raise
            raise locations.trouble_of(error, base.path) or InputError(
                f"{base.path}: not a readable Parquet file (cut off?): {error}"
            ) from error
        etag = locations.etag(base.path, stream)
    return _with(
        base,
        columns=tuple(schema.names),
        types=tuple(_type_name(meta, schema, n) for n in range(len(schema.names))),
        rows=meta.num_rows,
        row_groups=tuple(meta.row_group(n).num_rows for n in range(meta.num_row_groups)),
        footer=footer,
        etag=etag,
    )


def _type_name(meta: pq.FileMetaData, schema: pa.Schema, column: int) -> str:
    """One of values.KINDS; a uint64 column is an integer only where its statistics say that int64 holds it."""
    kind = values.kind_of(schema.field(column).type)
    if not pa.types.is_uint64(schema.field(column).type):
        return kind
    flat = meta.num_columns == len(schema.names)
    stats = [meta.row_group(n).column(column).statistics for n in range(meta.num_row_groups)] if flat else [None]
    return kind if all(s is not None and s.has_min_max and s.max < 2**63 for s in stats) else "huge"


def _cut(file: SourceFile, part_bytes: int, part_rows: int) -> Iterator[tuple[int, int]]:
    if file.rows is None:
        size = file.end - file.data_start
        count = -(-size // part_bytes) if file.compression is None else 1
        edges = [file.data_start + size * n // count for n in range(count + 1)] if count else []
        yield from itertools.pairwise(edges)
        return
    start, rows = 0, 0
    for n, group in enumerate(file.row_groups):
        rows += group
        if rows >= part_rows or n + 1 == len(file.row_groups):
            yield start, n + 1
            start, rows = n + 1, 0


# checking -----------------------------------------------------------------------------------------------------------


def wanted(data: Data, file: SourceFile) -> dict[str, str]:
    """Each recipe key that names a column of the source -> that column."""
    if file.format == "lightgcn":
        return {"data.columns.user": "user", "data.columns.item": "item"}
    keys = {"data.columns.user": data.columns.user, "data.columns.item": data.columns.item}
    if data.columns.time is not None:
        keys["data.columns.time"] = data.columns.time
    keys |= {f"data.keep.{n}.column": rule.column for n, rule in enumerate(data.keep)}
    if isinstance(data.split, GivenSplit) and file_split(data, file) is None:
        keys["data.split.column"] = data.split.column
    return keys


TAKES = {"user": values.ID_KINDS, "item": values.ID_KINDS, "time": values.TIME_KINDS}


def missing(key: str, name: str, file: SourceFile) -> InputError:
    """The error of a column that is not there, or there twice."""
    got = "twice in" if name in file.columns else "not in the first lines of" if file.more else "not in"
    return InputError(f"{key}: got {name!r}, {got} {file.path}; takes one of {', '.join(file.names)}")


def _check_columns(data: Data, file: SourceFile) -> None:
    if file.format == "lightgcn" and (data.keep or data.columns.time):
        raise InputError(f"{file.path}: got data.keep or data.columns.time, takes neither: lightgcn has users and items alone")
    if file.format == "lightgcn" and data.split.by == "given" and file.split is None:
        raise InputError(
            f"{file.path}: data.split.by 'given' takes train.txt, valid.txt and test.txt, or a mapping in data.source"
        )
    for key, name in wanted(data, file).items():
        if file.names.count(name) > 1 or (not file.may_have(name) and key in ("data.columns.user", "data.columns.item")):
            raise missing(key, name, file)
        if name not in file.names:
            continue
        kind = _kind_of(file, name)
        takes = TAKES.get(key.split(".")[-1], values.SPLIT_KINDS if key == "data.split.column" else values.NUMBER_KINDS)
        if kind not in takes:
            raise InputError(f"{key}: {name!r} of {file.path} is {kind}, takes {', '.join(takes)}")


def _check_missing(data: Data, files: tuple[SourceFile, ...]) -> None:
    """A column other than user and item may be missing in some files, whose rows are refused, but not in all.

    Keys of JSON that no file's head has may come later; not those of users, items and times, which every row must have.
    """
    for key, name in {pair for file in files for pair in wanted(data, file).items()}:
        seen = any(name in file.names for file in files)
        if not seen and (key.startswith("data.columns.") or not any(file.more for file in files)):
            raise missing(key, name, files[0])


def _kind_of(file: SourceFile, name: str) -> str:
    """What the file's footer says of a column; all else is text."""
    return file.types[file.columns.index(name)] if file.types and name in file.columns else "text"


def _kinds(files: tuple[SourceFile, ...], name: str) -> set[str]:
    return {_kind_of(file, name) for file in files if file.may_have(name)}


def _id_type(files: tuple[SourceFile, ...], name: str, role: str) -> Literal["int64", "string"]:
    kinds = {"text"} if files[0].format == "lightgcn" else _kinds(files, name)
    if "float" in kinds and kinds & {"text", "huge"}:
        raise InputError(
            f"data.columns.{role}: {name!r} is {' and '.join(sorted(kinds))} in different files, takes one of them"
        )
    return "int64" if kinds <= {"integer", "float"} else "string"


def _time_kind(files: tuple[SourceFile, ...], data: Data) -> Literal["number", "date"]:
    """Numbers or dates; in text the first value that is one of them decides, and rows of the other kind are refused."""
    name = data.columns.time
    assert name is not None, "called only where there is a time column"
    kinds = {"number" if kind != "date" else "date" for kind in _kinds(files, name) - {"text"}}
    if len(kinds) > 1:
        raise InputError(f"data.columns.time: {name!r} is numbers in some files and dates in others, takes one of them")
    if kinds:
        return "date" if "date" in kinds else "number"
    for file in files:
        for text in readers.first_values(file, name, data.encoding, HEAD_BYTES):
            if kind := values.looks_like(text):
                return kind
    return "number"
