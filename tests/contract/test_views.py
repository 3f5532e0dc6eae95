"""Every view obeys the same rules, with every choice it offers; a new file is found by its name and held to them."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from components import catalog
from components.errors import InputError
from components.training.batches import Batch
from components.views import Uniforms, Weights, mask_id, padding_id
from tests.contract.test_parts import Spec, of, specs

VIEWS = specs("views")
ITEMS, WIDTH, ROWS = 50, 12, 91  # seven histories of each length from 0 to 12
RANDOM = torch.Generator().manual_seed(4)
LENGTHS_B = torch.arange(ROWS) % (WIDTH + 1)
HISTORIES_BL = torch.randint(ITEMS, (ROWS, WIDTH), generator=RANDOM)
HISTORIES_BL[torch.arange(WIDTH) >= LENGTHS_B[:, None]] = padding_id(ITEMS)
SIMILAR_IN = torch.randint(ITEMS, (ITEMS, 4), generator=RANDOM, dtype=torch.int32)
WEIGHTS = Weights(
    importance_BL=torch.rand(ROWS, WIDTH, generator=RANDOM),
    targets_B=torch.randint(ITEMS, (ROWS,), generator=RANDOM),
    pool_M=torch.randint(ITEMS, (70,), generator=RANDOM).sort().values,
    behaviours_U=torch.arange(ITEMS),
    similarity_UM=torch.rand(ITEMS, 70, generator=RANDOM) * 2 - 1,
)


def uniforms(first_row: int = 0, rows: int = ROWS, seed: int = 0) -> Uniforms:
    """What an objective hands in for a worker's rows of a global batch."""
    zeros = torch.zeros(rows, dtype=torch.int64)
    return Batch(zeros, zeros, first_row=first_row, rows=ROWS, key=(seed, 0, 0)).uniforms


def call(spec: Spec, rows: slice = slice(ROWS), seed: int = 0) -> tuple[Tensor, Tensor]:
    view = catalog.build("views", spec, ITEMS, SIMILAR_IN)
    extra = [WEIGHTS._replace(importance_BL=WEIGHTS.importance_BL[rows], targets_B=WEIGHTS.targets_B[rows])]
    takes = len(inspect.signature(view.__call__).parameters)
    drawn = uniforms(rows.start or 0, len(LENGTHS_B[rows]), seed)
    return view(HISTORIES_BL[rows], LENGTHS_B[rows], drawn, *extra[: takes - 3])


def test_there_are_views_and_choices() -> None:
    assert {spec["name"] for spec in VIEWS} >= {"crop", "mask", "reorder", "insert", "substitute", "replace"}
    assert {"name": "mask", "token": "own"} in VIEWS
    assert {"name": "replace", "replaces": "indispensable"} in VIEWS
    assert len(VIEWS) >= 8


@of(VIEWS)
def test_a_view_is_a_padded_history_of_known_ids(spec: Spec) -> None:
    view_BL, lengths_B = call(spec)
    assert view_BL.shape == HISTORIES_BL.shape
    assert lengths_B.shape == LENGTHS_B.shape
    assert view_BL.dtype == lengths_B.dtype == torch.int64
    assert lengths_B.max() <= WIDTH
    within_BL = torch.arange(WIDTH) < lengths_B[:, None]
    assert (view_BL[~within_BL] == padding_id(ITEMS)).all()
    ids = view_BL[within_BL]
    assert ((ids >= 0) & (ids <= mask_id(ITEMS))).all()
    assert (view_BL != HISTORIES_BL)[LENGTHS_B >= 3].any(dim=1).sum() > ROWS / 4  # it does something


@of(VIEWS)
def test_empty_histories_stay_empty_and_single_behaviours_as_they_are(spec: Spec) -> None:
    for seed in range(20):
        view_BL, lengths_B = call(spec, seed=seed)
        assert torch.equal(lengths_B == 0, LENGTHS_B == 0)
        assert torch.equal(view_BL[LENGTHS_B < 2], HISTORIES_BL[LENGTHS_B < 2])
        assert torch.equal(lengths_B[LENGTHS_B < 2], LENGTHS_B[LENGTHS_B < 2])


@of(VIEWS)
def test_batches_of_nothing_but_short_histories_are_views_too(spec: Spec) -> None:
    for rows in (slice(0, 1), slice(1, 2), slice(0, 2), slice(0, 0)):
        view_BL, lengths_B = call(spec, rows)
        assert torch.equal(view_BL, HISTORIES_BL[rows])
        assert torch.equal(lengths_B, LENGTHS_B[rows])


@of(VIEWS)
def test_what_a_view_gets_is_neither_changed_nor_shared(spec: Spec) -> None:
    before = [tensor.clone() for tensor in (HISTORIES_BL, LENGTHS_B, SIMILAR_IN, *WEIGHTS[:-1])]
    made = call(spec)
    for tensor in made:
        tensor.fill_(-7)
    after = (HISTORIES_BL, LENGTHS_B, SIMILAR_IN, *WEIGHTS[:-1])
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@of(VIEWS)
def test_a_view_depends_on_its_numbers_alone(spec: Spec) -> None:
    first, again, other = call(spec, seed=1), call(spec, seed=1), call(spec, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


@of(VIEWS)
@pytest.mark.parametrize("ends", [(0, 45, 91), (0, 13, 14, 91), (0, 30, 61, 91)])
def test_several_workers_views_are_those_of_one(spec: Spec, ends: tuple[int, ...]) -> None:
    parts = [call(spec, slice(start, stop)) for start, stop in itertools.pairwise(ends)]
    for whole, of_parts in zip(call(spec), zip(*parts, strict=True), strict=True):
        assert torch.equal(whole, torch.cat(of_parts))


@of(VIEWS)
def test_rows_of_one_user_get_views_of_their_own(spec: Spec) -> None:
    view = catalog.build("views", spec, ITEMS, SIMILAR_IN)
    one = WEIGHTS._replace(importance_BL=WEIGHTS.importance_BL[:1].expand(ROWS, -1))
    extra = [one][: len(inspect.signature(view.__call__).parameters) - 3]
    longest = HISTORIES_BL[WIDTH].expand(ROWS, -1), torch.full((ROWS,), WIDTH)
    view_BL, _ = view(*longest, uniforms(), *extra)
    assert len(view_BL.unique(dim=0)) > 2


@of(VIEWS)
@pytest.mark.parametrize(("ratio", "takes"), [(0, "> 0"), (0.0, "> 0"), (-0.5, "> 0"), (1, "< 1"), (1.0, "< 1"), (7.5, "< 1")])
def test_a_ratio_is_a_share(spec: Spec, ratio: Any, takes: str) -> None:
    with pytest.raises(InputError, match=rf"^views\.2\.ratio: got {ratio}, takes a number {takes[0]} {takes[2]}$"):
        catalog.check("views", {**spec, "ratio": ratio}, "views.2")


@of(VIEWS)
@pytest.mark.parametrize("ratio", ["a half", None, float("nan"), float("inf")])
def test_a_ratio_is_a_number(spec: Spec, ratio: Any) -> None:
    with pytest.raises(InputError, match=rf"^views\.0\.ratio: got {ratio!r}, takes "):
        catalog.check("views", {**spec, "ratio": ratio}, "views.0")
