"""Every part of a kind obeys the same rules, with every choice it offers; a new file is found by its name and held to them."""

from __future__ import annotations

import typing
from typing import Any, Literal

import pytest
import torch

from components import catalog
from components.data.histories import with_positives
from components.evaluation import scorers
from components.losses import EXCLUDED
from components.negatives import Memory
from components.training.batches import Batch, batches
from components.training.collectives import Workers
from tests.worlds import small_log

TRAIN = small_log().seen
Spec = dict[str, Any]


def specs(kind: str) -> list[Spec]:
    """Every part of a kind as it is, and with each other value of its switches and choices."""
    found: list[Spec] = []
    for name in catalog.names(kind):
        found.append({"name": name})
        hints = typing.get_type_hints(catalog.find(kind, name).__init__)
        for option, default in catalog.check(kind, {"name": name}).items():
            hint = hints[option]
            values = (True, False) if hint is bool else typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
            found += [{"name": name, option: value} for value in values if value != default]
    return found


LOSSES, ENCODERS, SOURCES = (specs(kind) for kind in ("loss", "encoder", "negatives"))


def of(kind: list[Spec]) -> Any:
    return pytest.mark.parametrize("spec", kind, ids=lambda spec: " ".join(map(str, spec.values())))


def test_there_are_parts_and_choices() -> None:
    assert {"name": "sampled_softmax", "logq": True} in LOSSES
    assert {"name": "mf", "score_similarity": "dot"} in ENCODERS
    assert {"name": "uniform", "per": "row"} in SOURCES
    assert len(SOURCES) >= 6


def batch_of(rows: int = 32, window: Any = None) -> Batch:
    log, where = with_positives(TRAIN, window, "rows"), {"workers": Workers(), "device": torch.device("cpu")}
    return next(batches(log, batch_size=rows, seed=0, epoch=0, window=window, **where))


def vectors_of(encoder: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Of every user and every item, as they are ranked."""
    scorer = scorers.of(encoder, TRAIN)
    return scorer.queries(torch.arange(TRAIN.num_users)), scorer.items_ID


def fold(loss: Any, positive_B: torch.Tensor, *tiles: torch.Tensor) -> torch.Tensor:
    state = loss.start(positive_B / loss.temperature, torch.zeros(len(positive_B)) if loss.logq else None)
    for tile in tiles:
        log_count_T = torch.zeros(tile.shape[1]) if loss.logq else None
        state = loss.add(state, torch.where(tile == EXCLUDED, tile, tile / loss.temperature), log_count_T)
    return loss.finish(state)


def scores(rows: int, columns: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(5)
    drawn = torch.rand(rows, columns + 1, generator=random, dtype=torch.float64) * 2 - 1
    return drawn[:, 0].to(dtype), drawn[:, 1:].to(dtype)


@of(LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.01, 1e-4])
def test_a_loss_is_finite_at_the_lowest_temperatures(spec: Spec, temperature: float, dtype: torch.dtype) -> None:
    loss = catalog.build("loss", spec)
    loss.temperature = temperature
    positive_B, scores_BT = scores(8, 20, dtype)
    scores_BT.requires_grad_()
    value_B = fold(loss, positive_B, scores_BT)
    value_B.sum().backward()
    assert torch.isfinite(value_B).all()
    assert scores_BT.grad is not None
    assert torch.isfinite(scores_BT.grad).all()


@of(LOSSES)
def test_an_excluded_candidate_does_not_count(spec: Spec) -> None:
    loss = catalog.build("loss", spec)
    positive_B, scores_BT = scores(6, 9)
    scores_BT[:, 4] = EXCLUDED
    scores_BT[5] = EXCLUDED  # nothing left
    scores_BT.requires_grad_()
    value_B = fold(loss, positive_B, scores_BT)
    value_B.sum().backward()
    assert scores_BT.grad is not None
    assert (scores_BT.grad[:, 4] == 0).all()
    assert (scores_BT.grad[5] == 0).all()
    rest = torch.cat([scores_BT[:5, :4], scores_BT[:5, 5:]], dim=1).detach()
    assert torch.allclose(value_B[:5].detach(), fold(loss, positive_B[:5], rest), rtol=1e-14)


@of(LOSSES)
def test_neither_order_nor_tiles_matter(spec: Spec) -> None:
    loss = catalog.build("loss", spec)
    positive_B, scores_BT = scores(6, 12)
    whole = fold(loss, positive_B, scores_BT)
    assert torch.allclose(fold(loss, positive_B, scores_BT.flip(1)), whole, rtol=1e-13)
    assert torch.allclose(fold(loss, positive_B, *scores_BT.split([5, 4, 3], dim=1)), whole, rtol=1e-13)


@of(LOSSES)
def test_a_losss_gradient_is_that_of_its_value(spec: Spec) -> None:
    loss = catalog.build("loss", spec)
    inputs = tuple(tensor.requires_grad_() for tensor in scores(3, 4))
    assert torch.autograd.gradcheck(lambda p, s: fold(loss, p, s), inputs)


@of(ENCODERS)
def test_an_encoder_depends_on_its_generator_alone(spec: Spec) -> None:
    made = [catalog.build("encoder", spec, TRAIN, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    drawn = [[p for p in encoder.parameters() if p.std() > 0] for encoder in made]  # biases begin at 0, norms at 1
    same, other = ([a.equal(b) for a, b in zip(drawn[0], drawn[n], strict=True)] for n in (1, 2))
    assert same
    assert all(same)
    assert not any(other)


@of(ENCODERS)
def test_an_encoder_says_before_it_is_built_whether_it_reads_an_order(spec: Spec) -> None:
    encoder = catalog.build("encoder", spec, TRAIN, torch.Generator().manual_seed(1))
    of_what = None if encoder.window is None else encoder.window.of
    assert type(encoder).reads_order(catalog.check("encoder", spec)) == (of_what == "before")


@of(ENCODERS)
def test_an_encoders_scores_are_of_every_user_and_item(spec: Spec) -> None:
    encoder = catalog.build("encoder", spec, TRAIN, torch.Generator().manual_seed(1))
    users_UD, items_ID = vectors_of(encoder)
    assert users_UD.shape[0] == TRAIN.num_users
    assert items_ID.shape[0] == TRAIN.num_items
    assert users_UD.shape[1] == items_ID.shape[1]
    assert not users_UD.requires_grad
    assert not items_ID.requires_grad
    batch = batch_of(window=encoder.window)
    assert encoder.queries(batch).vectors.shape == (32, users_UD.shape[1])
    assert encoder.items(batch.items_B.view(4, 8)).vectors.shape == (4, 8, users_UD.shape[1])


@of(ENCODERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_encoder_is_finite_in_low_precision(spec: Spec, dtype: torch.dtype) -> None:
    """Cast as the trainer casts it: what it makes, and the gradients, are of that type, finite and not all 0."""
    encoder = catalog.build("encoder", spec, TRAIN, torch.Generator().manual_seed(1)).to(torch.device("cpu"), dtype)
    batch = batch_of(window=encoder.window)
    queries_BD, items_CD = encoder.queries(batch).vectors, encoder.items(batch.items_B).vectors
    products_BC = queries_BD @ items_CD.T
    products_BC.square().sum().backward()
    gradients = {name: p.grad.to_dense() for name, p in encoder.named_parameters() if p.grad is not None}
    assert set(gradients) == {name for name, _ in encoder.named_parameters()}
    for found in (queries_BD, items_CD, products_BC, *vectors_of(encoder), *gradients.values()):
        assert found.dtype == dtype
        assert torch.isfinite(found).all()
    tables = [gradient for name, gradient in gradients.items() if name.endswith("_table")]
    assert tables
    assert all(found.any() for found in (products_BC, *tables))


@of(ENCODERS)
def test_scoring_twice_is_scoring_once_and_needs_nobody_elses_company(spec: Spec) -> None:
    encoder = catalog.build("encoder", spec, TRAIN, torch.Generator().manual_seed(1)).double()
    scorer, users = scorers.of(encoder, TRAIN), torch.arange(TRAIN.num_users)
    alone_UD = torch.cat([scorer.queries(users[n : n + 1]) for n in range(len(users))])
    assert torch.allclose(scorer.queries(users), alone_UD, rtol=1e-10, atol=1e-14)
    assert torch.equal(scorer.queries(users), scorers.of(encoder, TRAIN).queries(users))


def source_of(spec: Spec) -> Any:
    """With as many batches in it as fill it, where it remembers."""
    source = catalog.build("negatives", spec, TRAIN, Workers(), "negatives.0")
    for _ in range(40 if isinstance(source, Memory) else 0):
        source(batch_of(), torch.zeros(32, 4))
        source.push(batch_of())
    return source


@of(SOURCES)
def test_a_source_draws_known_items_by_its_key_alone(spec: Spec) -> None:
    source = source_of(spec)
    batch, positives_BD = batch_of(), torch.zeros(32, 4)
    first, again = (source(batch, positives_BD) for _ in range(2))
    assert torch.equal(first.items, again.items)
    assert first.items.min() >= 0
    assert first.items.max() < TRAIN.num_items
    assert first.items.shape[-1] == source.candidates_of_a_row(32, TRAIN.num_items)
    expected = source.expected_count(batch, first.items)
    assert (expected > 0).all()
    assert isinstance(source.exclude, str)
    assert source.index_bytes(rows=1000, users=10, items=10) >= source.index_bytes(rows=10, users=10, items=10) >= 0


@of(SOURCES)
def test_a_source_says_whether_a_rows_own_positive_can_count(spec: Spec) -> None:
    source = source_of(spec)
    batch = batch_of()
    candidates = source(batch, torch.zeros(32, 4))
    own = (candidates.items == batch.items_B[:, None]).clone()
    if candidates.excluded is not None:
        own[candidates.excluded.pairs()] = False
    assert own.any() != source.excludes_positive
