"""What CCL4Rec-style tells of its views while it trains, against loops; and that telling it changes nothing."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr

from components.objectives import _diagnosis
from components.objectives.ccl4rec import CCL4Rec
from tests.unit.objectives.test_ccl4rec import EPOCH, SASREC, batch_of, cosine, drawn, told, trainer_of

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
