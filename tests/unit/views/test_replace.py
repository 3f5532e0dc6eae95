"""replace: against one history at a time, the law of its draws, and what must never be drawn."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from components import catalog
from components.errors import InputError
from components.views import Uniforms, Weights
from tests.unit.views import loops

ITEMS, WIDTH, ROWS, POOL, MANY = 40, 10, 220, 64, 30_000
HISTORIES = loops.random_histories(ROWS, WIDTH, ITEMS // 2)  # many repeats


def weights(rows: int, **replaced: Any) -> Weights:
    """Random ones, some of the same importance; the pool holds items of the histories, and some items twice."""
    random = torch.Generator().manual_seed(3)
    given: dict[str, Any] = {
        "importance_BL": torch.randint(6, (rows, WIDTH), generator=random) / 6,
        "targets_B": torch.randint(ITEMS, (rows,), generator=random),
        "pool_M": torch.randint(ITEMS, (POOL,), generator=random).sort().values,
        "behaviours_U": torch.arange(ITEMS),
    }
    cosines = torch.rand(ITEMS, ITEMS, generator=random, dtype=torch.float64) * 2 - 1
    given |= replaced
    return Weights(**{"similarity_UM": cosines[given["behaviours_U"]][:, given["pool_M"]], **given})


def build(**spec: Any) -> Any:
    return catalog.build("views", {"name": "replace", **spec}, ITEMS, None)


def told(view: tuple[Tensor, Tensor]) -> list[list[int]]:
    return [row[:length] for row, length in zip(view[0].tolist(), view[1].tolist(), strict=True)]


def same(history: list[int], **given: Any) -> list[list[int]]:
    """Views of as many rows of one history, with weights and settings of the view."""
    settings = {name: given.pop(name) for name in ("replaces", "ratio", "sharpness", "temperature") if name in given}
    rows = {"importance_BL": (MANY, WIDTH), "targets_B": (MANY,)}
    wide = {name: torch.as_tensor(v).expand(*rows[name]) if name in rows else v for name, v in given.items()}
    return told(build(**settings)(*loops.padded([history] * MANY, WIDTH, ITEMS), loops.numbers(MANY), weights(MANY, **wide)))


def constant(number: float) -> Uniforms:
    return lambda purpose, n: torch.full((1, n), number, dtype=torch.float64)


def importance(*values: float) -> Tensor:
    return torch.tensor([*values, *[0.0] * (WIDTH - len(values))])


def close(found: int, share: float, of: int = MANY) -> bool:
    return abs(found - share * of) < 5 * max(1.0, share * (1 - share) * of) ** 0.5


@pytest.mark.parametrize("ramp", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("replaces", ["dispensable", "indispensable"])
def test_it_is_the_view_of_each_history(replaces: str, temperature: float, ramp: float) -> None:
    given, uniforms = weights(ROWS, ramp=ramp), loops.numbers(ROWS)
    view = told(build(replaces=replaces, temperature=temperature)(*loops.padded(HISTORIES, WIDTH, ITEMS), uniforms, given))
    pool, cosines = given.pool_M.tolist(), given.similarity_UM.tolist()
    similarity = {(u, j): cosines[u][m] for u in range(ITEMS) for m, j in enumerate(pool)}
    positions, substitutes = (uniforms(purpose, WIDTH).tolist() for purpose in ("positions", "substitute"))
    for b, history in enumerate(HISTORIES):
        own = int(given.targets_B[b]), given.importance_BL[b].tolist(), positions[b], substitutes[b]
        expected = loops.replace(
            history,
            *own,
            sign=1 if replaces == "dispensable" else -1,
            ratio=0.5,
            sharpness=5 * ramp,
            temperature=temperature,
            pool=pool,
            similarity=similarity,
        )
        assert view[b] == expected, history


def test_positions_go_by_their_rank() -> None:
    """The specification's shares at sharpness 5, of ranks 1, .5 and 0; only the order of importance counts."""
    shares = (0.9184230, 0.0753888, 0.0061883)
    for replaces, expected in (("indispensable", shares), ("dispensable", shares[::-1])):
        views = same([7, 8, 9], replaces=replaces, importance_BL=importance(0.9, 0.2, 0.1))
        for place in range(3):
            assert close(sum(view[place] != 7 + place for view in views), expected[place])


@pytest.mark.parametrize(("replaces", "stays"), [("dispensable", 9), ("indispensable", 0)])
def test_at_its_sharpest_ranks_decide(replaces: str, stays: int) -> None:
    """Of ten behaviours, the less important the earlier, all but one give way."""
    given = {"pool_M": torch.arange(20, 30), "importance_BL": torch.arange(10) / 10}
    for view in same([*range(10)], replaces=replaces, sharpness=100.0, ratio=0.95, **given)[:500]:
        assert [place for place in range(10) if view[place] == place] == [stays]


@pytest.mark.parametrize("sharpness", [100.5, 1e4, -1.0])
def test_a_sharpness_whose_clocks_would_not_be_finite_is_refused(sharpness: float) -> None:
    takes = ">= 0" if sharpness < 0 else "<= 100"
    with pytest.raises(InputError, match=rf"^views\.1\.sharpness: got {sharpness}, takes a number {takes}$"):
        catalog.check("views", {"name": "replace", "sharpness": sharpness}, "views.1")


def test_without_sharpness_any_positions_alike() -> None:
    for given in ({"sharpness": 0.0}, {"ramp": 0.0}):
        views = same([5, 6, 7, 8], importance_BL=importance(0.9, 0.3, 0.2, 0.1), **given)
        pairs = Counter(tuple(place for place in range(4) if view[place] != 5 + place) for view in views)
        assert len(pairs) == 6
        assert all(close(n, 1 / 6) for n in pairs.values())


def test_behaviours_of_one_importance_are_alike_whatever_lies_at_padding() -> None:
    given = importance(0.5, 0.5, 0.5)
    given[3:] = torch.linspace(0.1, 0.9, WIDTH - 3)
    views = same([5, 6, 7], importance_BL=given)
    assert all(close(sum(view[place] != 5 + place for view in views), 1 / 3) for place in range(3))


@pytest.mark.parametrize(("replaces", "sign"), [("dispensable", 1), ("indispensable", -1)])
def test_substitutes_go_by_their_similarity(replaces: str, sign: int) -> None:
    """Of behaviour 0, whose like in the pool are itself, another of the history, the target, and three others, one twice."""
    pool, cosines = torch.tensor([0, 1, 2, 10, 11, 12, 12]), torch.tensor([1.0, 0.9, 0.8, 0.5, -0.3, 0.1, 0.1])
    table = torch.zeros(ITEMS, len(pool))
    table[0] = cosines
    given = {"importance_BL": importance(*(sign * a for a in (0.1, 0.8, 0.9))), "targets_B": 2, "sharpness": 50.0}
    views = same([0, 1, 3], replaces=replaces, temperature=0.5, pool_M=pool, similarity_UM=table, **given)
    found = Counter(view[0] for view in views)
    raised = {10: math.exp(sign * 0.5 / 0.5), 11: math.exp(sign * -0.3 / 0.5), 12: 2 * math.exp(sign * 0.1 / 0.5)}
    assert set(found) == set(raised)
    for item, value in raised.items():
        assert close(found[item], value / sum(raised.values()))


def test_without_similarities_any_substitute_alike() -> None:
    views = same([0, 1, 2], targets_B=3, pool_M=torch.arange(10), similarity_UM=torch.zeros(ITEMS, 10))
    found = Counter(item for view in views for item in view if item > 2)
    assert len(found) == 6
    assert all(close(n, 1 / 6) for n in found.values())


@pytest.mark.parametrize(("length", "count"), [(3, 1), (5, 2), (10, 5)])
def test_as_many_are_replaced_as_the_specification_says(length: int, count: int) -> None:
    views = same(list(range(length)), pool_M=torch.arange(20, 30))
    assert {sum(view[place] != place for place in range(length)) for view in views} == {count}


def test_a_behaviour_is_replaced_wherever_it_is_and_counts_once() -> None:
    views = same([4, 5, 4, 6, 4, 7], pool_M=torch.arange(20, 30), ramp=0.0)
    for view in views:
        assert view[0] == view[2] == view[4]
        assert sum(new != old for new, old in zip((view[0], view[1], view[3], view[5]), (4, 5, 6, 7), strict=True)) == 2
    assert close(sum(view[0] != 4 for view in views), 1 / 2)


def test_neither_the_history_nor_the_target_is_ever_drawn() -> None:
    given = weights(ROWS, similarity_UM=torch.eye(ITEMS)[:, weights(ROWS).pool_M])
    histories = loops.padded(HISTORIES, WIDTH, ITEMS)
    for seed in range(30):
        for replaces in ("dispensable", "indispensable"):
            view = told(build(replaces=replaces, temperature=0.05)(*histories, loops.numbers(ROWS, seed), given))
            for history, new, target in zip(HISTORIES, view, given.targets_B.tolist(), strict=True):
                drawn = {item for item, old in zip(new, history, strict=True) if item != old}
                assert not drawn & {*history, target}
                assert drawn <= set(given.pool_M.tolist())


def test_even_numbers_at_both_ends_draw_what_may_be_drawn() -> None:
    """0, and the largest below 1; the pool begins and ends with items of the history."""
    for number in (0.0, 1 - 2**-53):
        given = weights(1, targets_B=torch.tensor([2]), pool_M=torch.tensor([0, 0, 2, 4, 5, 9, 9]))
        view = build()(*loops.padded([[0, 1, 9]], WIDTH, ITEMS), constant(number), given)
        assert len(set(told(view)[0]) & {4, 5}) == 1


def test_a_behaviour_stays_for_which_nothing_is_left() -> None:
    given = weights(2, targets_B=torch.tensor([3, 3]), pool_M=torch.tensor([0, 0, 1, 2, 3]))
    view = build()(*loops.padded([[0, 1, 2], [0, 1, 9]], WIDTH, ITEMS), loops.numbers(2), given)
    assert told(view)[0] == [0, 1, 2]
    assert told(view)[1] != [0, 1, 9]


def test_short_histories_and_those_of_one_behaviour_come_back_as_they_are() -> None:
    histories = [[], [4], [4, 5], [4, 5, 6], [4, 4, 4], [4, 4, 5]]
    view = told(build()(*loops.padded(histories, WIDTH, ITEMS), loops.numbers(6), weights(6)))
    assert [new == old for new, old in zip(view, histories, strict=True)] == [True, True, True, False, True, False]


def test_other_behaviours_in_the_table_change_nothing() -> None:
    """A table of those there are, and one of every item."""
    histories, uniforms = loops.padded(HISTORIES, WIDTH, ITEMS), loops.numbers(ROWS)
    every = weights(ROWS)
    there = torch.tensor(sorted({item for history in HISTORIES for item in history}))
    assert len(there) < ITEMS
    few = every._replace(behaviours_U=there, similarity_UM=every.similarity_UM[there])
    assert torch.equal(build()(*histories, uniforms, every)[0], build()(*histories, uniforms, few)[0])


def test_a_negative_view_does_more_damage_than_a_positive_one() -> None:
    """sum of a_t (1 - relatedness) over what was replaced: what the two kinds are for."""
    given, histories = weights(ROWS), loops.padded(HISTORIES, WIDTH, ITEMS)
    of_item = {item: column for column, item in enumerate(given.pool_M.tolist())}
    damage = {}
    for replaces in ("dispensable", "indispensable"):
        new_BL = build(replaces=replaces)(*histories, loops.numbers(ROWS), given)[0]
        rows, places = (new_BL != histories[0]).nonzero(as_tuple=True)
        columns = torch.tensor([of_item[item] for item in new_BL[rows, places].tolist()])
        related = (1 + given.similarity_UM[histories[0][rows, places], columns]) / 2
        damage[replaces] = float((given.importance_BL[rows, places] * (1 - related)).sum())
    assert 10 * damage["dispensable"] < damage["indispensable"]
