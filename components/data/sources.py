"""What a recipe's `data.source` is: its files, formats, columns and sizes, found out before any row is read."""

from __future__ import annotations

import csv
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from components.config import SPLITS, Data
from components.data import readers, temporal, values
from components.data.files import DELIMITERS, Part, SourceFile
from components.errors import InputError
from components.split_rules import GivenSplit, TemporalSplit

COMPANIONS = {".item", ".user", ".kg", ".link", ".net", ".md", ".txt", ".json", ".yaml", ".yml"}  # beside a log, no log
SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".pq": "parquet", ".inter": "inter", ".item": "inter"}
HEAD_BYTES = 1 << 16  # enough rows to see what times look like
PART_BYTES = 32 << 20  # of text, for one task
PART_ROWS = 1 << 20  # of Parquet, for one task
BYTES_PER_ROW = 24  # of text: a guess that only sets the number of partitions


@dataclass(frozen=True)
class SourcePlan:
    """The source before it is read. Ids are int64 where every file has integers, else text as written."""

    files: tuple[SourceFile, ...]
    user_type: Literal["int64", "string"]
    item_type: Literal["int64", "string"]
    time_kind: Literal["number", "date"] | None

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
        return sum(file.bytes // BYTES_PER_ROW if file.rows is None else file.rows for file in self.files)

    def parts(self, part_bytes: int = PART_BYTES, part_rows: int = PART_ROWS) -> list[Part]:
        """Cuts every file into tasks, by its size alone."""
        parts: list[Part] = []
        order = 0
        for file in self.files:
            for start, stop in _cut(file, part_bytes, part_rows):
                parts.append(Part(len(parts), file, start, stop, order))
            order += file.positions
        return parts

    def describe(self) -> list[dict[str, object]]:
        """What the fingerprint and the manifest say of the source: everything but its contents."""
        names = ("path", "format", "split", "bytes", "mtime_ns", "rows", "footer")
        return [{name: getattr(file, name) for name in names} for file in self.files]


def inspect(data: Data) -> SourcePlan:
    """Finds and checks the source cheaply: names, sizes, headers, footers.

    Raises:
        InputError: nothing there, an empty or unreadable file, no rows, a column that is not there or of a useless type.
    """
    files = tuple(_open(path, kind, split, data.encoding) for path, kind, split in _find(data))
    if isinstance(data.source, dict) and not isinstance(data.split, GivenSplit):
        raise InputError(f"data.split.by: got {data.split.by!r}, takes 'given' where data.source maps train, valid and test")
    for file in files:
        _check_columns(data, file)
    if not any(file.rows or (file.rows is None and file.data_start < file.bytes) for file in files):
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
    )


def open_one(path: str, encoding: str) -> SourceFile:
    """A single file by its suffix (item titles).

    Raises:
        InputError: not there, empty, of an unknown suffix or unreadable.
    """
    kind = SUFFIXES.get(Path(path).suffix.lower())
    if kind is None:
        raise InputError(f"{path}: got the suffix {Path(path).suffix!r}, takes one of {', '.join(SUFFIXES)}")
    return _open(Path(path), kind, None, encoding)


def file_split(data: Data, file: SourceFile) -> str | None:
    """The split that the file's place decides; None where a column does, or a rule."""
    return file.split if data.split.by == "given" else None


# finding ------------------------------------------------------------------------------------------------------------


def _find(data: Data) -> Iterator[tuple[Path, str, str | None]]:
    if isinstance(data.source, dict):
        if "train" not in data.source:
            raise InputError(
                f"data.source: got {' and '.join(data.source) or 'no key'}, takes train, and beside it valid and test"
            )
        for split in [*SPLITS, *(name for name in data.source if name not in SPLITS)]:
            if split in data.source:
                yield from ((path, kind, split) for path, kind in _expand(data.source[split], data.format))
        return
    for source in [data.source] if isinstance(data.source, str) else data.source:
        for path, kind in _expand(source, data.format):
            yield path, kind, path.stem if kind == "lightgcn" and path.stem in SPLITS else None


def _expand(source: str, kind: str) -> list[tuple[Path, str]]:
    """The files of a path in the order of their names; hidden ones and those that start with `_` are no data."""
    path = Path(source)
    if not path.exists():
        raise InputError(f"data.source: {path}: no such file or folder")
    if path.is_file():
        return [(path, _kind(path, kind))]
    inside = sorted(p for p in path.rglob("*") if p.is_file() and not any(n[0] in "._" for n in p.relative_to(path).parts))
    found = [(p, known) for p in inside if (known := _known(p)) and kind in ("auto", known)]
    if not found and kind not in ("auto", "lightgcn"):
        found = [(p, kind) for p in inside]
    kinds = sorted({known for _, known in found})
    unknown = [p for p in inside if _known(p) is None and p.suffix.lower() not in COMPANIONS]
    if found and kind == "auto" and unknown:
        names = ", ".join(p.name for p in unknown[:5])
        raise InputError(
            f"data.source: {path}: got {len(unknown)} files beside the data that are none: {names}; takes data alone"
        )
    if not found:
        raise InputError(f"data.source: {path}: got a folder without data, takes {', '.join(SUFFIXES)}, train.txt or test.txt")
    if len(kinds) > 1:
        raise InputError(f"data.source: {path}: got {' and '.join(kinds)} files together, takes one of them in data.format")
    return found


def _known(path: Path) -> str | None:
    if path.suffix == ".txt" and path.stem in SPLITS:
        return "lightgcn"
    return None if path.suffix.lower() == ".item" else SUFFIXES.get(path.suffix.lower())


def _kind(path: Path, kind: str) -> str:
    known = kind if kind != "auto" else _known(path)
    if known is None:
        raise InputError(
            f"data.format: {path}: 'auto' does not know {path.suffix!r}, takes csv, tsv, parquet, inter or lightgcn"
        )
    return known


# opening ------------------------------------------------------------------------------------------------------------


def _open(path: Path, kind: str, split: str | None, encoding: str) -> SourceFile:
    try:
        stat = path.stat()
        with path.open("rb") as stream:
            head = stream.readline() if kind in DELIMITERS else stream.read(3)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    if not head:
        raise InputError(f"{path}: got an empty file, takes {'a header and ' if kind in DELIMITERS else ''}rows")
    base = SourceFile(str(path), kind, split, stat.st_size, stat.st_mtime_ns, ())
    if kind == "parquet":
        return _open_parquet(base)
    bom = 3 if head.startswith(b"\xef\xbb\xbf") else 0
    if kind == "lightgcn":
        return _with(base, columns=("user", "item"), data_start=bom)
    names = _header(path, head[bom:].rstrip(b"\r\n"), kind, encoding)
    return _with(base, columns=names, data_start=len(head))


def _with(file: SourceFile, **changes: object) -> SourceFile:
    return SourceFile(**{**vars(file), **changes})  # pyright: ignore[reportArgumentType]


def _header(path: Path, line: bytes, kind: str, encoding: str) -> tuple[str, ...]:
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
    try:
        with pq.ParquetFile(base.path) as file:
            meta, schema = file.metadata, file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{base.path}: not a readable Parquet file (cut off?): {error}") from error
    with Path(base.path).open("rb") as stream:
        stream.seek(-(meta.serialized_size + 8), 2)
        footer = hashlib.sha256(stream.read()).hexdigest()[:16]
    return _with(
        base,
        columns=tuple(schema.names),
        types=tuple(_type_name(meta, schema, n) for n in range(len(schema.names))),
        rows=meta.num_rows,
        row_groups=tuple(meta.row_group(n).num_rows for n in range(meta.num_row_groups)),
        footer=footer,
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
        size = file.bytes - file.data_start
        count = -(-size // part_bytes)
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
    got = "twice in" if name in file.columns else "not in"
    return InputError(f"{key}: got {name!r}, {got} {file.path}; takes one of {', '.join(file.columns)}")


def _check_columns(data: Data, file: SourceFile) -> None:
    if file.format == "lightgcn" and (data.keep or data.columns.time):
        raise InputError(f"{file.path}: got data.keep or data.columns.time, takes neither: lightgcn has users and items alone")
    if file.format == "lightgcn" and data.split.by == "given" and file.split is None:
        raise InputError(
            f"{file.path}: data.split.by 'given' takes train.txt, valid.txt and test.txt, or a mapping in data.source"
        )
    for key, name in wanted(data, file).items():
        if file.columns.count(name) != 1:
            raise missing(key, name, file)
        kind = file.types[file.columns.index(name)] if file.types else "text"
        takes = TAKES.get(key.split(".")[-1], values.SPLIT_KINDS if key == "data.split.column" else values.NUMBER_KINDS)
        if kind not in takes:
            raise InputError(f"{key}: {name!r} of {file.path} is {kind}, takes {', '.join(takes)}")


def _kinds(files: tuple[SourceFile, ...], name: str) -> set[str]:
    return {file.types[file.columns.index(name)] if file.types else "text" for file in files}


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
