"""What CCL4Rec-style tells of its views while it trains, against loops; that telling it changes nothing; and their damage."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from components.objectives import _diagnosis
from components.objectives.ccl4rec import CCL4Rec
from components.training.batches import Batch, Histories
from components.views import Weights
from tests.unit.objectives.test_ccl4rec import EPOCH, MEAN_POOL, SASREC, batch_of, cosine, drawn, told, trainer_of

NAMES = {f"{what}_{kind}" for what in ("damage", "sharpness") for kind in ("dispensable", "indispensable")} | {"damage_order"}


def spearman(first: Any, second: Any) -> float:
    found: Any = spearmanr(first, second)
    return found.statistic


@pytest.mark.parametrize("encoder", [{}, {"encoder": SASREC}], ids=["mean_pool", "sasrec"])
def test_damage_its_order_and_the_curriculum(encoder: dict[str, Any]) -> None:
    trainer = trainer_of({}, **encoder)
    batch = batch_of(trainer)
    found = trainer.objective.diagnose(batch, None)  # pyright: ignore[reportAttributeAccessIssue]
    assert set(found) == NAMES
    damages: dict[str, list[float]] = {"dispensable": [], "indispensable": []}
    orders = []
    query_BD = trainer.encoder.encode(batch.histories).detach()  # without dropout
    vectors_BVD = trainer.objective._encoded(batch.histories, trainer.objective.drawn(batch)[0]).detach()  # pyright: ignore
    for b, (history, views, damage) in enumerate(zip(told(batch), *drawn(trainer, batch), strict=True)):
        if all(view == history for view in views):
            continue
        damages["dispensable"] += damage[:3]
        damages["indispensable"] += damage[3:]
        cosines = [round(float(cosine(query_BD[b], vector)), 6) for vector in vectors_BVD[b]]  # equal views are equal
        orders.append(spearman(cosines, [-round(each, 6) for each in damage]))
    assert 0 < len(orders) < len(told(batch)), "short histories are left out"
    for kind, wanted in damages.items():
        assert found[f"damage_{kind}"] == pytest.approx(statistics.fmean(wanted))
        assert found[f"sharpness_{kind}"] == pytest.approx(5 * EPOCH / 6)
    assert found["damage_indispensable"] > found["damage_dispensable"]
    assert found["damage_order"] == pytest.approx(statistics.fmean(orders))


def test_rank_correlation() -> None:
    """Two rows in order, one against it, with a tie; one without an order does not count."""
    first = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [1.0, 1.0, 2.0], [5.0, 5.0, 5.0]])
    second = torch.tensor([[10.0, 20.0, 90.0], [1.0, 5.0, 9.0], [0.0, 1.0, 2.0], [1.0, 2.0, 3.0]])
    rows = [spearman(a, b) for a, b in zip(first[:3], second[:3], strict=True)]
    assert rows[:2] == pytest.approx([1, -1])
    assert _diagnosis.rank_correlation(first, second) == pytest.approx(statistics.fmean(rows))
    assert _diagnosis.rank_correlation(first[3:], second[3:]) == 0.0


def test_it_is_told_after_the_warm_up_and_training_does_not_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> list[dict[str, float]]:
        found = [progress.metrics for progress in trainer_of({"warm_up": 2}).run() if progress.metrics]
        clock = ("rows_per_second", "step_seconds", "validation_seconds")
        return [{name: value for name, value in each.items() if name not in clock} for each in found]

    watched = trained()
    assert [set(epoch) >= NAMES for epoch in watched] == [False, False, True, True]
    assert not NAMES & (set(watched[0]) | set(watched[1]))
    assert watched[3]["sharpness_dispensable"] == pytest.approx(5 * 3 / 6)
    monkeypatch.setattr(CCL4Rec, "diagnose", lambda *_: {})
    assert trained() == [{name: value for name, value in epoch.items() if name not in NAMES} for epoch in watched]


@pytest.mark.parametrize("objective", [{"warm_up": 9}, {"contrast_weight": 0.0, "ranking_weight": 0.0}])
def test_without_views_nothing_is_told(objective: dict[str, Any]) -> None:
    trainer = trainer_of(objective)
    assert trainer.objective.diagnose(batch_of(trainer), None) == {}  # pyright: ignore[reportAttributeAccessIssue]


def at(angle: float, length: float = 1.0) -> Tensor:
    return length * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)


@pytest.mark.parametrize(
    ("replaced", "related", "damage"),
    [((0, 2), (0.8, 0.1), 0.28), ((), (), 0.0), ((0, 1, 2), (1.0, 1.0, 1.0), 0.0), ((0, 1, 2), (0.0, 0.0, 0.0), 1.0)],
)
def test_damage(replaced: tuple[int, ...], related: tuple[float, ...], damage: float) -> None:
    """Importance .5, .3 and .2; some behaviours are replaced by items so related to them."""
    trainer = trainer_of({}, encoder={**MEAN_POOL, "dim": 2})
    objective: Any = trainer.objective
    angles = [math.acos(0.9 + 0.2 * math.log(a / 0.5)) for a in (0.5, 0.3, 0.2)]  # to the target's, 0
    new = dict(zip(replaced, (4, 5, 6), strict=False))
    with torch.no_grad():
        objective.bank.items_M[:3] = torch.tensor([4, 5, 6])
        trainer.encoder.item_table[0] = at(0, 2)
        for place, angle in enumerate(angles):
            trainer.encoder.item_table[1 + place] = at(angle, 3)
        for place, r in zip(replaced, related, strict=True):
            trainer.encoder.item_table[new[place]] = at(angles[place] + math.acos(2 * r - 1))

    def view(histories_BL: Tensor, lengths_B: Tensor, uniforms: Any, weights: Weights) -> tuple[Tensor, Tensor]:
        made_BL = histories_BL.clone()
        for place, item in new.items():
            made_BL[:, place] = item
        return made_BL, lengths_B

    view.replaces = "dispensable"  # pyright: ignore[reportFunctionMemberAccess]
    objective.views = [view, view]
    histories = Histories(torch.tensor([[1, 2, 3]]), torch.tensor([3]), 0)
    _, damage_BV = objective.drawn(Batch(torch.tensor([0]), torch.tensor([0]), 0, 1, (0, 0, 0), histories=histories))
    assert damage_BV.tolist() == [[pytest.approx(damage, abs=1e-7)] * 5]
