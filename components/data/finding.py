"""Which files a recipe's `data.source` is, of which format, split and folders' columns: by their names alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from components.config import SPLITS, Data
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


def find(data: Data) -> Iterator[tuple[Path, str, str | None]]:
    """(file, format, the split that a mapping or a LightGCN file's name says), in the order of the source."""
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
            stem = plain(path).stem
            yield path, kind, stem if kind == "lightgcn" and stem in SPLITS else None


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
    unknown = [p for p in inside if _known(p) is None and plain(p).suffix.lower() not in COMPANIONS]
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
    bare = plain(path)
    if bare.suffix == ".txt" and bare.stem in SPLITS:
        return "lightgcn"
    kind = None if bare.suffix.lower() == ".item" else SUFFIXES.get(bare.suffix.lower())
    return None if kind == "parquet" and bare != path else kind


def _kind(path: Path, kind: str) -> str:
    known = kind if kind != "auto" else _known(path)
    if known is None:
        raise InputError(
            f"data.format: {path}: 'auto' does not know {path.suffix!r}, takes csv, tsv, parquet, inter, jsonl or lightgcn"
        )
    return known


def plain(path: Path) -> Path:
    """Without the suffix of a compression."""
    return path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path


def partitions(path: Path) -> tuple[tuple[str, str | None], ...]:
    """The columns of Hive's folders, as day=2020-01-01: text, decoded; Hive's word for null is null."""
    pairs = [folder.partition("=")[::2] for folder in path.parent.parts if re.match("[^=]+=.", folder)]
    return tuple((unquote(name), None if value == HIVE_NULL else unquote(value)) for name, value in pairs)
