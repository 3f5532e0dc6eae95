"""CCL4Rec-style against plain loops over rows, views and pairs, the facts of its specification, its ablations, bad input."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from components.errors import InputError
from components.losses import EXCLUDED
from components.objectives.ccl4rec import CCL4Rec
from components.training.batches import Batch, Histories
from components.training.collectives import Workers
from components.training.loop import Trainer
from components.views import Weights
from tests.unit.views import loops
from tests.worlds import recipe, small_log

EPOCH = 3  # of the batches: beyond the warm-up, half way up the curriculum
MEAN_POOL = {"name": "mean_pool", "dim": 6, "inner_dim": 9, "max_length": 16, "init_std": 0.5}
SASREC = {"name": "sasrec", "dim": 6, "inner_dim": 9, "max_length": 16, "init_std": 0.5, "dropout": 0.0}
VIEWS = [{"name": "replace"}, {"name": "replace", "replaces": "indispensable", "ratio": 0.4, "temperature": 0.2}]
NEGATIVES = [{"name": "in_batch", "exclude": "same_item"}, {"name": "memory_bank", "size": 50}]
OWN = {"contrast_weight": 0.7, "ranking_weight": 0.4, "curriculum_epochs": 6, "margin": 0.8, "boundary_margin": 0.3}
PLAIN = {"name": "ccl4rec", "positive_views": 3, "negative_views": 2, **OWN}


def trainer_of(objective: dict[str, Any], **sections: Any) -> Trainer:
    task = small_log()
    given = {
        "data": {"source": "log.csv", "split": {"by": "leave_one_out"}},
        "encoder": MEAN_POOL,
        "views": VIEWS,
        "negatives": NEGATIVES,
        "objective": objective if "name" in objective else {**PLAIN, **objective},
        "training": {"batch_size": 24, "epochs": 4, "precision": "float64"},
    }
    return Trainer(recipe(**{**given, **sections}), task.seen, task, Workers(), torch.device("cpu"))


def batch_of(trainer: Trainer, epoch: int = EPOCH) -> Batch:
    trainer.position.epoch = epoch
    return next(trainer.batches())


def gradients(trainer: Trainer, loss: Tensor) -> list[Tensor]:
    parameters = list(trainer.encoder.parameters())
    for parameter in parameters:
        parameter.grad = None
    loss.backward()
    found = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in parameters]
    return [gradient.to_dense() if gradient.is_sparse else gradient for gradient in found]


def told(batch: Batch) -> list[list[int]]:
    assert batch.histories is not None
    rows = zip(batch.histories.items_SL.tolist(), batch.histories.lengths_S.tolist(), strict=True)
    return [row[:length] for row, length in rows]


# loops ---------------------------------------------------------------------------------------------------------------


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / ((a * a).sum().sqrt() * (b * b).sum().sqrt())


def softmax(values: list[float], temperature: float) -> list[float]:
    total = sum(math.exp(value / temperature) for value in values)
    return [math.exp(value / temperature) / total for value in values]


def drawn(trainer: Trainer, batch: Batch) -> tuple[list[list[list[int]]], list[list[float]]]:
    """The views of each history and their damage, one history, view and behaviour at a time."""
    objective: Any = trainer.objective
    table, pool, spec = trainer.encoder.item_table.detach(), objective.bank.items_M.tolist(), trainer.recipe.objective
    histories, all_views, all_damage = told(batch), [], []
    for b, (history, target) in enumerate(zip(histories, batch.items_B.tolist(), strict=True)):
        a = softmax([float(cosine(table[x], table[target])) if spec["importance"] else 0.0 for x in history], 0.2)
        cosines = {(x, j): float(cosine(table[x], table[j])) if spec["relatedness"] else 0.0 for x in history for j in pool}
        views, damages = [], []
        for view, count, sign in zip(trainer.recipe.views, (3, 2), (1, -1), strict=True):
            positions, substitutes = (
                batch.uniforms(f"views, {view['replaces']}: {purpose}", 16 * count)[b].view(count, 16).tolist()
                for purpose in ("positions", "substitute")
            )
            for n in range(count):
                numbers = positions[n], substitutes[n]
                settings = {"ratio": view["ratio"], "temperature": view["temperature"], "sharpness": 5 * EPOCH / 6}
                new = loops.replace(history, target, a, *numbers, sign=sign, pool=pool, similarity=cosines, **settings)
                damage = 0.0
                for weight, before, after in zip(a, history, new, strict=True):
                    if before != after:
                        damage += weight * (1 - (1 + cosines[before, after]) / 2)
                views.append(new)
                damages.append(damage)
        all_views.append(views)
        all_damage.append(damages)
    return all_views, all_damage


def literally(trainer: Trainer, batch: Batch) -> Tensor:
    """[B] what views add to the loss."""
    spec = trainer.recipe.objective
    P, Q, t = 3, 2, 0.1
    all_views, all_damage = drawn(trainer, batch)
    histories, users = told(batch), batch.users_B.tolist()

    def encode(history: list[int]) -> Tensor:
        return trainer.encoder.encode(Histories(torch.tensor([history]), torch.tensor([len(history)]), 0))[0]

    h = [encode(history) for history in histories]
    rows = []
    for b, (history, views, D) in enumerate(zip(histories, all_views, all_damage, strict=True)):
        if len(history) < 3:
            rows.append(torch.zeros((), dtype=torch.float64))
            continue
        c = [cosine(h[b], encode(view)) for view in views]
        w, v = [1.0] * P, [1.0] * Q
        if spec["strengths"] != "equal":
            sign = -1 if spec["strengths"] == "hard" else 1
            w = [P * each for each in softmax([1 - damage for damage in D[:P]], 0.2)]
            v = [Q * each for each in softmax([sign * damage for damage in D[P:]], 0.2)]
        others = sum(torch.exp(cosine(h[b], h[other]) / t) for other in range(len(h)) if users[other] != users[b])
        contrast = 0.0
        for p in range(P):
            pull = torch.exp(c[p] / t)
            push = sum(v[n] * torch.exp(c[P + n] / t) for n in range(Q))
            contrast = contrast - w[p] * torch.log(pull / (pull + push + others)) / P
        order = [*sorted(range(P), key=lambda p: D[p]), *sorted(range(P, P + Q), key=lambda n: D[n])]
        ranking, pairs = 0.0, 0
        for place, first in enumerate(order):
            for second in order[place + 1 :]:
                needed = 0.8 * (D[second] - D[first])
                if first < P <= second:
                    needed = max(needed, 0.3)
                elif math.isclose(D[first], D[second]):
                    needed = -math.inf
                ranking = ranking + torch.relu(needed - (c[first] - c[second]))
                pairs += 1
        rows.append(spec["contrast_weight"] * contrast + spec["ranking_weight"] * ranking / pairs)
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("objective", "encoder"),
    [
        ({}, MEAN_POOL),
        ({}, SASREC),
        ({"importance": False}, MEAN_POOL),
        ({"relatedness": False}, MEAN_POOL),
        ({"importance": False, "relatedness": False}, MEAN_POOL),
        ({"strengths": "equal"}, MEAN_POOL),
        ({"strengths": "hard"}, MEAN_POOL),
        ({"ranking_weight": 0.0}, MEAN_POOL),
        ({"contrast_weight": 0.0}, MEAN_POOL),
    ],
)
def test_it_is_the_formula_and_nothing_but_vectors_has_a_gradient(objective: Any, encoder: Any) -> None:
    trainer = trainer_of(objective, encoder=encoder)
    plain = trainer_of({"contrast_weight": 0.0, "ranking_weight": 0.0}, encoder=encoder)
    batch = batch_of(trainer)
    assert 0 < sum(len(history) < 3 for history in told(batch)) < 12
    wanted_B = plain.objective(batch).loss_B + literally(trainer, batch)
    loss_B = trainer.objective(batch).loss_B
    assert torch.allclose(loss_B, wanted_B, rtol=1e-10)
    wanted = gradients(plain, plain.objective(batch).loss_B.sum())
    added = gradients(trainer, literally(trainer, batch).sum())
    for found, of_loss, of_views in zip(gradients(trainer, loss_B.sum()), wanted, added, strict=True):
        assert of_views.abs().max() > 1e-6
        assert torch.allclose(found, of_loss + of_views, rtol=1e-8, atol=1e-11)


def test_views_and_damage_are_those_of_each_history() -> None:
    trainer = trainer_of({})
    batch = batch_of(trainer)
    objective: Any = trainer.objective
    views_BVL, damage_BV = objective.drawn(batch)
    views, damage = drawn(trainer, batch)
    for b, history in enumerate(told(batch)):
        assert views_BVL[b, :, : len(history)].tolist() == views[b]
    assert torch.allclose(damage_BV, torch.tensor(damage, dtype=torch.float64), rtol=1e-10)
    assert not damage_BV.requires_grad
    assert ((damage_BV >= 0) & (damage_BV <= 1)).all()
    long_B = batch.histories.lengths_S >= 3  # pyright: ignore[reportOptionalMemberAccess]
    assert damage_BV[long_B, 3:].mean() > damage_BV[long_B, :3].mean() > 0, "negative views do more"


# facts of the specification, section 11 ------------------------------------------------------------------------------


def bare(P: int = 2, Q: int = 2, **settings: Any) -> Any:
    """The objective of P and Q views, for its terms alone: nothing but numbers is asked of it."""
    encoder = SimpleNamespace(window=(100, "before"))
    views = [SimpleNamespace(replaces=each) for each in ("dispensable", "indispensable")]
    bank = trainer_of({}).sources[-1]
    loss = SimpleNamespace(logq=False)
    built: Any = CCL4Rec
    return built(encoder, loss, [None, bank], None, None, Workers(), views, positive_views=P, negative_views=Q, **settings)


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


NOBODY = torch.full((1,), EXCLUDED, dtype=torch.float64)


def test_strengths() -> None:
    pull, push = (log.exp()[0].tolist() for log in bare(4, 4).log_strengths(row(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)))
    w = [1.8202169, 1.1040174, 0.6696204, 0.4061453]
    assert pull == pytest.approx(w, abs=5e-8)
    assert push == pytest.approx(w[::-1], abs=5e-8)
    hard = bare(4, 4, strengths="hard").log_strengths(row(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8))
    assert [log.exp()[0].tolist() for log in hard] == [pytest.approx(w, abs=5e-8)] * 2


def test_contrast() -> None:
    given = row(0.9, 0.7, 0.4, 0.1), row(0.1, 0.3, 0.5, 0.9), NOBODY
    assert bare().contrast(*given).item() == pytest.approx(0.0059361, abs=5e-8)
    assert bare(strengths="equal").contrast(*given).item() == pytest.approx(0.0289971, abs=5e-8)
    assert bare(strength_temperature=1e9).contrast(*given).item() == pytest.approx(0.0289971, abs=5e-8)


@pytest.mark.parametrize("damage", [(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), (0.5,) * 8])
def test_contrast_of_equal_views_is_the_log_of_their_number(damage: tuple[float, ...]) -> None:
    assert bare(4, 4).contrast(row(*[0.3] * 8), row(*damage), NOBODY).item() == pytest.approx(1.6094379, abs=5e-8)


@pytest.mark.parametrize(
    ("cosines", "damage", "loss"),
    [
        ((0.9, 0.7, 0.4, 0.1), (0.1, 0.3, 0.5, 0.9), 0.1 / 6),
        ((0.9, 0.8, 0.6, 0.1), (0.1, 0.3, 0.5, 0.9), 0.2 / 6),
        ((0.4, 0.4, 0.4, 0.4), (0.1, 0.3, 0.5, 0.9), 2.6 / 6),
        ((0.9, 0.7, 0.4, 0.1), (0.1, 0.5, 0.4, 0.9), 0.4 / 6),
        ((0.7, 0.9, 0.1, 0.4), (0.3, 0.1, 0.9, 0.5), 0.1 / 6),
        ((0.9, 0.8, -0.5, -0.9), (0.1, 0.1, 0.5, 0.5), 0.0),
        ((0.8, 0.9, -0.9, -0.5), (0.1, 0.1, 0.5, 0.5), 0.0),
    ],
)
def test_ranking(cosines: tuple[float, ...], damage: tuple[float, ...], loss: float) -> None:
    """The order of the views does not matter, nor a number added to all cosines; of equal damage neither is first."""
    assert bare().ranking(row(*cosines), row(*damage)).item() == pytest.approx(loss, abs=1e-12)
    assert bare().ranking(row(*cosines) + 5, row(*damage)).item() == pytest.approx(loss, abs=1e-12)


def test_importance() -> None:
    """Cosines .9, .5 and .1 with the target; positions go by its rank (tests of `replace`)."""
    trainer = trainer_of({}, encoder={**MEAN_POOL, "dim": 2})
    handed: list[Weights] = []

    def view(histories_BL: Tensor, lengths_B: Tensor, uniforms: Any, weights: Weights) -> tuple[Tensor, Tensor]:
        handed.append(weights)
        return histories_BL, lengths_B

    view.replaces = "dispensable"  # pyright: ignore[reportFunctionMemberAccess]
    objective: Any = trainer.objective
    objective.views = [view, view]
    with torch.no_grad():
        for item, c in enumerate((1, 0.9, 0.5, 0.1)):
            trainer.encoder.item_table[item] = 3 * torch.tensor([c, math.sqrt(1 - c * c)])
    histories = Histories(torch.tensor([[1, 2, 3]]), torch.tensor([3]), 0)
    objective.drawn(Batch(torch.tensor([0]), torch.tensor([0]), 0, 1, (0, 0, 0), histories=histories))
    assert handed[0].importance_BL[:, :3].tolist() == [pytest.approx([0.8668133, 0.1173104, 0.0158762], abs=5e-8)] * 3
    assert len(handed[0].importance_BL) == 3
    assert len(handed[1].importance_BL) == 2


# switches ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("objective", "epoch"), [({"contrast_weight": 0.0, "ranking_weight": 0.0}, 3), ({"warm_up": 4}, 3)])
def test_without_views_it_is_supervised(objective: dict[str, Any], epoch: int) -> None:
    plain = trainer_of({"name": "supervised"}, negatives=NEGATIVES[:1], views=[])
    found = trainer_of(objective)
    batch = batch_of(found, epoch)
    assert torch.equal(found.objective(batch).loss_B, plain.objective(batch).loss_B)
    pairs = zip(*(gradients(t, t.objective(batch).loss_B.sum()) for t in (found, plain)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(trainer_of({"warm_up": 3}).objective(batch).loss_B, plain.objective(batch).loss_B)


def ramps(curriculum: int, *epochs: int) -> list[float]:
    """What `replace` is told at some epochs."""
    trainer: Any = trainer_of({"curriculum_epochs": curriculum})
    batch, found = batch_of(trainer), []
    view = trainer.objective.views[1]
    for epoch in epochs:
        own = Batch(batch.users_B, batch.items_B, 0, batch.rows, (0, epoch, 0), histories=batch.histories)
        with mock.patch.object(type(view), "__call__", autospec=True, side_effect=type(view).__call__) as called:
            trainer.objective.drawn(own)
        (ramp,) = {call.args[4].ramp for call in called.call_args_list}
        found.append(ramp)
    return found


def test_the_curriculum_is_a_ramp_of_epochs() -> None:
    assert ramps(6, 0, 1, 3, 5, 6, 7, 60) == pytest.approx([0, 1 / 6, 1 / 2, 5 / 6, 1, 1, 1], rel=1e-12)
    assert ramps(0, 0, 1) == [1, 1], "no curriculum: at once"


def chosen(trainer: Any, batch: Batch) -> Tensor:
    return trainer.objective.drawn(batch)[0] != batch.histories.items_SL.unsqueeze(1)  # pyright: ignore


def test_no_relatedness_leaves_the_positions_and_makes_substitutes_alike() -> None:
    trainer, without = trainer_of({}), trainer_of({"relatedness": False})
    batch = batch_of(trainer)
    assert torch.equal(chosen(trainer, batch), chosen(without, batch))
    changed = {**VIEWS[0], "temperature": 1.0}
    objective, again = (trainer_of({"relatedness": r}, views=[changed, VIEWS[1]]).objective for r in (True, False))
    views_BVL = without.objective.drawn(batch)[0]  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.equal(again.drawn(batch)[0], views_BVL), "their temperature has nothing to say"  # pyright: ignore
    assert not torch.equal(objective.drawn(batch)[0], trainer.objective.drawn(batch)[0])  # pyright: ignore


def test_no_importance_makes_positions_alike_and_leaves_the_weights_of_substitutes() -> None:
    steep = [{**view, "sharpness": 0.0} for view in VIEWS]
    without, flat = trainer_of({"importance": False}), trainer_of({}, views=steep)
    batch = batch_of(without)
    assert torch.equal(chosen(without, batch), chosen(flat, batch)), "as with sharpness 0"
    first, second = (t.objective.drawn(batch) for t in (without, flat))  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.equal(first[0], second[0])
    assert not torch.allclose(first[1], second[1])


@pytest.mark.parametrize("strengths", ["equal", "hard"])
def test_strengths_change_the_contrast_alone(strengths: str) -> None:
    trainer, other = trainer_of({}), trainer_of({"strengths": strengths})
    batch = batch_of(trainer)
    for found, wanted in zip(*(t.objective.drawn(batch) for t in (trainer, other)), strict=True):  # pyright: ignore
        assert torch.equal(found, wanted)
    assert not torch.allclose(trainer.objective(batch).loss_B, other.objective(batch).loss_B)
    alone = [trainer_of({"strengths": s, "contrast_weight": 0.0}).objective(batch).loss_B for s in ("adaptive", strengths)]
    assert torch.equal(*alone)


# bad input -----------------------------------------------------------------------------------------------------------


def test_short_histories_have_the_recommendation_loss_alone() -> None:
    trainer, plain = trainer_of({}), trainer_of({"warm_up": 9})
    batch = batch_of(trainer)
    short_B = batch.histories.lengths_S < 3  # pyright: ignore[reportOptionalMemberAccess]
    found_B, plain_B = (t.objective(batch).loss_B for t in (trainer, plain))
    assert torch.equal(found_B[short_B], plain_B[short_B])
    assert (found_B[~short_B] > plain_B[~short_B]).all()


def test_a_batch_of_one_user_has_no_others() -> None:
    trainer = trainer_of({}, negatives=[{"name": "all_items"}, NEGATIVES[1]])
    batch = batch_of(trainer)
    one = Batch(torch.full_like(batch.users_B, 5), batch.items_B, 0, batch.rows, batch.key, histories=batch.histories)
    alone_B, among_B = (trainer.objective(each).loss_B for each in (one, batch))
    assert torch.isfinite(alone_B).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients(trainer, alone_B.sum()))
    long_B = batch.histories.lengths_S >= 3  # pyright: ignore[reportOptionalMemberAccess]
    assert (alone_B < among_B)[long_B].all()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"views": []}, r"^views: got \[\], takes two of"),
        ({"views": VIEWS[::-1]}, r"^views: got \['indispensable', 'dispensable'\], takes"),
        ({"views": [{"name": "crop"}, VIEWS[1]]}, r"^views: got \[None, 'indispensable'\], takes"),
        ({"negatives": [NEGATIVES[0], {**NEGATIVES[1], "stale": True}]}, r"^negatives\.1\.stale: got True, takes False "),
        ({"negatives": [NEGATIVES[0], {**NEGATIVES[1], "warm_up": 1}]}, r"^negatives\.1\.warm_up: got 1, takes 0 "),
        (
            {"negatives": NEGATIVES[:1]},
            r"^negatives: got in_batch, takes one or more and then memory_bank under objective ccl4rec$",
        ),
        ({"negatives": NEGATIVES[1:]}, r"^negatives: got memory_bank, takes one or more and"),
        ({"negatives": NEGATIVES[::-1]}, r"^negatives: got memory_bank, in_batch, takes one or more and"),
        (
            {"encoder": {"name": "mf", "dim": 4}},
            r"^encoder\.name: got 'mf', takes one that reads histories under objective ccl",
        ),
    ],
)
def test_what_it_does_not_take_is_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        trainer_of({}, **sections)


def test_training_lowers_its_loss() -> None:
    """On rows at random, of which nothing can be learned for others."""
    trainer = trainer_of({"warm_up": 1}, training={"batch_size": 50, "epochs": 8, "precision": "float32"})
    told = [progress.metrics for progress in trainer.run() if progress.metrics]
    assert told[-1]["loss"] < told[1]["loss"] - 0.2
