"""Which of a user's rows train, which validate and which test: pure functions of rows sorted by user and time.

`user` is [rows] ascending codes; the result is [rows] codes TRAIN, VALID or TEST. Random choices are keyed by
(seed, user's hash, position in the history), so neither partitions nor the order of users change them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.data.partitions import mix
from components.split_rules import GivenSplit, LeaveOneOut, RatioSplit, Split

Ints = NDArray[np.int64]
Codes = NDArray[np.int8]
Hashes = NDArray[np.uint64]
TRAIN, VALID, TEST = range(3)
EPSILON = 1e-9  # 0.1 * 30 is 3.0000000000000004 and 0.29 * 100 is 28.999999999999996: both are whole shares


def cut(rule: Split, user: Ints, user_hash: Hashes, seed: int, given: Codes | None) -> Codes:
    """Applies a recipe's `data.split` where it looks at each user's rows alone.

    `given` holds the source's own codes (2 and above are tests of any name).
    """
    if isinstance(rule, LeaveOneOut):
        return leave_one_out(user)
    if isinstance(rule, RatioSplit):
        draw = random_keys(user, user_hash, seed) if rule.order == "random" else None
        return ratio(user, rule.valid, rule.test, draw)
    assert isinstance(rule, GivenSplit), f"{rule.by} is cut by its own law"
    assert given is not None, "a given split needs the source's codes"
    if not rule.valid_fraction:
        return given
    out = given.copy()
    train = np.flatnonzero(given == TRAIN)
    mine = ratio(user[train], rule.valid_fraction, 0.0, random_keys(user[train], user_hash, seed))
    out[train[mine == VALID]] = VALID
    return out


def leave_one_out(user: Ints) -> Codes:
    """The last row is test, the one before it valid; a user with one row or two only trains."""
    position, length = _positions(user)
    out = np.full(len(user), TRAIN, np.int8)
    out[(length >= 3) & (position == length - 1)] = TEST
    out[(length >= 3) & (position == length - 2)] = VALID
    return out


def ratio(user: Ints, valid: float, test: float, draw: Hashes | None) -> Codes:
    """The last shares of each user's rows, in the order of time or, where given, of `draw`.

    Of n rows, test gets floor(test n) and valid floor(valid n); a share between 0 and 1 row becomes one row, test before
    valid, while train keeps at least one. Source: RecBole 1.2, data/dataset/dataset.py, _calcu_split_ids.
    """
    position, length = _positions(user)
    if draw is not None:
        by_draw = np.lexsort((draw, user))
        drawn = np.empty_like(position)
        drawn[by_draw] = position  # the rank of each row among its user's draws
        position = drawn
    counts = [np.floor(share * length + EPSILON).astype(np.int64) for share in (test, valid)]
    room = length - counts[0] - counts[1]
    for n, share in enumerate((test, valid)):
        more = (share * length > 0) & (share * length < 1 - EPSILON) & (room > 1)
        counts[n] += more
        room -= more
    from_end = length - position
    out = np.full(len(user), TRAIN, np.int8)
    out[from_end <= counts[0] + counts[1]] = VALID
    out[from_end <= counts[0]] = TEST
    return out


def random_keys(user: Ints, user_hash: Hashes, seed: int) -> Hashes:
    """A key for each row from (seed, user, position in the user's rows). `user_hash` is [rows' users], by code."""
    position, _ = _positions(user)
    return mix(mix(user_hash[user] ^ mix(np.full(1, seed, np.uint64))) + position.astype(np.uint64))


def _positions(user: Ints) -> tuple[Ints, Ints]:
    """(position in the user's rows from 0, number of the user's rows), both [rows]."""
    assert (np.diff(user) >= 0).all(), "rows are sorted by user"
    _, starts, lengths = np.unique(user, return_index=True, return_counts=True)
    return np.arange(len(user)) - np.repeat(starts, lengths), np.repeat(lengths, lengths)
