"""MCLRec against its formula in loops, who moves when, and what it is without its terms."""

from __future__ import annotations

import dataclasses
import itertools
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from components.data.interactions import Interactions
from components.errors import InputError
from components.objectives._two_views import two_views
from components.training.batches import Batch, Histories
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.unit.objectives import contrast_loops as loops
from tests.worlds import recipe, small_log

LOG = small_log().seen
VIEWS = [{"name": "crop"}, {"name": "mask"}, {"name": "reorder"}]
ALL = {"name": "mclrec", "lambda_": 0.3, "beta": 0.7, "gamma": 0.4, "temperature": 0.8}
PAPER = {"updates": "encoder_once", "pairs": "learned", "margin": "global", "augmenter_gamma": "times_beta", "normalise": False}


def trainer_of(objective: dict[str, Any], dropout: float = 0.0, log: Interactions = LOG, **sections: Any) -> Trainer:
    sasrec = {"name": "sasrec", "dim": 8, "inner_dim": 16, "max_length": 7, "init_std": 0.5, "dropout": dropout}
    given = {
        "data": {"source": "log.csv", "split": {"by": "leave_one_out"}},
        "encoder": sasrec,
        "loss": {"name": "sampled_softmax", "temperature": 1.0},
        "negatives": [{"name": "all_items"}],
        "objective": objective,
        "views": VIEWS if objective["name"] == "mclrec" else [],
        "training": {"batch_size": 12, "epochs": 1, "precision": "float64"},
    }
    return Trainer(recipe(**{**given, **sections}), log, None, Workers(), torch.device("cpu"))


def batch_of(trainer: Trainer, turn: int = 0) -> Batch:
    return dataclasses.replace(next(trainer.batches()), turn=turn)


def weights(trainer: Trainer) -> dict[str, dict[str, Tensor]]:
    named = {name: learner.module.named_parameters() for name, learner in trainer.learners.items()}
    return {name: {each: weight.detach().clone() for each, weight in parameters} for name, parameters in named.items()}


def moved(before: dict[str, dict[str, Tensor]], after: dict[str, dict[str, Tensor]]) -> set[str]:
    """The learners of whom every parameter has changed; of the others none has."""
    found = set()
    for name, parameters in before.items():
        changed = {each: not torch.equal(weight, after[name][each]) for each, weight in parameters.items()}
        assert len(set(changed.values())) == 1, changed
        found |= {name} if all(changed.values()) else set()
    return found


def augmented(module: Any, h_BD: Tensor, normalise: bool) -> Tensor:
    """An augmenter, one vector at a time."""
    vectors = []
    for h in h_BD:
        x = h
        for n, layer in enumerate(module[::2]):
            x = torch.stack([(row * x).sum() + bias for row, bias in zip(layer.weight, layer.bias, strict=True)])
            x = 0.5 * x * (1 + torch.erf(x / math.sqrt(2))) if n < 2 else x
        vectors.append(x / torch.sqrt((x * x).sum()) if normalise else x)
    return torch.stack(vectors)


def by_hand(trainer: Trainer, batch: Batch, options: dict[str, Any], turn: str) -> Tensor:
    """The mean of L_0 (`model`) or of L_1 (`augmenters`) over a batch."""
    encoder, objective = trainer.encoder, trainer.objective
    h = encoder.encode(batch.histories)
    h1, h2 = (encoder.encode(view) for view in two_views(objective.views, batch, 7, LOG.num_items))
    augmenters = objective.augmenters
    second = augmenters.first if options.get("shared_augmenter") else augmenters.second
    normalise = options.get("normalise", True)
    z1, z2 = augmented(augmenters.first, h1, normalise), augmented(second, h2, normalise)
    margin = loops.global_margin if options.get("margin") == "global" else loops.anchor_margin
    tau, gamma = ALL["temperature"], ALL["gamma"]
    cl2 = loops.info_nce(z1, z2, tau) + loops.info_nce(h1, z2, tau) + loops.info_nce(h2, z1, tau)
    r = margin(z1, z2)
    if options.get("pairs") != "learned":
        r = r + margin(h1, z2) + margin(h2, z1)
    if turn == "augmenters":
        return cl2 + gamma * (ALL["beta"] if options.get("augmenter_gamma") == "times_beta" else 1) * r
    rec = h.new_zeros(())
    for vector, item in zip(h, batch.items_B.tolist(), strict=True):
        scores = [(vector * encoder.item_table[other]).sum() for other in range(LOG.num_items)]
        rec = rec + torch.log(sum((torch.exp(each) for each in scores), start=h.new_zeros(()))) - scores[item]
    return rec / len(h) + ALL["lambda_"] * loops.info_nce(h1, h2, tau) + ALL["beta"] * (cl2 + gamma * r)


@pytest.mark.parametrize(
    "options",
    [{}, PAPER, {"updates": "joint"}, {"pairs": "learned"}, {"margin": "global"}, {"shared_augmenter": True}],
    ids=lambda options: " ".join(map(str, options.values())) or "code",
)
def test_both_losses_in_loops_and_their_gradients(options: dict[str, Any]) -> None:
    trainer = trainer_of({**ALL, **options})
    for turn, learners in enumerate(trainer.objective.turns):
        batch = batch_of(trainer, turn)
        parameters = {n: p for name in learners for n, p in trainer.learners[name].module.named_parameters()}
        for learner in trainer.learners.values():
            learner.module.requires_grad_()
        wanted = by_hand(trainer, batch, options, "model" if "model" in learners else "augmenters")
        gradients = [each.to_dense() for each in torch.autograd.grad(wanted, list(parameters.values()))]
        value = trainer.step(batch, *learners) / batch.rows
        assert value.item() == pytest.approx(wanted.item(), rel=1e-10)
        assert len(gradients) > 5
        for (name, weight), gradient in zip(parameters.items(), gradients, strict=True):
            assert weight.grad is not None
            assert weight.grad.any()
            assert torch.allclose(weight.grad, gradient, rtol=1e-8, atol=1e-10), name


@pytest.mark.parametrize(
    ("options", "turns"),
    [
        ({}, [{"model"}, {"augmenters"}, {"model"}]),
        ({"updates": "encoder_once"}, [{"model"}, {"augmenters"}]),
        ({"updates": "joint"}, [{"model", "augmenters"}]),
        ({"beta": 0.0}, [{"model"}, {"model"}]),
    ],
)
def test_who_moves_in_which_turn_and_that_no_others_do(options: dict[str, Any], turns: list[set[str]]) -> None:
    trainer = trainer_of({**ALL, **options}, dropout=0.2)
    before, seen = weights(trainer), []
    for turn, learners in enumerate(trainer.objective.turns):
        trainer.step(batch_of(trainer, turn), *learners)
        after = weights(trainer)
        seen.append(moved(before, after))
        before = after
    assert seen == turns
    trainer.update(batch_of(trainer))
    assert moved(before, weights(trainer)) == set.union(*turns)


def test_turns_share_their_views_and_not_their_dropout() -> None:
    for dropout in (0.0, 0.4):
        trainer = trainer_of({**ALL, "beta": 0.0}, dropout)
        first, second = (trainer.objective(batch_of(trainer, turn)).loss_B for turn in (0, 1))
        assert torch.equal(first, second) == (not dropout)


def test_views_are_drawn_once_for_a_batch_and_anew_for_the_next() -> None:
    trainer = trainer_of(ALL)
    mask: Any = trainer.objective.views[1]
    calls: list[Tensor] = []
    trainer.objective.views[1] = lambda *given: calls.append(given[0]) or mask(*given)
    first, second = itertools.islice(trainer.batches(), 2)
    for n, batch in enumerate((first, second, first), start=1):
        trainer.update(batch)
        assert len(calls) == n
    again = dataclasses.replace(first, key=(0, 1, 0))
    assert not torch.equal(trainer.objective(again).loss_B, trainer.objective(first).loss_B), "another epoch's are others"
    assert len(calls) == 5


@pytest.mark.parametrize("updates", ["encoder_once", "encoder_twice"])
def test_with_lambda_and_beta_0_it_is_the_plain_encoders_training(updates: str) -> None:
    """Bit for bit; with two updates on each batch it is that with two steps on each."""
    for dropout in (0.0, 0.3) if updates == "encoder_once" else (0.0,):
        without = trainer_of({"name": "mclrec", "lambda_": 0.0, "beta": 0.0, "updates": updates}, dropout)
        plain = trainer_of({"name": "supervised"}, dropout)
        steps = 1 + (updates == "encoder_twice")
        for mine, theirs in zip(without.batches(), plain.batches(), strict=True):
            losses = [plain.step(theirs) for _ in range(steps)]
            assert torch.equal(without.update(mine), torch.stack(losses))
        for name, weight in plain.encoder.named_parameters():
            assert torch.equal(weight, dict(without.encoder.named_parameters())[name])


def test_lambda_0_leaves_out_the_first_contrast_alone() -> None:
    with_it, without = (trainer_of({**ALL, "lambda_": value}) for value in (0.3, 0.0))
    batch = batch_of(with_it)
    h1, h2 = (with_it.encoder.encode(view) for view in two_views(with_it.objective.views, batch, 7, LOG.num_items))
    less = (with_it.objective(batch).loss_B - without.objective(batch).loss_B).mean()
    assert less.item() == pytest.approx(0.3 * loops.info_nce(h1, h2, 0.8).item(), rel=1e-10)


def test_augmenters_begin_as_the_specification_says() -> None:
    """Section 11: 3,696 parameters each at width 64; every output has length 1."""
    encoder = {"name": "sasrec", "dim": 64, "max_length": 7}
    objective = trainer_of(ALL, encoder=encoder).objective
    for module in (objective.augmenters.first, objective.augmenters.second):
        assert sum(weight.numel() for weight in module.parameters()) == 3_696
        assert all(0.8 < layer.weight.abs().max() * math.sqrt(layer.in_features) <= 1 for layer in module[::2])
    h_BD = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)).double() * 3
    for z_BD in objective.augmenters(h_BD, h_BD):
        assert torch.allclose(z_BD.norm(dim=1), torch.ones(5).double())


@pytest.mark.parametrize("options", [{}, PAPER, {"updates": "joint"}])
@pytest.mark.parametrize("rows", [1, 12])
def test_batches_of_one_user(options: dict[str, Any], rows: int) -> None:
    """Every row is the same user's; the last batch may have one row."""
    one = Interactions.of([0] * 14, [*range(13), 3], 1, 20)
    trainer = trainer_of({**ALL, **options}, 0.2, one, training={"batch_size": rows, "epochs": 1, "precision": "float64"})
    told = [progress.metrics["loss"] for progress in trainer.run() if progress.metrics]
    assert len(told) == 1
    assert all(math.isfinite(loss) for loss in told)
    assert all(torch.isfinite(weight).all() for group in weights(trainer).values() for weight in group.values())


@pytest.mark.parametrize("options", [{}, PAPER, {"updates": "joint"}])
def test_a_batch_of_one_row_has_the_recommendation_loss_alone(options: dict[str, Any]) -> None:
    """A row's views have no other row's to be held against: every contrast and margin is 0."""
    training = {"batch_size": 1, "epochs": 1, "precision": "float64"}
    found, plain = (trainer_of(each, training=training) for each in ({**ALL, **options}, {"name": "supervised"}))
    for mine, theirs in itertools.islice(zip(found.batches(), plain.batches(), strict=True), 5):
        assert found.objective(mine).loss_B.item() == pytest.approx(plain.objective(theirs).loss_B.item(), rel=1e-12)


def test_at_the_beginning_all_items_are_alike() -> None:
    """Section 11: L_rec begins near ln(12,101)."""
    beauty = Interactions.of(LOG.users, LOG.items, LOG.num_users, 12_101)
    trainer = trainer_of(ALL, log=beauty, encoder={"name": "sasrec", "max_length": 7})
    loss_B = trainer.objective.supervised(batch_of(trainer)).loss_B
    assert loss_B.mean().item() == pytest.approx(math.log(12_101), abs=0.1)


def test_with_beta_0_the_encoders_steps_know_nothing_of_augmenters() -> None:
    """Section 11. Others, with another beta, would move it elsewhere."""
    for beta in (0.0, 0.7):
        first, second = (trainer_of({**ALL, "beta": beta}) for _ in range(2))
        with torch.no_grad():
            for weight in second.objective.augmenters.parameters():
                weight.mul_(-2)
        for trainer in (first, second):
            trainer.update(batch_of(trainer))
        pairs = zip(first.encoder.parameters(), second.encoder.parameters(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs) == (beta == 0)


class Marked:
    """A view of one item alone, one longer than its number."""

    def __init__(self, item: int) -> None:
        self.item = item

    def __call__(self, histories_BL: Tensor, lengths_B: Tensor, uniforms: Any) -> tuple[Tensor, Tensor]:
        return torch.full_like(histories_BL, self.item), torch.full_like(lengths_B, self.item + 1)


def test_a_rows_two_views_are_different_ones_and_every_pair_comes() -> None:
    rows = 600
    ids = torch.zeros(rows, dtype=torch.int64)
    histories = Histories(torch.zeros(rows, 2, dtype=torch.int64), ids + 2, 0)
    batch = Batch(ids, ids, 0, rows, (0, 0, 0), histories=histories)
    first, second = two_views([Marked(n) for n in range(3)], batch, 5, 9)
    taken = list(zip(first.items_SL[:, 0].tolist(), second.items_SL[:, 0].tolist(), strict=True))
    assert {pair: taken.count(pair) > 60 for pair in set(taken)} == {(a, b): True for a in range(3) for b in range(3) if a != b}
    for view in (first, second):
        assert torch.equal(view.lengths_S, view.items_SL[:, 0] + 1)
        assert view.items_SL.shape[1] == 3, "cut to the longest"
    late = dataclasses.replace(batch, users_B=ids[400:], items_B=ids[400:], first_row=400)
    late = dataclasses.replace(late, histories=Histories(histories.items_SL[400:], histories.lengths_S[400:], 400))
    again = two_views([Marked(n) for n in range(3)], late, 5, 9)
    assert torch.equal(again[0].items_SL[:, 0], first.items_SL[400:, 0])
    assert again[0].first == 400


def test_two_of_the_same_view_draw_differently() -> None:
    trainer = trainer_of(ALL, views=[{"name": "reorder"}, {"name": "reorder"}])
    first, second = two_views(trainer.objective.views, batch_of(trainer), 7, LOG.num_items)
    long = first.lengths_S > 3
    assert long.any()
    assert (first.items_SL != second.items_SL)[long].any(dim=1).float().mean() > 0.5


def test_a_mask_of_its_own_is_learned() -> None:
    trainer = trainer_of(ALL, views=[{"name": "mask", "token": "own"}, {"name": "crop"}])
    trainer.step(batch_of(trainer))
    table = trainer.encoder.item_table
    assert table.grad[LOG.num_items + 1].any()
    assert not table.grad[LOG.num_items].any()


def test_mean_pool_learns_by_it_too() -> None:
    trainer = trainer_of(ALL, encoder={"name": "mean_pool", "dim": 8, "max_length": 7, "init_std": 0.5})
    losses = [float(trainer.update(batch_of(trainer))[0]) for _ in range(6)]
    assert losses[-1] < losses[0]


def test_what_it_does_not_take() -> None:
    with pytest.raises(InputError, match=r"^views: got 1, takes two or more under objective mclrec"):
        trainer_of(ALL, views=VIEWS[:1])
    with pytest.raises(InputError, match=r"^views: got 0, takes two or more"):
        trainer_of(ALL, views=[])
    with pytest.raises(InputError, match=r"^views\.2\.name: got 'replace', takes one without weights under objective mclrec$"):
        trainer_of(ALL, views=[*VIEWS[:2], {"name": "replace"}])
    with pytest.raises(InputError, match=r"^encoder\.name: got 'mf', takes one that reads histories under objective mclrec$"):
        trainer_of(ALL, encoder={"name": "mf", "dim": 8})
    refused = partial(trainer_of, {"name": "supervised"}, views=VIEWS[1:])
    with pytest.raises(InputError, match=r"^views: got mask, reorder, takes none under objective supervised$"):
        refused()
