"""A part of a source file -> blocks of columns as they were written. A line that is no row is refused, never an exception."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.data import json_lines, locations, values
from components.data.arrow import pc
from components.data.files import DELIMITERS, Part, SourceFile
from components.data.lines import Block, Lines, Refused, lines_of
from components.errors import InputError

BLOCK_ROWS = 1 << 17
BUFFER_BYTES = 1 << 20  # of a column that is read at once: else all of a row group's
LONGEST = 1 << 17  # bytes of a line with quotes: Python's csv takes no longer field
Ints = NDArray[np.int64]


def read(part: Part, names: Sequence[str], encoding: str) -> Iterator[Block]:
    """The columns `names` of a part.

    Raises:
        InputError: the file cannot be read (cut off, gone).
    """
    own = [name for name in names if part.file.reads(name)]
    blocks = _parquet(part, own) if part.file.format == "parquet" else _text(part, own, encoding)
    return (_with_others(block, part.file, names) for block in blocks)


def _text(part: Part, names: Sequence[str], encoding: str) -> Iterator[Block]:
    parse = {"lightgcn": _pairs, "jsonl": json_lines.parse}.get(part.file.format, _rows)
    try:
        yield from (parse(lines, part.file, names, encoding) for lines in lines_of(part))
    except (pa.ArrowException, OSError) as error:
        if locations.passes(error):
            raise
        raise _refusal(part, "not readable", error) from error


def _refusal(part: Part, what: str, error: Exception) -> InputError:
    path = part.file.path
    return locations.trouble_of(error, path) or InputError(f"{path}: {what} (cut off?): {error}")


def _with_others(block: Block, file: SourceFile, names: Sequence[str]) -> Block:
    """With the columns that a file has from its path alone, as text; nulls where it does not have one at all."""
    others = [name for name in names if not file.reads(name)]
    constants = {name: pa.repeat(pa.scalar(dict(file.partitions).get(name), pa.string()), len(block.line)) for name in others}
    return replace(block, columns={**block.columns, **constants}) if others else block


def whole(file: SourceFile) -> Part:
    """All of a file as one part."""
    stop = file.end if file.rows is None else len(file.row_groups)
    return Part(0, file, file.data_start, stop)


def first_values(file: SourceFile, name: str, encoding: str, head_bytes: int) -> list[str]:
    """A column's values in the first bytes of a file of text, or the first rows of Parquet."""
    if file.rows is not None:
        column = next((block.columns[name] for block in read(whole(file), [name], encoding)), pa.array([], pa.string()))
    else:
        part = Part(0, file, file.data_start, min(file.end, file.data_start + head_bytes))
        column = next((block.columns[name] for block in read(part, [name], encoding)), pa.array([], pa.string()))
    return [text for text in values.utf8(column, name, values.Refusals(len(column))).to_pylist() if text]


# Parquet ------------------------------------------------------------------------------------------------------------


def _parquet(part: Part, names: Sequence[str]) -> Iterator[Block]:
    line = 0
    try:
        system, path = locations.locate(part.file.path)
        with pq.ParquetFile(path, filesystem=system, buffer_size=BUFFER_BYTES) as file:
            groups = list(range(part.start, part.stop))
            block = min(BLOCK_ROWS, part.block or BLOCK_ROWS)
            for batch in file.iter_batches(block, row_groups=groups, columns=list(dict.fromkeys(names))):
                rows = np.arange(len(batch), dtype=np.int64)
                columns = {name: _plain(batch[name]) for name in names}
                yield Block(columns, line + rows + 1, _as_json(columns), line + len(batch))
                line += len(batch)
    except (pa.ArrowException, OSError) as error:
        if locations.passes(error):
            raise
        raise _refusal(part, "not a readable Parquet file", error) from error


def _plain(array: pa.Array) -> pa.Array:
    """Decoded, and without the views that few of Arrow's functions take."""
    if isinstance(array, pa.DictionaryArray):
        return _plain(array.dictionary_decode())
    views = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
    return pc.cast(array, views[array.type]) if array.type in views else array


def _as_json(columns: dict[str, pa.Array]) -> Callable[[Ints], list[str]]:
    encode = json.JSONEncoder(default=str).encode

    def texts(rows: Ints) -> list[str]:
        taken = (_python(column.take(pa.array(rows))) for column in columns.values())
        return [encode(dict(zip(columns, row, strict=True))) for row in zip(*taken, strict=True)]

    return texts


def _python(column: pa.Array) -> list[Any]:
    try:
        return column.to_pylist()
    except (OverflowError, ValueError):  # a date that Python has none of: its number
        return column.view(f"int{column.type.bit_width}").to_pylist()


# text ---------------------------------------------------------------------------------------------------------------


def _rows(lines: Lines, file: SourceFile, names: Sequence[str], encoding: str) -> Block:
    """Lines of delimited text. A line is a row: a line break inside quotes is refused."""
    refusals = values.Refusals(len(lines.starts))
    blank = lines.starts == lines.ends
    plain = _count(lines, 34) == 0 if file.format == "csv" else np.ones(len(blank), bool)
    if file.format == "csv":
        refusals.add(_count(lines, 34) % 2 == 1, "a quote is not closed in its line")
        refusals.add(~plain & (lines.ends - lines.starts > LONGEST), f"a line with quotes of more than {LONGEST:,} bytes")
    refusals.add(_count(lines, 13) > 0, "a carriage return inside the line")
    fields = _count(lines, ord(DELIMITERS[file.format])) + 1
    refusals.add(~blank & plain & (fields != len(file.columns)), _wrong_fields(file))
    used = np.flatnonzero(refusals.good & ~blank)
    columns, wrong = _parse(_bytes(lines, used, encoding), len(used), file, names)
    bad = np.zeros(len(lines.starts), bool)
    bad[used[wrong]] = True
    refusals.add(bad, _wrong_fields(file))
    used = np.delete(used, wrong)
    refused = [
        Refused(lines.first + int(n), refusals.reasons[refusals.codes[n]], lines.text_of(int(n), encoding))
        for n in np.flatnonzero(~refusals.good)
    ]
    return Block(
        columns,
        line=lines.first + used,
        raw=lambda rows: [lines.text_of(n, encoding) for n in used[rows].tolist()],
        last_line=lines.first + len(lines.starts) - 1,
        refused=refused,
    )


def _wrong_fields(file: SourceFile) -> str:
    return f"wrong number of fields (the header has {len(file.columns)})"


def _count(lines: Lines, byte: int) -> Ints:
    """How often a byte occurs in each line."""
    found = np.flatnonzero(lines.data == byte)
    return np.searchsorted(found, lines.ends) - np.searchsorted(found, lines.starts)


def _bytes(lines: Lines, used: Ints, encoding: str) -> bytes:
    """The used lines again as bytes of UTF-8 (or what claims to be)."""
    if len(used) == len(lines.starts):
        data = lines.data.tobytes()
    else:
        lengths = np.diff(np.append(lines.starts, len(lines.data)))
        keep = np.zeros(len(lines.starts), bool)
        keep[used] = True
        data = lines.data[np.repeat(keep, lengths)].tobytes()
    return data.decode("latin-1").encode() if encoding == "latin-1" else data


def _parse(data: bytes, rows: int, file: SourceFile, names: Sequence[str]) -> tuple[dict[str, pa.Array], list[int]]:
    """(columns of bytes, the lines with a wrong number of fields, which only quotes can hide until here)."""
    at = {name: str(file.columns.index(name)) for name in names}
    wrong: list[int] = []

    def skip(row: pacsv.InvalidRow) -> str:
        wrong.append(row.number - 1)
        return "skip"

    if not rows:
        return {name: pa.array([], pa.binary()) for name in names}, wrong
    if file.format == "csv" and b'"' in data and not values.decodes(data):
        return _parse_slowly(data, file, at)  # pyarrow cannot hand over a wrong line that is not UTF-8
    try:
        table = pacsv.read_csv(
            pa.BufferReader(data),
            pacsv.ReadOptions(
                column_names=[str(n) for n in range(len(file.columns))], use_threads=False, block_size=len(data) + 1
            ),
            pacsv.ParseOptions(
                delimiter=DELIMITERS[file.format],
                quote_char='"' if file.format == "csv" else False,
                invalid_row_handler=skip,
            ),
            pacsv.ConvertOptions(
                column_types={n: pa.binary() for n in at.values()},
                include_columns=list(dict.fromkeys(at.values())),
                strings_can_be_null=False,
                check_utf8=False,
            ),
        )
    except pa.ArrowInvalid:
        return _parse_slowly(data, file, at)
    if table.num_rows + len(wrong) != rows:  # a quote in mid-field swallowed a line
        return _parse_slowly(data, file, at)
    return {name: table[n].combine_chunks() for name, n in at.items()}, wrong


def _parse_slowly(data: bytes, file: SourceFile, at: dict[str, str]) -> tuple[dict[str, pa.Array], list[int]]:
    """Line by line, for the rare block that the fast parser cannot keep apart."""
    columns: dict[str, list[bytes]] = {name: [] for name in at}
    wrong: list[int] = []
    for n, line in enumerate(io.BytesIO(data)):
        text = line.rstrip(b"\r\n").decode(errors="surrogateescape")  # any bytes
        fields = next(csv.reader([text])) if '"' in text and file.format == "csv" else text.split(DELIMITERS[file.format])
        if len(fields) != len(file.columns):
            wrong.append(n)
            continue
        for name, position in at.items():
            columns[name].append(fields[int(position)].encode(errors="surrogateescape"))
    return {name: pa.array(column, pa.binary()) for name, column in columns.items()}, wrong


def _pairs(lines: Lines, file: SourceFile, names: Sequence[str], encoding: str) -> Block:
    """Lines `user item item ...`: one row for each item; a user without items is no row."""
    assert set(names) <= {"user", "item"}, f"lightgcn has users and items, got {names}"
    offsets = np.append(lines.starts, len(lines.data)).astype(np.int32)
    data = pa.Array.from_buffers(pa.binary(), len(lines.starts), [None, pa.py_buffer(offsets), pa.py_buffer(lines.data)])
    if encoding == "latin-1":
        data = pa.array([value.decode("latin-1").encode() for value in data.to_pylist()], pa.binary())
    refusals = values.Refusals(len(lines.starts))
    text = pc.utf8_trim_whitespace(values.utf8(data, "line", refusals))
    tokens = pc.utf8_split_whitespace(text)
    lengths = np.asarray(pc.list_value_length(tokens)).astype(np.int64)
    flat = tokens.flatten()
    is_user = np.zeros(len(flat), bool)
    is_user[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
    line = np.repeat(np.arange(len(lengths)), lengths)
    users = flat.take(pa.array((np.cumsum(lengths) - lengths)[line[~is_user]]))
    items = flat.filter(pa.array(~is_user))
    refused = [
        Refused(lines.first + int(n), refusals.reasons[refusals.codes[n]], lines.text_of(int(n), encoding))
        for n in np.flatnonzero(~refusals.good)
    ]
    return Block(
        {"user": users, "item": items},
        line=lines.first + line[~is_user],
        raw=lambda rows: [f"{users[row]} {items[row]}" for row in rows.tolist()],
        last_line=lines.first + len(lines.starts) - 1,
        refused=refused,
    )
