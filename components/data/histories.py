"""A user's history, read out of the log: no prefix is ever stored, each is the last of the rows before a row.

Histories are [S, L] items, padded on the right with `num_items`; L is the longest of them, and at least 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.data.interactions import Interactions, ragged
from components.errors import InputError

Ints = NDArray[np.int64]
Positives = Literal["rows", "users", "sequences"]  # what a pass over an epoch consists of (components.training.batches)


class Window(NamedTuple):
    """What an encoder reads of a row's user: of the rows before it, or of all the user's others, the last `length`."""

    length: int
    of: Literal["before", "others"] = "before"


def check_order(encoder: str, reads_order: bool, objective: Mapping[str, Any], data: Any) -> None:
    """Raises an InputError where an encoder is to read what was before a row, and the data has no order.

    Args:
        encoder: its name; `reads_order` is what it says of itself (components.encoders).
        objective: of a recipe, with every argument filled in.
    """
    where = f"where encoder {encoder} {'reads' if reads_order else 'does not read'} what was before a row"
    if objective.get("positives") == "sequences" and not reads_order:
        raise InputError(f"objective.positives: got 'sequences', takes 'rows' or 'users' {where}")
    if not reads_order:
        return
    if data.split.by == "ratio" and data.split.order == "random":
        raise InputError(f"data.split.order: got 'random', takes time {where}")
    if data.split.by == "given" and data.split.valid_fraction:
        raise InputError(f"data.split.valid_fraction: got {data.split.valid_fraction}, takes 0 {where}: it is cut at random")
    if data.split.by == "shifted":
        raise InputError(f"data.split.by: got 'shifted', takes ratio, leave_one_out, given or temporal {where}: rows are drawn")
    if data.columns.time is None and data.split.by != "leave_one_out":
        raise InputError(
            f"data.columns.time: got none, takes a column {where} (data.split.by leave_one_out takes the file's order)"
        )


def with_positives(log: Interactions, window: Window | None, positives: Positives) -> Interactions:
    """The log with `starts`: a row is a positive if its history is not empty and, in sequences, if the window holds it.

    Raises:
        InputError: no row is one.
    """
    if window is None:
        return log
    firsts, ends = log.offsets[:-1], log.offsets[1:]
    if not (ends - firsts > 1).any():
        raise InputError(
            f"data: got {len(log)} training rows of as many users, takes users with two: one is the other's history"
        )
    starts = np.where(ends - firsts > 1, firsts + (window.of == "before"), ends)
    if positives == "sequences":
        starts = np.maximum(starts, ends - window.length)
    return dataclasses.replace(log, starts=starts)


def of_rows(log: Interactions, rows_B: NDArray[np.integer], window: Window) -> tuple[Ints, Ints]:
    """(items_BL, lengths_B): the history of each of some rows."""
    users_B = log.users[rows_B]
    if window.of == "before":
        return _last(log, log.offsets[users_B], rows_B, window.length)
    return _last(log, log.offsets[users_B], log.offsets[users_B + 1] - 1, window.length, without_S=rows_B)


def of_users(log: Interactions, users_S: NDArray[np.integer], length: int) -> tuple[Ints, Ints]:
    """(items_SL, lengths_S): the last items of each of some users; 0 of them for a user without rows."""
    return _last(log, log.offsets[users_S], log.offsets[np.asarray(users_S) + 1], length)


def sequences(log: Interactions, users_S: NDArray[np.integer], window: Window) -> tuple[Ints, Ints]:
    """(items_SL, lengths_S) whose place p is what lies just before the user's p-th positive (`with_positives`)."""
    assert log.starts is not None, "the log of an encoder with a window"
    return _last(log, log.starts[users_S] - 1, log.offsets[np.asarray(users_S) + 1] - 1, window.length)


def _last(
    log: Interactions, firsts_S: Ints, ends_S: NDArray[np.integer], length: int, without_S: NDArray[np.integer] | None = None
) -> tuple[Ints, Ints]:
    """Items of the last rows of [first, end), counted without one row where `without_S` names it."""
    lengths_S = np.minimum(ends_S - firsts_S, length).astype(np.int64)
    row_N = ragged(ends_S - lengths_S, lengths_S)
    sequence_N = np.repeat(np.arange(len(lengths_S)), lengths_S)
    place_N = ragged(np.zeros_like(lengths_S), lengths_S)
    if without_S is not None:
        row_N += row_N >= without_S[sequence_N]
    items_SL = np.full((len(lengths_S), max(int(lengths_S.max(initial=0)), 1)), log.num_items, np.int64)
    items_SL[sequence_N, place_N] = log.items[row_N]
    return items_SL, lengths_S
