"""The law of shifted popularity against the definition, item by item, and against facts of the published law."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from components.data import shifted
from components.data.partitions import mix
from components.data.splits import TRAIN
from components.errors import InputError
from components.split_rules import ShiftedSplit

NAMES = ["train", "valid", "test", "test_gamma10", "test_gamma2", "test_gamma200", "valid_shifted"]


def rule(**changes: Any) -> ShiftedSplit:
    return ShiftedSplit.model_validate({"by": "shifted", **changes})


def zipf(items: int = 2000, rows: int = 400_000, exponent: float = 0.8) -> np.ndarray:
    weights = np.arange(1, items + 1) ** -exponent
    return np.random.default_rng(0).permutation(np.maximum(1, (rows * weights / weights.sum()).astype(np.int64)))


def expected_rows(count: np.ndarray, found: shifted.Shift) -> dict[str, np.ndarray]:
    """In plain loops: what each split takes of each item, one split after another."""
    out: dict[str, list[float]] = {draw.name: [] for draw in found.draws}
    for c, group in zip(count.tolist(), shifted.groups(count).tolist(), strict=True):
        left = float(c) if c > 1 else 0.0
        for draw in found.draws:
            if draw.gamma is None:
                probability = draw.scale
            else:
                probability = min(1.0, draw.scale * draw.gamma ** (-(group - 1) / 49) / left) if left else 0.0
            out[draw.name].append(left * probability)
            left -= left * probability
    return {name: np.array(rows) for name, rows in out.items()}


def test_every_split_gets_its_share() -> None:
    count = zipf()
    taken = expected_rows(count, shifted.law(rule(), count))
    assert list(taken) == ["test_gamma200", "test_gamma10", "test_gamma2", "valid_shifted", "test", "valid"]
    for rows in taken.values():
        assert rows.sum() == pytest.approx(0.1 * count.sum())


def test_the_scale_holds_where_items_run_out() -> None:
    """Items that n would take more of than there is give all they have, and the others make up for it."""
    left, factor = np.array([1.0, 3.0, 100.0]), np.ones(3)
    assert shifted._scale(left, factor, 3.0) == pytest.approx(1.0)
    assert shifted._scale(left, factor, 14.0) == pytest.approx(10.0)  # 1 + 3 + 10
    assert shifted._scale(left, factor, 104.0) == pytest.approx(100.0)


@pytest.mark.parametrize("gamma", [200, 10, 2])
def test_the_most_popular_group_has_gamma_times_the_least_popular_ones_chance(gamma: int) -> None:
    """Of equally many rows; the published first group's factor is gamma^(1/49), the last one's gamma^(-48/49)."""
    ends = shifted.factors(np.array([0, 49]), gamma)
    assert ends[0] / ends[1] == pytest.approx(gamma)
    if gamma == 200:
        assert ends == pytest.approx([1.1142, 0.005571], rel=1e-4)


def test_groups_are_as_large_as_each_other_and_see_neither_order_nor_ties() -> None:
    count = np.random.default_rng(1).permutation(np.arange(1, 1001))
    group = shifted.groups(count)
    assert np.bincount(group).tolist() == [20] * 50
    assert (np.diff(group[np.argsort(count)]) <= 0).all()
    tied = np.array([9, 5, 5, 5, 1])
    assert shifted.groups(tied)[1:4].tolist() == [25] * 3  # the middle of five
    again = np.random.default_rng(2).permutation(5)
    assert (shifted.groups(tied[again]) == shifted.groups(tied)[again]).all()


def rows_of(count: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    item = np.repeat(np.arange(len(count)), count)
    return item, mix(np.arange(len(item), dtype=np.uint64) + np.uint64(seed << 40))


def test_draws_have_the_law() -> None:
    count = zipf()
    found = shifted.law(rule(), count)
    item, keys = rows_of(count)
    codes = found.codes(item, keys, NAMES)
    for name, rows in expected_rows(count, found).items():
        drawn = np.bincount(item[codes == NAMES.index(name)], minlength=len(count))
        assert drawn.sum() == pytest.approx(rows.sum(), abs=5 * rows.sum() ** 0.5), name
        group = shifted.groups(count)
        for n in (0, 10, 25, 49):
            mean = rows[group == n].sum()
            assert abs(drawn[group == n].sum() - mean) < 5 * mean**0.5, (name, n)


def test_popular_items_have_less_of_a_test_the_smaller_gamma_is() -> None:
    count = zipf()
    item, keys = rows_of(count)
    codes = shifted.law(rule(), count).codes(item, keys, NAMES)
    head = np.argsort(-count)[:200]
    share = {name: np.isin(item[codes == n], head).mean() for n, name in enumerate(NAMES)}
    assert share["valid"] > share["test_gamma200"] > share["test_gamma10"] > share["test_gamma2"]
    assert share["valid_shifted"] < share["test_gamma200"]
    assert abs(share["valid"] - share["test"]) < 0.01


def test_an_item_with_one_row_trains() -> None:
    count = np.append(zipf(200, 8000), np.ones(50, np.int64))
    item, keys = rows_of(count)
    codes = shifted.law(rule(), count).codes(item, keys, NAMES)
    assert set(codes[np.isin(item, np.flatnonzero(count == 1))].tolist()) == {TRAIN}


def test_a_row_is_drawn_alone() -> None:
    """No leak: a row's split is a function of the law and its own key, whatever rows are beside it."""
    count = zipf(300, 20_000)
    found = shifted.law(rule(), count)
    item, keys = rows_of(count)
    whole = found.codes(item, keys, NAMES)
    some = np.random.default_rng(5).permutation(len(item))[:900]
    assert (found.codes(item[some], keys[some], NAMES) == whole[some]).all()
    other = rows_of(count, seed=1)[1]
    assert (found.codes(item, other, NAMES) != whole).any()


def test_too_large_shares_are_refused() -> None:
    count = np.append([20], np.ones(100, np.int64))
    with pytest.raises(
        InputError, match=r"^data\.split\.valid: got 0\.06, 7 rows of valid_shifted, takes at most 0\.0[12]\d\d: 2 rows"
    ):
        shifted.law(rule(gammas=[2], each=0.15, valid=0.06, test=0.0), count)
