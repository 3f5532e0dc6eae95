"""A file of a source, and the part of it that one task reads."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter

DELIMITERS = {"csv": ",", "tsv": "\t", "inter": "\t"}
EXPANSION_BITS = 20  # zstd's densest block makes 2^17 bytes of 4, gzip's 2^10 of 1


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
    compression: str | None = None
    partitions: tuple[tuple[str, str | None], ...] = ()  # columns that the folders' names hold: day=2020-01-01
    etag: str | None = None  # of S3
    more: bool = False  # JSON lines beyond the head: their keys are not known

    @property
    def names(self) -> tuple[str, ...]:
        """Every column, the folders' too."""
        return self.columns + tuple(name for name, _ in self.partitions if name not in self.columns)

    def may_have(self, name: str) -> bool:
        """Whether a row of the file may have the column."""
        return self.more or name in self.names

    def reads(self, name: str) -> bool:
        """Whether the column is read out of the file; else it is its folder's, or there is none."""
        return name in self.columns or (self.more and name not in self.names)

    @property
    def end(self) -> int:
        """No byte of text is at or beyond it; of a compressed file a bound, since its size is not known."""
        return self.bytes if self.compression is None else self.bytes << EXPANSION_BITS


@dataclass(frozen=True)
class Part:
    """What one task reads: row groups of Parquet or bytes of text, `start <= x < stop`, of one file.

    `block` bounds what is read at once, rows of Parquet or bytes of text, where it is less than the reader's own measure.
    """

    index: int
    file: SourceFile
    start: int
    stop: int
    block: int | None = None


PARTS = TypeAdapter(list[Part])  # as text, for the task that reads them
