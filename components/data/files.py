"""A file of a source, and the part of it that one task reads."""

from __future__ import annotations

from dataclasses import dataclass

DELIMITERS = {"csv": ",", "tsv": "\t", "inter": "\t"}


@dataclass(frozen=True)
class SourceFile:
    """One file. `rows` is exact for Parquet and unknown for text; `data_start` is the offset of the first row of text."""

    path: str
    format: str
    split: str | None
    bytes: int
    mtime_ns: int
    columns: tuple[str, ...]
    types: tuple[str, ...] = ()
    rows: int | None = None
    row_groups: tuple[int, ...] = ()
    data_start: int = 0
    footer: str | None = None

    @property
    def positions(self) -> int:
        """How many values of `order` the file uses: rows of Parquet, bytes of text."""
        return self.bytes if self.rows is None else self.rows


@dataclass(frozen=True)
class Part:
    """What one task reads: row groups of Parquet or bytes of text, `start <= x < stop`, of one file.

    `order` is the position of the file's first row in the whole source, so that order + position orders all rows.
    """

    index: int
    file: SourceFile
    start: int
    stop: int
    order: int
