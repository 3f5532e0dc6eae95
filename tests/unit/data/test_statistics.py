"""Statistics against definitions and laws whose answers are known."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from components.data import statistics
from components.data.statistics import DatasetStatistics, ShardStatistics


def test_equal_items_have_no_inequality() -> None:
    found = statistics.popularity(np.full(200, 7))
    assert found["gini"] == pytest.approx(0)
    assert found["top_10_percent_share"] == pytest.approx(0.1)


def test_one_item_with_everything_is_all_inequality() -> None:
    found = statistics.popularity(np.array([0] * 99 + [50]))
    assert found["gini"] == pytest.approx(0.99)
    assert found["top_1_percent_share"] == 1
    assert found["power_law"] is None


@pytest.mark.parametrize("exponent", [0.7, 1.0, 1.5])
def test_the_power_law_is_that_of_the_rows_by_rank(exponent: float) -> None:
    degree = (1e9 * np.arange(1, 1001) ** -exponent).astype(np.int64)
    found = statistics.popularity(np.random.default_rng(0).permutation(degree))["power_law"]
    assert found["exponent"] == pytest.approx(1 + 1 / exponent, rel=0.05)


def test_gini_is_the_mean_difference_over_twice_the_mean() -> None:
    degree = np.random.default_rng(0).integers(0, 50, 60)
    expected = np.abs(degree[:, None] - degree[None]).mean() / (2 * degree.mean())
    assert statistics.popularity(degree)["gini"] == pytest.approx(expected)


def test_a_log_without_train_rows_has_no_popularity() -> None:
    assert set(statistics.popularity(np.zeros(3, np.int64)).values()) == {None}


def test_quantiles_of_a_histogram_are_those_of_its_values() -> None:
    values = np.random.default_rng(0).geometric(0.1, 999)
    found = statistics.quantiles(Counter(values.tolist()))
    assert found["mean"] == pytest.approx(values.mean())
    assert (found["min"], found["max"]) == (values.min(), values.max())
    for name, share in {"q25": 0.25, "median": 0.5, "q95": 0.95}.items():
        assert found[name] == np.quantile(values, share, method="inverted_cdf")


def test_shards_sum_to_the_whole_and_cold_rows_are_seen() -> None:
    names = ["train", "valid", "test"]
    # user 0 trains on item 0 and tests item 2 (which nobody trains); user 1 only tests; user 2 of another shard trains item 1
    first = ShardStatistics.of(np.array([0, 0, 1]), np.array([0, 2, 0]), np.array([0, 2, 2], np.int8), names)
    second = ShardStatistics.of(np.array([0, 0]), np.array([1, 0]), np.array([0, 2], np.int8), names)
    total = DatasetStatistics(np.zeros(3, np.int64))
    total.add(first)
    total.add(second)
    found = total.describe()
    assert total.rows == {"train": 2, "valid": 0, "test": 3}
    assert found["cold_rows"] == {"valid": 0, "test": 2}
    assert found["density"] == pytest.approx(5 / 9)
    assert (found["users_with_one_row"], found["users_without_train_rows"], found["items_without_train_rows"]) == (1, 1, 1)


def test_a_row_is_behind_where_its_user_trains_later_and_not_at_the_same_moment() -> None:
    names, random = ["train", "valid", "test"], np.random.default_rng(0)
    user, split = np.sort(random.integers(0, 12, 90)), random.integers(0, 3, 90).astype(np.int8)
    times = random.integers(0, 9, 90)
    found = ShardStatistics.of(user, np.zeros(90, np.int64), split, names, times).spans
    rows = list(zip(user.tolist(), split.tolist(), times.tolist(), strict=True))
    for code, name in enumerate(names[1:], 1):
        behind = sum(c == code and any(u == v and d == 0 and t < s for v, d, s in rows) for u, c, t in rows)
        assert 0 < behind == found[name].behind
    assert vars(found["train"]) == {"first": times[split == 0].min(), "last": times[split == 0].max(), "behind": 0}
    halves = DatasetStatistics(np.zeros(1, np.int64))
    for half in (user < 6, user >= 6):
        own = user[half] - user[half].min()
        halves.add(ShardStatistics.of(own, np.zeros(half.sum(), np.int64), split[half], names, times[half]))
    assert halves.spans == found
    assert [line.partition(" ")[0] for line in halves.leaks()] == ["valid", "test"]


def test_a_split_that_begins_when_train_has_ended_leaks_nothing() -> None:
    names, times = ["train", "valid", "test"], np.array([1, 2, 2, 3])
    found = DatasetStatistics(np.zeros(1, np.int64))
    found.add(ShardStatistics.of(np.array([0, 0, 1, 1]), np.zeros(4, np.int64), np.array([0, 0, 1, 2], np.int8), names, times))
    assert not found.leaks()


def test_overlaps_of_shards_are_those_of_the_log_counted_pair_by_pair() -> None:
    names, random = ["train", "valid", "test", "test_b"], np.random.default_rng(1)
    user, item = np.sort(random.integers(0, 60, 400)), random.integers(0, 90, 400)
    split = random.choice(4, 400, p=[0.4, 0.1, 0.3, 0.2]).astype(np.int8)
    split[user % 7 == 0] = 2  # users who do not train
    total = DatasetStatistics(np.zeros(90, np.int64))
    for low, high in ((0, 21), (21, 60)):
        own = (user >= low) & (user < high)
        total.add(ShardStatistics.of(np.unique(user[own], return_inverse=True)[1], item[own], split[own], names))
    rows = list(zip(user.tolist(), item.tolist(), [names[code] for code in split], strict=True))
    train = [(u, i) for u, i, name in rows if name == "train"]
    users, items = {u for u, _ in train}, {i for _, i in train}
    found = total.describe()
    for name in names[1:]:
        held = [(u, i) for u, i, split_name in rows if split_name == name]
        assert found["held_out"][name] == {
            "users": len({u for u, _ in held}),
            "users_not_in_train": len({u for u, _ in held} - users),
            "items": len({i for _, i in held}),
            "items_not_in_train": len({i for _, i in held} - items),
            "rows_also_in_train": sum(pair in train for pair in held),
        }
        assert found["cold_rows"][name] == sum(u not in users or i not in items for u, i in held)
        assert total.held[name].tolist() == [sum(i == each for _, i in held) for each in range(90)]
    known = [key for key, value in found["held_out"]["test"].items() if value]
    assert len(known) == 5, "each of these happens"
    assert found["held_out"]["test"]["rows_also_in_train"] > 0
