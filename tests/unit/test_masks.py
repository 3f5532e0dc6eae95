"""Pairs of rows and candidates by the keys that both have, against loops; never more of them than are asked for."""

from __future__ import annotations

import pytest
import torch

from components.masks import Mask
from components.negatives._seen import Seen
from components.objectives import _tiled
from components.objectives._shared import Shared
from tests.held import Held
from tests.worlds import small_log

ROWS, KEYS, CANDIDATES, GIVEN = 13, 9, 40, 60


def drawn(high: int, count: int, seed: int) -> torch.Tensor:
    return torch.randint(high, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def given() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """In no order, some twice, some of keys that no candidate has."""
    rows_N, keys_N, keys_C = drawn(ROWS - 1, GIVEN, 0), drawn(KEYS, GIVEN, 1), drawn(KEYS - 2, CANDIDATES, 2)
    assert len(set(zip(rows_N.tolist(), keys_N.tolist(), strict=True))) < GIVEN
    return rows_N, keys_N, keys_C


def test_pairs_are_those_of_loops(given: tuple[torch.Tensor, ...]) -> None:
    rows_N, keys_N, keys_C = (each.tolist() for each in given)
    wanted = {(row, c) for row, key in zip(rows_N, keys_N, strict=True) for c in range(CANDIDATES) if keys_C[c] == key}
    mask = Mask(given[0], given[1], given[2], ROWS)
    found = [tuple(pair) for pair in torch.stack(mask.pairs()).T.tolist()]
    assert len(found) == len(set(found)) > GIVEN
    assert set(found) == wanted
    for first in range(0, CANDIDATES, 7):
        of_some = torch.stack(mask.pairs(slice(first, first + 7))).T.tolist()
        assert {(row, first + column) for row, column in of_some} == {(r, c) for r, c in wanted if first <= c < first + 7}


def test_rows_with_something_left(given: tuple[torch.Tensor, ...]) -> None:
    rows_N, keys_N, keys_C = given
    everything = torch.arange(KEYS)
    mask = Mask(torch.cat([rows_N, torch.full((KEYS,), 3)]), torch.cat([keys_N, everything]), keys_C, ROWS)
    masked = mask.pairs()[0].tolist()
    assert mask.left().tolist() == [CANDIDATES - masked.count(row) for row in range(ROWS)]
    assert [row for row, left in enumerate(mask.left().tolist()) if not left] == [3]
    assert not Mask(rows_N, keys_N, keys_C[:0], ROWS).left().any(), "of no candidates"
    assert Mask.of_pairs(rows_N[:0], rows_N[:0], ROWS, 1).left().tolist() == [1] * ROWS


def test_all_of_a_users_items_are_masked_in_the_memory_of_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a pool in which items come thousands of times: what a log-sum-exp holds does not grow with it."""
    log = small_log().seen
    users_B, queries_BD = torch.arange(60).repeat(10), torch.ones(600, 2)
    held, pairs = {}, {}
    for candidates in (2_000, 100_000):
        items_C, vectors_CD = drawn(40, candidates, 3), torch.ones(candidates, 2)
        told: list[int] = []
        of_some = Mask.pairs

        def counted(mask: Mask, columns: slice, told: list[int] = told, of_some=of_some) -> tuple[torch.Tensor, torch.Tensor]:
            found = of_some(mask, columns)
            told.append(len(found[0]))
            return found

        monkeypatch.setattr(Mask, "pairs", counted)
        with Held() as holding:
            mask = Seen(log).among(users_B, items_C)
            _tiled.log_sum_exp(Shared(candidates), queries_BD, vectors_CD, mask)
        monkeypatch.setattr(Mask, "pairs", of_some)
        held[candidates], pairs[candidates] = holding.peak, sum(told)
        assert max(told) < 600 * 256
    assert pairs[100_000] > 40 * pairs[2_000] > 40 * 200_000
    assert held[100_000] - held[2_000] < 24 * 98_000 < 8 * pairs[100_000]
