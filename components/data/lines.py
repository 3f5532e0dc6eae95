"""A part of a file of text -> its lines; and what every reader makes of them: blocks of columns, and what it refuses."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.data import locations
from components.data.files import Part, SourceFile
from components.errors import InputError

BLOCK_BYTES = 8 << 20
LONGEST_LINE = 64 << 20  # bytes; what has no line end in as many is no file of lines
BUFFER_BYTES = 1 << 16  # read at once where a line is all that is wanted
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Refused:
    """A line or row that cannot be used; `line` counts from 1 in the part."""

    line: int
    reason: str
    raw: str


@dataclass(frozen=True)
class Block:
    """Rows of a part, in their order: columns of equal length, each row's line, and rows' text on demand."""

    columns: dict[str, pa.Array]
    line: Ints
    raw: Callable[[Ints], list[str]]
    last_line: int
    refused: list[Refused] = field(default_factory=list)


def open_text(file: SourceFile) -> io.BufferedReader:
    """The file's bytes, decompressed."""
    raw: Any = (
        locations.open_file(file.path) if file.compression is None else locations.open_compressed(file.path, file.compression)
    )
    return io.BufferedReader(raw, BUFFER_BYTES)


def rest_of_line(file: io.BufferedReader, path: str, position: int) -> bytes:
    """From a position to the line's end, or the file's.

    Raises:
        InputError: it is not there in LONGEST_LINE bytes.
    """
    line = file.readline(LONGEST_LINE + 1)
    if len(line) > LONGEST_LINE:
        got = f"got no end of a line in the {LONGEST_LINE:,} bytes from {position:,} on"
        raise InputError(f"{path}: {got}, takes lines that end in a line feed")
    return line


@dataclass(frozen=True)
class Lines:
    """Whole lines of a file: line n is data[starts[n]:ends[n]]."""

    data: NDArray[np.uint8]
    starts: Ints
    ends: Ints  # without the line's end
    first: int  # number of the first line, from 1 in the part

    def bytes_of(self, n: int) -> bytes:
        return self.data[self.starts[n] : self.ends[n]].tobytes()

    def text_of(self, n: int, encoding: str) -> str:
        return self.bytes_of(n).decode(encoding, errors="backslashreplace")


def lines_of(part: Part) -> Iterator[Lines]:
    """The lines that start in a part; a line that the part before it started is that part's."""
    with open_text(part.file) as file:
        position = part.start
        if position > part.file.data_start:
            file.seek(position - 1)
            position += len(rest_of_line(file, part.file.path, position)) - 1
        else:
            file.read(position)
        first = 1
        while position < part.stop:
            data = file.read(min(BLOCK_BYTES, part.block or BLOCK_BYTES, part.stop - position))
            if not data and part.file.compression:
                return
            if not data:
                raise InputError(f"{part.file.path}: got {position} bytes, takes {part.file.bytes}: it shrank while being read")
            if not data.endswith(b"\n"):
                data += rest_of_line(file, part.file.path, position + len(data))
            lines = split(data, first)
            yield lines
            position, first = position + len(data), first + len(lines.starts)


def split(data: bytes, first: int) -> Lines:
    if not data.endswith(b"\n"):
        data += b"\n"
    array = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(array == 10)
    starts = np.concatenate([[0], ends[:-1] + 1])
    returns = (ends > starts) & (array[ends - 1] == 13)
    return Lines(array, starts, ends - returns, first)
