"""Lines of JSON objects -> columns of text, as of any other text: 7 and "7" are the same id."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from components.data.files import SourceFile
from components.data.lines import Block, Lines, Refused
from components.data.values import EXACT
from components.errors import InputError


def _number(text: str) -> str:
    """As written, so that no digit is lost; but an integer that was written as a float (5.0, 5.00, 5e0) is that integer."""
    if "e" in text.lower():
        value = float(text)
        return str(int(value)) if value.is_integer() and abs(value) <= EXACT else text
    whole, _, fraction = text.partition(".")
    if fraction.strip("0"):
        return text
    return "0" if whole == "-0" else whole


DECODER = json.JSONDecoder(parse_int=str, parse_float=_number, parse_constant=str)


def parse(lines: Lines, file: SourceFile, names: Sequence[str], encoding: str) -> Block:
    """One row for each line; blank lines are none. A key that is not there is null."""
    columns: dict[str, list[str | None]] = {name: [] for name in names}
    used: list[int] = []
    refused: list[Refused] = []
    for n in np.flatnonzero(lines.ends > lines.starts).tolist():
        row, reason = _row(lines.bytes_of(n), names, encoding)
        if reason:
            refused.append(Refused(lines.first + n, reason, lines.text_of(n, encoding)))
            continue
        used.append(n)
        for name in names:
            columns[name].append(row[name])
    rows = np.array(used, np.int64)
    return Block(
        {name: pa.array(column, pa.string()) for name, column in columns.items()},
        line=lines.first + rows,
        raw=lambda at: [lines.text_of(n, encoding) for n in rows[at].tolist()],
        last_line=lines.first + len(lines.starts) - 1,
        refused=refused,
    )


def _row(line: bytes, names: Sequence[str], encoding: str) -> tuple[dict[str, str | None], str]:
    """(the values, nothing) or (nothing, why the line is no row)."""
    try:
        found = DECODER.decode(line.decode(encoding))
    except UnicodeDecodeError:
        return {}, f"not {encoding}"
    except (json.JSONDecodeError, RecursionError):
        return {}, "not JSON"
    if not isinstance(found, dict):
        return {}, "not a JSON object"
    row = {name: found.get(name) for name in names}
    odd = [name for name, value in row.items() if value is not None and not isinstance(value, str)]
    lone = [name for name, value in row.items() if isinstance(value, str) and not _encodes(value)]
    if odd:
        return {}, f"{odd[0]} is neither text nor a number"
    return ({}, f"{lone[0]} is not Unicode") if lone else (row, "")


def _encodes(text: str) -> bool:
    """Half of a pair, as JSON may write it, is no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def keys(path: str, head: bytes, encoding: str) -> tuple[str, ...]:
    """The keys of a file's first objects, in their order.

    Raises:
        InputError: no line of them is an object.
    """
    found: dict[str, None] = {}
    for line in head.split(b"\n"):
        try:
            row = json.loads(line.decode(encoding))
        except (ValueError, RecursionError):
            continue
        found |= dict.fromkeys(row) if isinstance(row, dict) else {}
    if not found:
        raise InputError(f"{path}: got no JSON object in its first lines, takes one in each line, of at most 8 MiB")
    return tuple(found)
