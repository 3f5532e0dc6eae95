"""Columns as they were written -> ids, numbers and times; a value that is none is marked, never an exception."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.data.arrow import pc

Bools = NDArray[np.bool_]
ID_KINDS = ("integer", "huge", "float", "text")
TIME_KINDS = ("integer", "float", "date", "text")
NUMBER_KINDS = ("integer", "huge", "float", "boolean", "text")
SPLIT_KINDS = ("text",)
NUMBER = r"^-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
WHOLE, LONG = r"^-?\d{1,18}$", r"^-?\d{19}$"
LARGEST = str(2**63 - 1)
EXACT = 2**53  # the largest integer up to which a float holds every one
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Refusals:
    """The first reason against each row; `codes` 0 is none."""

    def __init__(self, rows: int) -> None:
        self.codes = np.zeros(rows, np.int16)
        self.reasons: list[str] = [""]

    def add(self, bad: Bools, reason: str) -> None:
        bad = bad & (self.codes == 0)
        if bad.any():
            if reason not in self.reasons:
                self.reasons.append(reason)
            self.codes[bad] = self.reasons.index(reason)

    @property
    def good(self) -> Bools:
        return self.codes == 0


def kind_of(kind: pa.DataType) -> str:
    """integer, float, boolean, date, text, or the Arrow type's name if we read none of it."""
    if pa.types.is_dictionary(kind):
        return kind_of(kind.value_type)
    tests: list[tuple[str, Callable[[Any], bool]]] = [
        ("integer", pa.types.is_integer),
        ("float", pa.types.is_floating),
        ("float", pa.types.is_decimal),
        ("boolean", pa.types.is_boolean),
        ("date", pa.types.is_timestamp),
        ("date", pa.types.is_date),
        ("text", is_text),
    ]
    return next((name for name, test in tests if test(kind)), str(kind))


def is_text(kind: pa.DataType) -> bool:
    names = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    return any(getattr(pa.types, f"is_{name}")(kind) for name in names)


def ids(column: pa.Array, name: str, out: Literal["int64", "string"], refused: Refusals) -> pa.Array:
    """Ids of the type `out`: integers stay integers, text stays as written. Refused rows hold any value."""
    refused.add(_mask(column.is_null()), f"{name} is null")
    kind = kind_of(column.type)
    if kind == "text":
        text = utf8(column, name, refused)
        refused.add(_mask(pc.equal(pc.binary_length(text), 0)), f"{name} is empty")
        return text
    if kind == "float":
        numbers = _floats(column)
        whole = np.isfinite(numbers) & (np.floor(numbers) == numbers) & (np.abs(numbers) <= EXACT)
        refused.add(~whole, f"{name} is not a whole number")
        column = pa.array(np.where(whole, numbers, 0).astype(np.int64))
    return pc.cast(pc.fill_null(column, 0), pa.int64() if out == "int64" else pa.string())


def utf8(column: pa.Array, name: str, refused: Refusals) -> pa.Array:
    """Bytes -> text; bytes that are no UTF-8 are refused."""
    column = pc.fill_null(pc.cast(column, pa.binary()), b"")
    try:
        return pc.cast(column, pa.string())
    except pa.ArrowInvalid:
        bad = np.array([not decodes(value) for value in column.to_pylist()])
        refused.add(bad, f"{name} is not UTF-8 (data.encoding: latin-1 may read it)")
        return pc.cast(pc.if_else(pa.array(bad), pa.scalar(b"", pa.binary()), column), pa.string())


def numbers(column: pa.Array, name: str, refused: Refusals) -> NDArray[np.float64]:
    """Finite float64; nulls, text that is no number, NaN and infinities are refused."""
    refused.add(_mask(column.is_null()), f"{name} is null")
    if kind_of(column.type) != "text":
        out = _floats(column)
    else:
        whole, fraction, finite = _parse(column, name, refused)
        out = np.where(finite, whole + fraction, np.nan)
    refused.add(~np.isfinite(out), f"{name} is not finite")
    return out


def times(column: pa.Array, name: str, kind: str, refused: Refusals) -> tuple[NDArray[np.int64], NDArray[np.float64], bool]:
    """(whole, fraction, is_float): time = whole + fraction with 0 <= fraction < 1, both exact.

    Integers keep every digit (nanoseconds exceed a float); dates become microseconds since 1970 (UTC where none is said).
    """
    rows = len(column)
    refused.add(_mask(column.is_null()), f"{name} is null")
    own = kind_of(column.type)
    if own == "date":
        exact = pc.cast(column, pa.timestamp(column.type.unit if pa.types.is_timestamp(column.type) else "ms"))
        micros = pc.cast(exact, pa.timestamp("us"), safe=False)
        if exact.type.unit != "ns":  # too large a number of coarser units wraps; nanoseconds only lose digits
            refused.add(_mask(pc.not_equal(pc.cast(micros, exact.type, safe=False), exact)), f"{name} is out of range")
        return _ints(pc.cast(micros, pa.int64())), np.zeros(rows), False
    if own == "integer":
        if pa.types.is_uint64(column.type):
            refused.add(_mask(pc.greater(column, pa.scalar(2**63 - 1, pa.uint64()))), f"{name} is out of range")
        return _ints(pc.cast(column, pa.int64(), safe=False)), np.zeros(rows), False
    if own == "float":
        whole, fraction = _floor(_floats(column), name, refused)
        return whole, fraction, True
    if kind == "date":
        return _dates(utf8(column, name, refused), name, refused), np.zeros(rows), False
    whole, fraction, finite = _parse(column, name, refused)
    refused.add(~finite, f"{name} is not finite")
    return whole, fraction, bool(fraction[refused.good].any())


def looks_like(text: str) -> Literal["number", "date"] | None:
    """What a time written as text is."""
    if re.match(NUMBER, text.strip()):
        return "number"
    return "date" if date(text) is not None else None


def _parse(column: pa.Array, name: str, refused: Refusals) -> tuple[NDArray[np.int64], NDArray[np.float64], Bools]:
    """Text -> (whole, fraction, finite)."""
    text = pc.utf8_trim_whitespace(utf8(column, name, refused))
    rows = len(text)
    is_whole = _mask(pc.match_substring_regex(text, WHOLE))
    if not is_whole.all():
        long = pc.match_substring_regex(text, LONG)
        is_whole |= _mask(pc.and_(long, pc.less_equal(pc.utf8_ltrim(text, "-"), LARGEST)))
    whole = _ints(pc.cast(pc.if_else(pa.array(is_whole), text, "0"), pa.int64()))
    if is_whole.all():
        return whole, np.zeros(rows), np.ones(rows, bool)
    refused.add(_mask(pc.equal(pc.binary_length(text), 0)), f"{name} is empty")
    infinite = _mask(pc.match_substring_regex(text, r"^[-+]?(nan|inf|infinity)$", ignore_case=True))
    refused.add(infinite, f"{name} is not finite")
    is_number = _mask(pc.match_substring_regex(text, NUMBER))
    refused.add(~is_number, f"{name} is not a number")
    values = _floats(pc.cast(pc.if_else(pa.array(is_number), text, "0"), pa.float64()))
    other_whole, fraction = _floor(np.where(is_whole, 0.0, values), name, refused)
    return np.where(is_whole, whole, other_whole), fraction, np.isfinite(values) & ~infinite


def _floor(values: NDArray[np.float64], name: str, refused: Refusals) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    finite = np.isfinite(values)
    refused.add(~finite, f"{name} is not finite")
    fits = finite & (np.abs(values) < 2.0**63)
    refused.add(~fits, f"{name} is out of range")
    values = np.where(fits, values, 0.0)
    whole = np.floor(values)
    return whole.astype(np.int64), values - whole


def _dates(text: pa.Array, name: str, refused: Refusals) -> NDArray[np.int64]:
    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            return _ints(pc.cast(pc.cast(text, kind), pa.int64()))
        except pa.ArrowInvalid:
            continue
    parsed = [date(value) for value in text.to_pylist()]
    refused.add(np.array([value is None for value in parsed]), f"{name} is not a date")
    return np.array([value or 0 for value in parsed], np.int64)


def date(text: str) -> int | None:
    """ISO 8601 -> microseconds since 1970."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - EPOCH) // timedelta(microseconds=1)


def decodes(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _mask(array: pa.Array) -> Bools:
    return np.asarray(pc.fill_null(array, False))


def _ints(array: pa.Array) -> NDArray[np.int64]:
    return np.asarray(pc.fill_null(array, 0))


def _floats(array: pa.Array) -> NDArray[np.float64]:
    return np.asarray(pc.fill_null(pc.cast(array, pa.float64(), safe=False), float("nan")))
