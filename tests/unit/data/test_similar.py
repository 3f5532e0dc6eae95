"""Similar items against the sums written out."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from components.data import similar
from components.data.interactions import Interactions
from components.data.similar import similar_items

ITEMS = 25


def log(rows: int = 300, users: int = 40) -> Interactions:
    """With repeats, users without rows, and items (the last three) without any."""
    random = np.random.default_rng(2)
    return Interactions.of(random.integers(0, users, rows), random.integers(0, ITEMS - 3, rows), users + 2, ITEMS)


def similarities(train: Interactions) -> list[list[float]]:
    baskets = [set(train.items_of(user).tolist()) for user in range(train.num_users)]
    count = [sum(item in basket for basket in baskets) for item in range(train.num_items)]
    table = [[0.0] * train.num_items for _ in range(train.num_items)]
    for basket in baskets:
        for i in basket:
            for j in basket - {i}:
                table[i][j] += 1 / math.log(1 + len(basket)) / math.sqrt(count[i] * count[j])
    return table


def test_neighbours_are_the_most_similar() -> None:
    train = log()
    table, neighbours = similarities(train), similar_items(train, 6)
    assert neighbours.shape == (ITEMS, 6)
    for item, row in enumerate(neighbours.tolist()):
        best = sorted((s for s in table[item] if s > 0), reverse=True)[:6]
        assert [table[item][other] for other in row if other < ITEMS] == pytest.approx(best, rel=1e-12)
        assert len(set(row) - {ITEMS}) == len(best)
        assert item not in row
    assert (neighbours[-3:] == ITEMS).all()


def test_the_weight_of_a_user_falls_with_its_items() -> None:
    """0 is with 1 in a basket of two, with 2 in one of four: as often, but worth more."""
    train = Interactions.of([0, 0, 1, 1, 1, 1], [0, 1, 0, 2, 3, 4], 2, 5)
    assert similar_items(train, 2)[0].tolist() == [1, 2]


def test_of_equally_similar_items_the_lower_id_is_first() -> None:
    train = Interactions.of([0] * 4, [3, 1, 2, 0], 1, 4)
    assert similar_items(train, 3).tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


def test_there_are_no_more_neighbours_than_items_together() -> None:
    train = Interactions.of([0, 0, 1], [0, 1, 2], 2, 3)
    assert similar_items(train, 3).tolist() == [[1, 3, 3], [0, 3, 3], [3, 3, 3]]
    assert similar_items(Interactions.of([], [], 0, 2), 1).tolist() == [[2], [2]]


def test_the_table_does_not_depend_on_how_many_pairs_are_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    train = log()
    whole = similar_items(train, 6)
    for pairs in (1, 50, 333):
        monkeypatch.setattr(similar, "PAIRS_AT_ONCE", pairs)
        assert np.array_equal(similar_items(train, 6), whole)


def test_the_log_is_left_as_it_was() -> None:
    train = log()
    before = train.items.copy()
    similar_items(train, 2)
    assert np.array_equal(train.items, before)


@pytest.mark.parametrize("at_once", [1, 7, 100])
def test_blocks_are_whole_and_bounded(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar, "PAIRS_AT_ONCE", at_once)
    pairs = np.random.default_rng(0).integers(0, 20, 50)
    blocks = similar._blocks(pairs)
    assert [item for start, stop in blocks for item in range(start, stop)] == list(range(50))
    assert max(int(pairs[start:stop].sum()) for start, stop in blocks) <= at_once + pairs.max()


def test_a_node_computes_the_table_once_and_maps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the rows of its log, one for each number of neighbours; what a killed writer left is no table."""
    given = log()
    cached, computed = dataclasses.replace(given, cache=tmp_path / "rows"), []
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "similar_6.partial.npy").write_bytes(b"killed")
    made = similar.similar_items
    monkeypatch.setattr(similar, "similar_items", lambda train, n: computed.append(n) or made(train, n))
    tables = [similar.mapped(cached, n) for n in (6, 6, 3)]
    assert computed == [6, 3]
    for table, n in zip(tables, (6, 6, 3), strict=True):
        assert isinstance(table, np.memmap)
        assert np.array_equal(table, made(given, n))
    assert sorted(file.name for file in (tmp_path / "rows").iterdir()) == ["similar_3.npy", "similar_6.npy"]
    assert np.array_equal(similar.mapped(given, 6), tables[0]), "without a cache it is computed here"
    assert computed == [6, 3, 6]
