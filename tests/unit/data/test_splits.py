"""Splits hold their shares for every user, and depend on nothing but the user and the seed."""

from __future__ import annotations

import numpy as np
import pytest

from components.data import splits
from components.data.partitions import mix
from components.data.splits import TEST, TRAIN, VALID
from components.split_rules import GivenSplit, LeaveOneOut, RatioSplit

LENGTHS = np.array([1, 2, 3, 4, 5, 9, 10, 11, 20, 30, 100])
USER = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
HASH = mix(np.arange(len(LENGTHS), dtype=np.uint64))


def counts(codes: np.ndarray, code: int) -> list[int]:
    return np.bincount(USER[codes == code], minlength=len(LENGTHS)).tolist()


def test_leave_one_out_takes_the_last_two_rows_of_users_with_three() -> None:
    codes = splits.cut(LeaveOneOut(by="leave_one_out"), USER, HASH, 0, None)
    for user, length in enumerate(LENGTHS):
        mine = codes[user == USER].tolist()
        assert mine == ([TRAIN] * length if length < 3 else [TRAIN] * (length - 2) + [VALID, TEST]), length


@pytest.mark.parametrize("order", ["time", "random"])
def test_a_ratio_floors_shares_and_gives_small_ones_a_row(order: str) -> None:
    rule = RatioSplit.model_validate({"by": "ratio", "valid": 0.1, "test": 0.2, "order": order})
    codes = splits.cut(rule, USER, HASH, 0, None)
    #                                1  2  3  4  5  9 10 11 20 30 100
    assert counts(codes, TEST) == [0, 1, 1, 1, 1, 1, 2, 2, 4, 6, 20]
    assert counts(codes, VALID) == [0, 0, 1, 1, 1, 1, 1, 1, 2, 3, 10]
    assert min(counts(codes, TRAIN)) == 1


@pytest.mark.parametrize(("valid", "test"), [(0.0, 0.0), (0.0, 0.5), (0.45, 0.5), (0.99, 0.0), (0.29, 0.7)])
def test_every_user_keeps_a_row_to_train(valid: float, test: float) -> None:
    codes = splits.ratio(USER, valid, test, None)
    assert min(counts(codes, TRAIN)) >= 1
    assert counts(codes, TEST)[-1] == round(100 * test)
    assert counts(codes, VALID)[-1] == round(100 * valid)


def test_a_ratio_by_time_takes_the_last_rows() -> None:
    codes = splits.ratio(USER, 0.1, 0.1, None)
    for user in range(len(LENGTHS)):
        assert (np.diff(codes[user == USER]) >= 0).all(), "train, then valid, then test"


def test_random_shares_depend_on_the_seed_and_the_user_alone() -> None:
    rule = RatioSplit(by="ratio", valid=0.1, test=0.2, order="random")
    codes = splits.cut(rule, USER, HASH, 3, None)
    assert (splits.cut(rule, USER, HASH, 3, None) == codes).all()
    assert (splits.cut(rule, USER, HASH, 4, None) != codes).any()
    apart = [splits.cut(rule, np.zeros(n, np.int64), HASH[u : u + 1], 3, None) for u, n in enumerate(LENGTHS)]
    assert (np.concatenate(apart) == codes).all(), "other users of a partition change nothing"


def test_random_shares_fall_everywhere_in_a_history() -> None:
    user = np.repeat(np.arange(4000), 10)
    draws = splits.random_keys(user, mix(np.arange(4000, dtype=np.uint64)), 0)
    test = splits.ratio(user, 0.0, 0.2, draws) == TEST
    by_position = test.reshape(4000, 10).mean(axis=0)
    assert np.abs(by_position - 0.2).max() < 5 * np.sqrt(0.2 * 0.8 / 4000), by_position


def test_a_given_split_is_kept_and_valid_cut_from_train_alone() -> None:
    given = np.where(np.arange(len(USER)) % 3 == 0, TEST, TRAIN).astype(np.int8)
    assert (splits.cut(GivenSplit(by="given"), USER, HASH, 0, given) == given).all()
    codes = splits.cut(GivenSplit(by="given", valid_fraction=0.25), USER, HASH, 0, given)
    assert ((codes == TEST) == (given == TEST)).all()
    assert set(given[codes == VALID].tolist()) == {TRAIN}
    train = np.bincount(USER[given == TRAIN], minlength=len(LENGTHS))
    expected = np.where((train > 1) & (train < 4), 1, train // 4)
    assert counts(codes, VALID) == expected.tolist()
