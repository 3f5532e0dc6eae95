"""Which files a recipe's `data.source` is, of which format, split and folders' columns: by their names alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from urllib.parse import unquote

from components.config import SPLITS, Data
from components.data import locations
from components.data.locations import Found
from components.errors import InputError

COMPANIONS = {".item", ".user", ".kg", ".link", ".net", ".md", ".txt", ".json", ".yaml", ".yml"}  # beside a log, no log
SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".inter": "inter",
    ".item": "inter",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


def find(data: Data) -> Iterator[tuple[Found, str, str | None]]:
    """(file, format, the split that a mapping or a LightGCN file's name says), in the order of the source."""
    if isinstance(data.source, dict):
        if "train" not in data.source:
            takes = "takes train, and beside it valid, test, valid_NAME and test_NAME"
            raise InputError(f"data.source: got {' and '.join(data.source) or 'no key'}, {takes}")
        for split in [*SPLITS, *(name for name in data.source if name not in SPLITS)]:
            if split in data.source:
                yield from ((file, kind, split) for file, kind in _expand(data.source[split], data.format))
        return
    for source in [data.source] if isinstance(data.source, str) else data.source:
        for file, kind in _expand(source, data.format):
            stem = plain(file.inside).stem
            yield file, kind, stem if kind == "lightgcn" and stem in SPLITS else None


def _expand(source: str, kind: str) -> list[tuple[Found, str]]:
    """The files of a path in the order of their names; hidden ones and those that start with `_` are no data."""
    try:
        there = locations.files(source)
    except FileNotFoundError as error:
        raise InputError(f"data.source: {source}: no such file or folder") from error
    except locations.StorageError as error:
        raise locations.StorageError(f"data.source: {error}") from error
    except OSError as error:
        raise InputError(f"data.source: {source}: {error.strerror or error}") from error
    if len(there) == 1 and there[0].path == source:
        return [(there[0], _kind(there[0], kind))]
    inside = [file for file in there if not any(name[0] in "._" for name in file.inside.parts)]
    found = [(file, known) for file in inside if (known := _known(file.inside)) and kind in ("auto", known)]
    if not found and kind not in ("auto", "lightgcn"):
        found = [(file, kind) for file in inside]
    kinds = sorted({known for _, known in found})
    unknown = [f for f in inside if _known(f.inside) is None and plain(f.inside).suffix.lower() not in COMPANIONS]
    if found and kind == "auto" and unknown:
        names = ", ".join(file.inside.name for file in unknown[:5])
        raise InputError(
            f"data.source: {source}: got {len(unknown)} files beside the data that are none: {names}; takes data alone"
        )
    if not found:
        takes = f"{', '.join(SUFFIXES)}, train.txt or test.txt, or JSON lines of other names with data.format: jsonl"
        raise InputError(f"data.source: {source}: got a folder without data, takes {takes}")
    if len(kinds) > 1:
        raise InputError(f"data.source: {source}: got {' and '.join(kinds)} files together, takes one of them in data.format")
    return found


def _known(path: PurePosixPath) -> str | None:
    bare = plain(path)
    if bare.suffix == ".txt" and bare.stem in SPLITS:
        return "lightgcn"
    kind = None if bare.suffix.lower() == ".item" else SUFFIXES.get(bare.suffix.lower())
    return None if kind == "parquet" and bare != path else kind


def _kind(file: Found, kind: str) -> str:
    known = kind if kind != "auto" else _known(file.inside)
    if known is None:
        got = f"{file.path}: 'auto' does not know {file.inside.suffix!r}"
        raise InputError(f"data.format: {got}, takes csv, tsv, parquet, inter, jsonl or lightgcn")
    return known


def plain(path: PurePosixPath) -> PurePosixPath:
    """Without the suffix of a compression."""
    return path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path


def partitions(inside: PurePosixPath) -> tuple[tuple[str, str | None], ...]:
    """The columns of Hive's folders below a source, as day=2020-01-01: text, decoded; Hive's word for null is null."""
    pairs = [folder.partition("=")[::2] for folder in inside.parent.parts if re.match("[^=]+=.", folder)]
    return tuple((unquote(name), None if value == HIVE_NULL else unquote(value)) for name, value in pairs)
