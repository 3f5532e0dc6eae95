"""AdvInfoNCE against its formula in plain loops, the facts of its specification, and its two learners."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from components import catalog
from components.data.interactions import Interactions
from components.errors import InputError
from components.evaluation import metrics
from components.negatives import Candidates
from components.objectives import _diagnosis
from components.training.batches import Batch, _rows_of_users, batches, steps_per_epoch
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.worlds import recipe, small_log, tiles

ROWS = [{"name": "uniform", "count": 6, "per": "row"}]
EVERY = {"name": "adv_infonce", "adv_interval": 1, "adv_learning_rate": 0.05, "dim": 4}  # a pass in every epoch but the first


def trainer_of(objective: dict[str, Any], **sections: Any) -> Trainer:
    task = small_log()
    given = {"negatives": ROWS, "objective": objective, "training": {"batch_size": 100, "epochs": 4, "precision": "float64"}}
    return Trainer(recipe(**{**given, **sections}), task.seen, task, Workers(), torch.device("cpu"))


class Both:
    """Items 1 and 2, for every row."""

    per, exclude = "row", "seen"

    def __call__(self, batch: Batch, positives_BD: torch.Tensor) -> Candidates:
        return Candidates(torch.tensor([[1, 2]]).expand(len(batch.users_B), 2), None, None)


def toy(temperature: float, weight: float, odds: float = 3.0) -> tuple[Any, Batch]:
    """s_i = .5, s = (.2, .1), p = (odds : 1)."""
    log = Interactions.of([0], [0], 1, 3)
    generator = torch.Generator().manual_seed(0)
    encoder = catalog.build("encoder", {"name": "mf", "dim": 1, "train_similarity": "dot"}, log, generator).double()
    loss = catalog.build("loss", {"name": "sampled_softmax", "temperature": temperature})
    spec = {**EVERY, "dim": 1, "negative_weight": weight}
    objective = catalog.build("objective", spec, encoder, loss, [Both()], log, generator, Workers(), [])
    objective.hardness.double()
    with torch.no_grad():
        encoder.user_table.fill_(1)
        encoder.item_table.copy_(torch.tensor([[0.5], [0.2], [0.1]]))
        objective.hardness.user_table.fill_(1)
        objective.hardness.item_table.copy_(torch.tensor([[9.0], [math.log(odds)], [0.0]]))
    return objective, Batch(torch.tensor([0]), torch.tensor([0]), first_row=0, rows=1, key=(0, 1, 0))


@pytest.mark.parametrize(
    ("temperature", "weight", "odds", "loss"),
    [(1, 1, 3, 0.8946124), (1, 1, 1, 0.8800989), (1, 64, 3, 4.5386969), (0.1, 1, 3, 0.0805088), (0.1, 64, 3, 1.8509178)],
)
def test_facts_of_the_specification(temperature: float, weight: float, odds: float, loss: float) -> None:
    objective, batch = toy(temperature, weight, odds)
    assert objective(batch).loss_B.item() == pytest.approx(loss, abs=5e-8)


def test_gradient_of_the_specification() -> None:
    """Its free variable is g; here g is an item's number, as the user's is 1."""
    objective, batch = toy(1, 1)
    objective(batch).loss_B.sum().backward()
    gradient = objective.hardness.item_table.grad.to_dense()[:, 0]
    assert gradient.tolist() == pytest.approx([0, 0.0108065, -0.0108065], abs=5e-8)


def test_a_constant_added_to_every_g_changes_nothing() -> None:
    objective, batch = toy(0.1, 64)
    loss = objective(batch).loss_B.item()
    with torch.no_grad():
        objective.hardness.item_table += 5.0
    assert objective(batch).loss_B.item() == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("direction", [1, -1])
def test_from_no_hardness_an_ascent_raises_that_of_the_highest_negative(direction: int) -> None:
    objective, batch = toy(1, 1, odds=1)
    objective(batch).loss_B.sum().backward()
    with torch.no_grad():
        objective.hardness.item_table += direction * objective.hardness.item_table.grad.to_dense()
    of_high, of_low = torch.softmax(objective.hardness.item_table[1:, 0], dim=0).tolist()
    assert (of_high > 0.5 > of_low) == (direction > 0)
    assert of_high + of_low == pytest.approx(1)


def test_delta_has_its_bounds() -> None:
    """(1/N) sum e^d = 1, mean d <= 0, 0 <= sum p d <= ln N (specification 11), also where the hardness is steep."""
    trainer = trainer_of({**EVERY, "negative_weight": 5.0})
    trainer.position.epoch = 3
    batch = next(trainer.batches())
    objective: Any = trainer.objective
    with torch.no_grad():
        for table in objective.hardness.parameters():
            table *= 20
    ((delta_N, items_N, left_N),) = objective.deltas(batch, *(torch.zeros(100, 8).double() for _ in range(2)))
    delta_BN = delta_N.view(100, 6)
    assert torch.equal(items_N.view(100, 6), trainer.sources[0](batch, torch.zeros(100, 8)).items)
    assert (left_N == 6).all()
    assert torch.allclose(delta_BN.exp().mean(dim=1), torch.ones(100).double(), rtol=1e-12)
    assert (delta_BN.mean(dim=1) <= 0).all()
    divergence_B = (delta_BN.exp() / 6 * delta_BN).sum(dim=1)
    assert divergence_B.min() >= 0
    assert 1 < divergence_B.max() <= math.log(6)


def test_told_of_the_toy() -> None:
    objective, batch = toy(1, 1)
    told = objective.diagnose(batch, None)
    assert told["hardness_kl"] == pytest.approx(0.1308120, abs=5e-8)
    assert [told[name] for name in sorted(told) if name.startswith("hardness_group")] == [pytest.approx(-0.1438410, abs=5e-8)]


def test_a_weight_is_a_lower_score_of_the_positive() -> None:
    objective, batch = toy(0.1, 64)
    lower, _ = toy(0.1, 1)
    with torch.no_grad():
        lower.encoder.item_table[0] -= 0.1 * math.log(64)
    assert objective(batch).loss_B.item() == pytest.approx(lower(batch).loss_B.item(), rel=1e-12)


SOURCES: dict[str, list[dict[str, Any]]] = {
    "rows": ROWS,
    "mixture": [
        {"name": "in_batch"},
        {"name": "memory_bank", "size": 30},
        {"name": "memory_bank", "size": 20, "stale": True},
        {"name": "popularity", "count": 20, "exclude": "nothing"},
        {"name": "uniform", "count": 20, "hardest": 5},
        *ROWS,
    ],
}


def met_by_hand(trainer: Trainer, batch: Batch, users_UD: Tensor, items_ID: Tensor) -> Iterator[list[tuple[int, Tensor]]]:
    """Item and cosine of each row's candidates that count, in a loop over sources, rows and candidates."""
    found = [source(batch, torch.zeros(len(batch.users_B), 8).double()) for source in trainer.sources]
    of_masks = [() if each.excluded is None else each.excluded.pairs() for each in found]
    masked = [{*zip(*map(Tensor.tolist, pairs), strict=True)} for pairs in of_masks]
    for row, user in enumerate(batch.users_B.tolist()):
        met = []
        for source, candidates, pairs in zip(trainer.sources, found, masked, strict=True):
            own = candidates.items[row] if candidates.items.dim() == 2 else candidates.items
            is_stale = getattr(source, "stale", False)
            of_source = []
            for place, item in enumerate(own.tolist()):
                if (row, place) not in pairs:
                    vector_D = F.normalize(candidates.vectors[place] if is_stale else items_ID[item], dim=0)
                    of_source.append((item, F.normalize(users_UD[user], dim=0) @ vector_D))
            of_source.sort(key=lambda each: -each[1].item())  # the order is of no account but where the hardest are taken
            met += of_source[: getattr(source, "hardest", None)]
        yield met


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("hardness", ["embed", "mlp"])
@pytest.mark.parametrize("sources", SOURCES)
def test_the_formula_in_loops(sources: str, hardness: str, tiled: bool) -> None:
    """Value and gradient, of the one who descends and of the one who climbs, which meet the same loss."""
    objective = {**EVERY, "hardness": hardness, "negative_weight": 5.0}
    training = {"batch_size": 40, "precision": "float64"}
    trainer = trainer_of(objective, negatives=SOURCES[sources], training=training)
    trainer.position.epoch = 3
    trainer.update(next(trainer.batches()))  # so that banks have vectors, that are stale now
    trainer.position.step = 1
    batch = next(trainer.batches())
    adversary: Any = trainer.objective.hardness
    learned = [*trainer.encoder.parameters(), *adversary.parameters()]
    for each in learned:
        each.requires_grad_()
        each.grad = None
    users, items = learned[:2]

    def g(user: int, item: int) -> Tensor:
        if hardness == "embed":
            return learned[2][user] @ learned[3][item]
        return (learned[2] @ users[user].detach()).clamp(min=0) @ (learned[3] @ items[item].detach()).clamp(min=0)

    losses, numbers = [], set()
    rows = zip(batch.users_B.tolist(), batch.items_B.tolist(), met_by_hand(trainer, batch, users, items), strict=True)
    for user, positive, met in rows:
        odds = [g(user, item).exp() for item, _ in met]
        numbers.add(len(met))
        top = (F.cosine_similarity(users[user], items[positive], dim=0) / 0.2).exp()
        below = top
        for (_, cosine), e in zip(met, odds, strict=True):
            delta = (len(odds) * e / sum(odds)).log()
            below = below + 5.0 * delta.exp() * (cosine / 0.2).exp()
        losses.append(-(top / below).log())
    assert (len(numbers) > 1) == (sources == "mixture"), "rows have candidates of their own number"
    with tiles() if tiled else nullcontext():
        found_B, by_hand_B = trainer.objective(batch).loss_B, torch.stack(losses)
        assert (found_B - by_hand_B).abs().max() < 1e-10
        ours, wanted = (torch.autograd.grad(loss_B.sum(), learned) for loss_B in (found_B, by_hand_B))
    for our, want in zip(ours, wanted, strict=True):
        assert want.abs().max() > 1e-4
        assert (our.to_dense() - want).abs().max() < 1e-10


def test_hardness_of_a_mixture_is_told_of_all_that_count() -> None:
    """KL and groups against loops; a row's d has its bounds over all sources together."""
    trainer = trainer_of({**EVERY, "dim": 3}, negatives=SOURCES["mixture"], training={"batch_size": 40, "precision": "float64"})
    trainer.position.epoch = 3
    trainer.update(next(trainer.batches()))
    trainer.position.step = 1
    batch, adversary = next(trainer.batches()), trainer.objective.hardness
    groups = metrics.groups(small_log().seen.item_degrees(), 10)
    divergences, of_groups = [], {}
    with torch.no_grad():
        adversary.item_table *= 10
        for user, met in zip(batch.users_B.tolist(), met_by_hand(trainer, batch, *trainer.encoder.parameters()), strict=True):
            odds = torch.stack([(adversary.user_table[user] @ adversary.item_table[item]).exp() for item, _ in met])
            delta_N = (len(met) * odds / odds.sum()).log()
            divergences.append(float((odds / odds.sum() * delta_N).sum()))
            for (item, _), delta in zip(met, delta_N.tolist(), strict=True):
                of_groups.setdefault(f"hardness_group_{groups[item]}", []).append(delta)
    told = trainer.objective.diagnose(batch, None)
    assert told["hardness_kl"] == pytest.approx(np.mean(divergences), rel=1e-9)
    assert told["hardness_kl"] > 0.01
    assert {name: value for name, value in told.items() if "group" in name} == pytest.approx(
        {name: np.mean(deltas) for name, deltas in of_groups.items()}, rel=1e-9
    )


def test_a_row_without_candidates_has_no_loss_and_is_counted() -> None:
    """User 0 has all that anyone has; user 1 meets item 1."""
    log = Interactions.of([0, 0, 0, 1, 1], [0, 1, 2, 0, 2], 2, 4)
    sections: dict[str, Any] = {"negatives": [{"name": "in_batch"}, {"name": "memory_bank", "size": 5}]}
    training = {"batch_size": 5, "epochs": 3, "precision": "float64"}
    given = recipe(objective={**EVERY, "positives": "rows"}, training=training, **sections)
    trainer = Trainer(given, log, None, Workers(), torch.device("cpu"))
    trainer.position.epoch = 1
    batch = next(trainer.batches())
    outcome = trainer.objective(batch)
    outcome.loss_B.sum().backward()
    assert torch.equal(outcome.alone_B, batch.users_B == 0)
    assert (outcome.loss_B[outcome.alone_B] == 0).all()
    assert (outcome.loss_B[~outcome.alone_B] > 0).all()
    for table in (trainer.encoder.user_table, trainer.objective.hardness.user_table):
        assert (table.grad.to_dense()[0] == 0).all()
    trainer.position.epoch = 0
    told = [progress.metrics for progress in trainer.run() if progress.metrics]
    assert [metrics["rows_without_candidates"] for metrics in told] == [3] * 3
    assert all(math.isfinite(metrics["loss"]) for metrics in told)


@pytest.mark.parametrize(
    ("interval", "total", "last", "first"),
    [(5, 7, 32, 2), (5, 8, 37, 2), (5, 12, 57, 2), (5, 13, 62, 2), (15, 18, 267, 12), (15, 20, 297, 12)],
)
def test_when_there_are_adversarial_passes(interval: int, total: int, last: int, first: int) -> None:
    objective = trainer_of({**EVERY, "adv_interval": interval, "total_passes": total}).objective
    when = [epoch for epoch in range(400) if len(objective.passes(epoch)) > 1]
    assert when == list(range(first, last + 1, interval))
    assert len(when) == total


def test_warm_up_and_several_passes_at_a_time() -> None:
    objective = trainer_of({**EVERY, "adv_interval": 5, "warm_up": 2, "adv_epochs": 2, "total_passes": 3}).objective
    told = {epoch: objective.passes(epoch) for epoch in range(40) if len(objective.passes(epoch)) > 1}
    assert told == dict.fromkeys((7, 12), ("hardness", "hardness", "model")), "a trigger is whole, as in the released code"


def test_who_does_not_learn_rests() -> None:
    trainer = trainer_of(EVERY)
    trainer.position.epoch = 1
    batch = next(trainer.batches())

    def weights() -> list[torch.Tensor]:
        return [p.detach().clone() for module in (trainer.encoder, trainer.objective.hardness) for p in module.parameters()]

    before = weights()
    trainer.step(batch, "hardness")
    between = weights()
    trainer.step(batch)
    after = weights()
    assert [torch.equal(x, y) for x, y in zip(before, between, strict=True)] == [True, True, False, False]
    assert [torch.equal(x, y) for x, y in zip(between, after, strict=True)] == [False, False, True, True]


@pytest.mark.parametrize("sources", SOURCES)
def test_the_adversary_climbs_and_the_model_descends(sources: str) -> None:
    trainer = trainer_of(EVERY, negatives=SOURCES[sources])
    trainer.position.epoch = 1
    batch = next(trainer.batches())
    losses = [float(trainer.step(batch, "hardness")) for _ in range(8)]
    assert losses == sorted(losses)
    losses = [float(trainer.step(batch)) for _ in range(8)]
    assert losses == sorted(losses, reverse=True)


class _Copies:
    """Every draw of a source, `times` over."""

    def __init__(self, source: Any, times: int) -> None:
        self.source, self.times, self.exclude, self.per = source, times, source.exclude, source.per

    def __call__(self, batch: Batch, positives_BD: torch.Tensor) -> Candidates:
        return Candidates(self.source(batch, positives_BD).items.repeat(1, self.times), None, None)


def test_without_a_learning_rate_it_is_infonce() -> None:
    """Whole trainings, with the K that the sources give it: K = 64 is what 64 copies of every draw would be."""
    rows = [{"name": "uniform", "count": 6, "per": "row"}]
    for weight in (1, 64):
        still = trainer_of({**EVERY, "adv_learning_rate": 0.0, "negative_weight": weight})
        infonce = trainer_of({"name": "supervised", "positives": "users"}, negatives=rows)
        infonce.objective.sources = [_Copies(infonce.sources[0], weight)]  # pyright: ignore
        told = [[p.metrics["loss"] for p in trainer.run() if p.metrics] for trainer in (still, infonce)]
        assert told[0] == pytest.approx(told[1], rel=1e-12)
        assert torch.allclose(still.encoder.item_table, infonce.encoder.item_table, rtol=1e-9)  # pyright: ignore
        moved = trainer_of({**EVERY, "negative_weight": weight})
        assert [p.metrics["loss"] for p in moved.run() if p.metrics][2] != pytest.approx(told[0][2], rel=1e-6)


def test_an_epoch_with_a_pass_tells_what_it_led_to() -> None:
    told = [progress.metrics for progress in trainer_of(EVERY).run() if progress.metrics]
    assert "hardness_kl" not in told[0]
    assert [metrics["hardness_kl"] > 0 for metrics in told[1:]] == [True] * 3
    for name in ("hardness_loss", "alignment", "uniformity", "false_negative_rate", "false_negative_rate_shuffled"):
        assert math.isfinite(told[1][name])
    assert told[-1]["hardness_kl"] > told[1]["hardness_kl"]


def test_false_negatives_in_loops() -> None:
    task = small_log()
    train, held_out = task.seen, task.truth
    random = torch.Generator().manual_seed(2)
    a, b = torch.randn(60, 3, generator=random).double(), torch.randn(40, 3, generator=random).double()
    taken = []
    for user, item in zip(held_out.users.tolist(), held_out.items.tolist(), strict=True):
        seen = set(train.items_of(user).tolist())
        unseen = [math.exp(a[user] @ b[k]) for k in range(40) if k not in seen]
        taken.append(float(a[user] @ b[item]) - math.log(sum(unseen) / len(unseen)) < 0)
    told = _diagnosis.false_negatives(a, b, train, held_out)
    assert told["false_negative_rate"] == pytest.approx(np.mean(taken))
    assert 0.2 < told["false_negative_rate_shuffled"] < 0.9
    flat = _diagnosis.false_negatives(a * 0, b, train, held_out)
    assert flat["false_negative_rate"] in (0, 1), "a flat hardness tells none from another"


def test_uniformity_in_loops() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(7, 3, generator=torch.Generator().manual_seed(1)).double(), dim=1)
    pairs = [math.exp(-2 * float((vectors[x] - vectors[y]).square().sum())) for x in range(7) for y in range(x)]
    assert _diagnosis.uniformity(vectors, len(vectors), Workers()) == pytest.approx(math.log(sum(pairs) / len(pairs)))


def test_users_weigh_alike() -> None:
    """Over any number-of-users consecutive places every user comes once, with a positive of its own."""
    train = small_log().seen
    drawn = list(
        batches(train, batch_size=100, seed=0, epoch=0, workers=Workers(), device=torch.device("cpu"), positives="users")
    )
    assert len(drawn) == len(train) // 100
    assert all(len(batch.users_B) == 100 for batch in drawn)
    users = torch.cat([batch.users_B for batch in drawn]).numpy()
    counts = np.bincount(users, minlength=60)
    assert counts.max() <= -(-len(train) // 60)
    known = set(zip(train.users.tolist(), train.items.tolist(), strict=True))
    pairs = {pair for batch in drawn for pair in zip(batch.users_B.tolist(), batch.items_B.tolist(), strict=True)}
    assert pairs <= known
    assert len(pairs) > 200
    in_order = _rows_of_users(train, np.random.default_rng(0).random(300))
    assert all(sorted(train.users[in_order[k : k + 60]]) == list(range(60)) for k in range(241))


def test_steps_of_the_specification() -> None:
    assert [steps_per_epoch(rows, 1024, "users") for rows in (1363, 88_684, 1023, 0)] == [1, 86, 1, 0]
    assert steps_per_epoch(1363, 1024) == 2


def test_what_it_does_not_take() -> None:
    with pytest.raises(InputError, match=r"loss\.logq: got True"):
        trainer_of(EVERY, loss={"name": "sampled_softmax", "logq": True})
    with pytest.raises(InputError, match=r"^loss\.name: got 'ccl', takes sampled_softmax or bsl under objective adv_infonce"):
        trainer_of(EVERY, loss={"name": "ccl"})


def test_an_encoder_of_histories_has_no_rows_for_users() -> None:
    """Hardness of its own tables will do; that of the encoder's rows will not."""
    reading = {"encoder": {"name": "mean_pool", "dim": 8, "history": "others"}}
    trainer = trainer_of(EVERY, **reading)
    told = [progress.metrics for progress in trainer.run() if progress.metrics]
    assert any("hardness_kl" in metrics for metrics in told)
    with pytest.raises(InputError, match=r"^objective\.hardness: got 'mlp', takes 'embed' where the encoder has no rows"):
        trainer_of({**EVERY, "hardness": "mlp"}, **reading)
