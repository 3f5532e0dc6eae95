"""crop, mask, reorder, substitute, insert: against one history at a time, and the law of what they draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from components import catalog
from components.data.interactions import Interactions
from components.views import mask_id, padding_id, similar_for
from tests.unit.views import loops

ITEMS, WIDTH, ROWS, MANY = 30, 12, 260, 20_000
HISTORIES = loops.random_histories(ROWS, WIDTH, ITEMS)
SIMILAR = torch.tensor([[(item + n) % ITEMS if n <= item % 4 else ITEMS for n in (1, 2, 3)] for item in range(ITEMS)])
OPTIONS = [[item for item in row if item < ITEMS] for row in SIMILAR.tolist()]  # 1 to 3 each; of items 0, 4, 8 .. none


def build(**spec: Any) -> Any:
    return catalog.build("views", spec, ITEMS, SIMILAR)


def told(view: tuple[Tensor, Tensor]) -> list[list[int]]:
    return [row[:length] for row, length in zip(view[0].tolist(), view[1].tolist(), strict=True)]


def transcribed(spec: dict[str, Any], loop: Callable[..., list[int]], per_row: dict[str, int], *more: Any) -> None:
    """The view of all histories is that of each; `per_row` numbers are drawn for each purpose."""
    uniforms = loops.numbers(ROWS)
    view = build(**spec)(*loops.padded(HISTORIES, WIDTH, ITEMS), uniforms)
    drawn = [uniforms(purpose, n).tolist() for purpose, n in per_row.items()]
    drawn = [[row[0] for row in rows] if n == 1 else rows for rows, n in zip(drawn, per_row.values(), strict=True)]
    for b, history in enumerate(HISTORIES):
        assert told(view)[b] == loop(history, *(rows[b] for rows in drawn), spec["ratio"], *more), history


@pytest.mark.parametrize("ratio", [0.1, 0.29, 0.5, 0.6, 0.8, 0.99])
class TestAgainstLoops:
    def test_crop(self, ratio: float) -> None:
        transcribed({"name": "crop", "ratio": ratio}, loops.crop, {"start": 1})

    @pytest.mark.parametrize(("token", "id_"), [("padding", ITEMS), ("own", ITEMS + 1)])
    def test_mask(self, ratio: float, token: str, id_: int) -> None:
        transcribed({"name": "mask", "ratio": ratio, "token": token}, loops.mask, {"positions": WIDTH}, id_)

    def test_reorder(self, ratio: float) -> None:
        transcribed({"name": "reorder", "ratio": ratio}, loops.reorder, {"start": 1, "order": WIDTH})

    @pytest.mark.parametrize("neighbours", [1, 2, 3])
    def test_substitute(self, ratio: float, neighbours: int) -> None:
        options = [each[:neighbours] for each in OPTIONS]
        spec = {"name": "substitute", "ratio": ratio, "neighbours": neighbours}
        transcribed(spec, loops.substitute, {"positions": WIDTH, "neighbour": WIDTH}, options)

    @pytest.mark.parametrize("neighbours", [1, 2, 3])
    def test_insert(self, ratio: float, neighbours: int) -> None:
        options = [each[:neighbours] for each in OPTIONS]
        spec = {"name": "insert", "ratio": ratio, "neighbours": neighbours}
        transcribed(spec, loops.insert, {"positions": WIDTH, "neighbour": WIDTH}, options, WIDTH)


def test_sizes_are_the_published_codes() -> None:
    """MCLRec at crop .5, mask .5, reorder .8: of lengths 1 to 6, and 50."""
    lengths = [1, 2, 3, 4, 5, 6, 50]
    batch = loops.padded([list(range(n)) for n in lengths], 50, 60)
    views = {name: catalog.build("views", {"name": name}, 60, None)(*batch, loops.numbers(7)) for name in ("crop", "mask")}
    assert views["crop"][1].tolist() == [1, 1, 1, 2, 2, 3, 25]
    assert ((views["mask"][0] != batch[0]).sum(dim=1)).tolist() == [0, 1, 1, 2, 2, 3, 25]
    farthest = np.zeros(len(lengths), int)  # from the first position that moved to the last
    for seed in range(300):
        moved = catalog.build("views", {"name": "reorder"}, 60, None)(*batch, loops.numbers(7, seed))[0] != batch[0]
        spans = [int(row.nonzero().max() - row.nonzero().min()) + 1 if row.any() else 0 for row in moved]
        farthest = np.maximum(farthest, spans)
    assert farthest.tolist() == [0, 0, 2, 3, 4, 4, 40]


def test_a_share_is_that_of_a_python_float() -> None:
    """.29 times 100 is a little less than 29."""
    view = catalog.build("views", {"name": "crop", "ratio": 0.29}, 200, None)
    assert view(*loops.padded([list(range(100))], 100, 200), loops.numbers(1))[1].tolist() == [28]


def many(name: str, length: int, **spec: Any) -> list[list[int]]:
    """Views of as many histories 0, 1, 2 .."""
    batch = loops.padded([list(range(length))] * MANY, WIDTH, ITEMS)
    return told(build(name=name, **spec)(*batch, loops.numbers(MANY)))


def uniform(found: Counter[Any], outcomes: int, draws: int = MANY) -> bool:
    """All outcomes came, and each about as often: within five standard deviations."""
    expected = draws / outcomes
    return len(found) == outcomes and all(abs(n - expected) < 5 * expected**0.5 for n in found.values())


def test_a_crops_start_is_uniform() -> None:
    views = many("crop", 10, ratio=0.6)
    assert all(view == list(range(view[0], view[0] + 6)) for view in views)
    assert uniform(Counter(view[0] for view in views), outcomes=5)


def test_every_position_is_masked_alike_and_pairs_too() -> None:
    views = many("mask", 6, ratio=0.4, token="own")
    masked = [tuple(place for place, item in enumerate(view) if item == mask_id(ITEMS)) for view in views]
    assert all(item in (place, mask_id(ITEMS)) for view in views for place, item in enumerate(view))
    assert uniform(Counter(masked), outcomes=15)  # 2 of 6
    assert uniform(Counter(place for places in masked for place in places), outcomes=6, draws=2 * MANY)


def test_a_window_is_shuffled_uniformly_and_the_rest_stays() -> None:
    views = Counter(tuple(view) for view in many("reorder", 4))  # a window of 3, from 0 or from 1
    both = {view: n for view, n in views.items() if view[0] == 0 and view[3] == 3}  # 0 1 2 3 and 0 2 1 3, from either
    assert uniform(Counter(both), outcomes=2, draws=MANY // 3)
    assert uniform(views - Counter(both), outcomes=8, draws=MANY * 2 // 3)


def test_reorder_keeps_every_behaviour() -> None:
    views = told(build(name="reorder")(*loops.padded(HISTORIES, WIDTH, ITEMS), loops.numbers(ROWS)))
    assert [sorted(view) for view in views] == [sorted(history) for history in HISTORIES]
    assert sum(view != history for view, history in zip(views, HISTORIES, strict=True)) > ROWS / 2


@pytest.mark.parametrize("name", ["substitute", "insert"])
def test_similar_items_are_drawn_alike(name: str) -> None:
    """Of 0, 5, 10, 15 one is chosen; it has no similar item, 6, 11 or 12, 16 or 17 or 18."""
    history = [0, 5, 10, 15]
    batch = loops.padded([history] * MANY, WIDTH, ITEMS)
    views = told(build(name=name, ratio=0.25, neighbours=3)(*batch, loops.numbers(MANY)))
    found = Counter(tuple(view) for view in views)
    expected = {tuple(history): 1 / 4}
    for place in (1, 2, 3):
        for new in OPTIONS[history[place]]:
            view = (*history[:place], new, *history[place + (name == "substitute") :])
            expected[view] = 1 / 4 / len(OPTIONS[history[place]])
    assert set(found) == set(expected)
    for view, share in expected.items():
        assert abs(found[view] - share * MANY) < 5 * (share * MANY) ** 0.5


def test_what_no_longer_fits_goes_from_the_oldest_end() -> None:
    history = [1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15]  # as long as there is room; all have similar items
    view = build(name="insert", ratio=0.5)(*loops.padded([history], WIDTH, ITEMS), loops.numbers(1))
    assert view[1].tolist() == [WIDTH]
    assert told(view)[0][-1] == 15
    assert [item for item in told(view)[0] if item in history][-3:] == [13, 14, 15]
    roomy = build(name="insert", ratio=0.5)(*loops.padded([history], 2 * WIDTH, ITEMS), loops.numbers(1))
    assert roomy[1].tolist() == [WIDTH + 6]


def test_the_table_is_as_wide_as_the_widest_view_asks() -> None:
    train = Interactions.of([0, 0, 0, 1, 1], [0, 1, 2, 1, 2], 2, 4)
    specs = [{"name": "crop"}, {"name": "insert", "neighbours": 2}, {"name": "substitute", "neighbours": 1}]
    table = similar_for(specs, train)
    assert table is not None
    assert table.tolist()[1:] == [[2, 0], [1, 0], [padding_id(4)] * 2]
    assert similar_for(specs[:1], train) is None
