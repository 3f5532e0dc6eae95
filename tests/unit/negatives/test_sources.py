"""Every source: which candidates it gives, which it keeps out, and how often it draws an item."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from components import catalog
from components.data.interactions import Interactions
from components.errors import InputError
from components.negatives import Candidates, check_counts
from components.training.batches import Batch, batches
from components.training.collectives import Workers
from tests.worlds import small_log

TRAIN = small_log().seen
KNOWN = set(zip(TRAIN.users.tolist(), TRAIN.items.tolist(), strict=True))


def batch_of(rows: int = 64, epoch: int = 0) -> Batch:
    stream = batches(TRAIN, batch_size=rows, seed=3, epoch=epoch, workers=Workers(), device=torch.device("cpu"))
    return next(stream)


def draw(source: Any, batch: Batch) -> Candidates:
    return source(batch, torch.zeros(len(batch.items_B), 4))


def build(**spec: Any) -> Any:
    return catalog.build("negatives", spec, TRAIN, Workers(), "negatives.0")


def counted(candidates: Candidates, rows: int) -> np.ndarray:
    """[rows, candidates] of those that count."""
    items = candidates.items
    counts = torch.ones(rows, items.shape[-1], dtype=torch.bool)
    if candidates.excluded is not None:
        counts[candidates.excluded.pairs()] = False
    return counts.numpy()


@pytest.mark.parametrize(
    "spec",
    [{"name": "in_batch"}, {"name": "uniform", "count": 50}, {"name": "popularity", "count": 50}, {"name": "all_items"}],
)
def test_shared_candidates_exclude_exactly_the_seen(spec: dict[str, Any]) -> None:
    batch = batch_of()
    candidates = draw(build(**spec, exclude="seen"), batch)
    counts = counted(candidates, len(batch.users_B))
    for b, user in enumerate(batch.users_B.tolist()):
        for c, item in enumerate(candidates.items.tolist()):
            assert counts[b, c] == ((user, item) not in KNOWN)
    assert 0 < counts.sum() < counts.size


def test_in_batch_keeps_repeats_out_or_in() -> None:
    batch = batch_of()
    items = batch.items_B.numpy()
    assert len(np.unique(items)) < len(items)  # there are repeats
    same = counted(draw(build(name="in_batch", exclude="same_item"), batch), 64)
    assert np.array_equal(same, items[:, None] != items[None, :])
    nothing = counted(draw(build(name="in_batch", exclude="nothing"), batch), 64)
    assert np.array_equal(nothing, ~np.eye(64, dtype=bool))


def test_rows_draw_uniformly_from_unseen_items_only() -> None:
    source = build(name="uniform", count=4000, per="row")
    batch = batch_of(rows=5)
    items_BN = draw(source, batch).items
    for user, items in zip(batch.users_B.tolist(), items_BN.numpy(), strict=True):
        unseen = sorted(set(range(TRAIN.num_items)) - set(TRAIN.items_of(user).tolist()))
        found, counts = np.unique(items, return_counts=True)
        assert found.tolist() == unseen
        expected = 4000 / len(unseen)
        assert np.abs(counts - expected).max() < 6 * expected**0.5
    options_B = [TRAIN.num_items - len(TRAIN.items_of(user)) for user in batch.users_B.tolist()]
    assert source.expected_count(batch, items_BN).tolist() == [[pytest.approx(4000 / options)] for options in options_B]


def test_rows_may_draw_anything_where_nothing_is_excluded() -> None:
    items = draw(build(name="uniform", count=3000, per="row", exclude="nothing"), batch_of(rows=4)).items
    assert len(items.unique()) == TRAIN.num_items
    assert items.min() == 0


def test_a_user_with_every_item_cannot_draw_an_unseen_one() -> None:
    full = Interactions.of([0, 0, 1], [0, 1, 0], 2, 2)
    with pytest.raises(InputError, match="user 0 has all 2 items"):
        catalog.build("negatives", {"name": "uniform", "per": "row"}, full, Workers(), "negatives.0")


@pytest.mark.parametrize("exclude", ["seen", "nothing"])
@pytest.mark.parametrize("name", ["in_batch", "uniform", "popularity"])
def test_expected_counts_are_the_observed_ones(name: str, exclude: str) -> None:
    source = build(name=name, exclude=exclude)
    assert source.excludes_positive == (exclude == "seen")
    observed = np.zeros(TRAIN.num_items)
    expected = np.zeros(TRAIN.num_items)
    for epoch in range(200):
        batch = batch_of(rows=64, epoch=epoch)
        items = draw(source, batch).items
        slots = len(items) - (name == "in_batch")  # a row's own slot is no draw
        observed += np.bincount(items.numpy(), minlength=TRAIN.num_items) * slots / len(items)
        all_items = torch.arange(TRAIN.num_items)
        expected += source.expected_count(batch, all_items).expand(TRAIN.num_items).numpy()
    assert observed.sum() == pytest.approx(expected.sum(), rel=1e-9)
    assert (np.abs(observed - expected) < 6 * np.sqrt(expected)).all()


def test_two_sources_of_a_recipe_draw_different_items() -> None:
    first, second = (
        catalog.build("negatives", {"name": "uniform", "count": 20}, TRAIN, Workers(), f"negatives.{n}") for n in (0, 1)
    )
    assert not torch.equal(draw(first, batch_of()).items, draw(second, batch_of()).items)


@pytest.mark.parametrize("name", ["uniform", "popularity"])
def test_draws_depend_on_epoch_and_step_and_seed(name: str) -> None:
    source = build(name=name, count=20)
    batch = batch_of()
    first = draw(source, batch).items
    assert torch.equal(first, draw(source, replace(batch)).items)
    seed, epoch, step = batch.key
    for other in ((seed + 1, epoch, step), (seed, epoch + 1, step), (seed, epoch, step + 1)):
        assert not torch.equal(first, draw(source, replace(batch, key=other)).items)


def test_a_recipe_draws_at_most_as_many_as_there_are_items() -> None:
    specs = [{"name": "in_batch"}, {"name": "popularity", "count": 41}]
    check_counts(specs, 41, 1)
    with pytest.raises(InputError, match=r"^negatives\.1\.count: got 41, takes at most 40, the number of items$"):
        check_counts(specs, 40, 1)
