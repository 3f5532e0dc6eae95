"""The learning rate is cut where validation is no better, as torch's ReduceLROnPlateau cuts it; the best weights come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from components.errors import InputError
from components.training.collectives import Workers
from components.training.loop import Trainer
from ray_jobs import _training
from tests.worlds import recipe, small_log

VALUES = [0.1, 0.2, 0.2, 0.19, 0.18, 0.3, 0.1, 0.31, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]


def trainer_of(values: list[float], *, lazy: bool = False, **plateau: Any) -> Any:
    """One whose validations come to these values."""
    optimizer = {"learning_rate": 0.02, "lazy": lazy, "plateau": plateau}
    training = {"batch_size": 300, "epochs": len(values), "patience": 100, "precision": "float64"}
    task = small_log()
    trainer: Any = Trainer(recipe(optimizer=optimizer, training=training), task.seen, task, Workers(), torch.device("cpu"))
    told = iter(values)
    trainer.validate = lambda: {"recall@20": next(told)}
    return trainer


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("plateau", [{"patience": 1}, {"patience": 2, "factor": 0.5}, {"patience": 1, "min_lr": 3e-4}])
def test_rates_are_those_of_torchs_scheduler(plateau: dict[str, Any], lazy: bool) -> None:
    trainer = trainer_of(VALUES, lazy=lazy, **plateau)
    found = [progress.metrics["learning_rate"] for progress in trainer.run() if progress.metrics]
    adam = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.02)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        adam,
        mode="max",
        factor=plateau.get("factor", 0.1),
        patience=plateau["patience"] - 1,
        threshold=0.0,
        threshold_mode="abs",
        min_lr=plateau.get("min_lr", 0.0),
        eps=0.0,
    )
    wanted = []
    for value in VALUES:
        wanted.append(adam.param_groups[0]["lr"])
        scheduler.step(value)
    assert found == pytest.approx(wanted, rel=1e-12)
    assert len({*found}) > 2
    for _, part in trainer.optimizers["model"]._parts:
        assert [group["lr"] for group in part.param_groups] == pytest.approx([adam.param_groups[0]["lr"]])


@pytest.mark.parametrize("reload", [True, False])
def test_the_best_weights_come_back_with_a_cut_where_that_is_asked(reload: bool) -> None:
    trainer = trainer_of([0.1, 0.3, 0.2, 0.2, 0.4], patience=2, reload=reload)
    after, moments = [], []
    for progress in trainer.run():
        if progress.metrics:
            after.append({name: table.clone() for name, table in trainer.encoder.state_dict().items()})
            moments.append({name: value.clone() for name, value in trainer.optimizers["model"].state_dict().items()})
    for name, best in after[1].items():
        assert torch.equal(after[3][name], best) is reload, "two validations later"
        assert not torch.equal(after[2][name], best)
        assert not torch.equal(after[4][name], best)
    assert any(not torch.equal(moments[3][name], value) for name, value in moments[1].items()), "of Adam they stay"


def test_without_one_nothing_is_cut() -> None:
    task = small_log()
    trainer: Any = Trainer(recipe(), task.seen, task, Workers(), torch.device("cpu"))
    trainer.validate = lambda: {"recall@20": 0.1}
    told = [progress.metrics for progress in trainer.run() if progress.metrics]
    assert trainer.position.cuts == 0
    assert all("learning_rate" not in metrics for metrics in told)
    assert "best" not in trainer._modules()


def test_learners_with_a_rate_of_their_own_keep_it() -> None:
    given = recipe(
        objective={"name": "adv_infonce", "adv_interval": 1, "adv_learning_rate": 0.05},
        negatives=[{"name": "uniform", "count": 3, "per": "row"}],
        optimizer={"plateau": {"patience": 1}},
    )
    task = small_log()
    trainer: Any = Trainer(given, task.seen, task, Workers(), torch.device("cpu"))
    trainer.validate = lambda: {"recall@20": 0.1}
    list(trainer.run())
    rates = {name: own._parts[0][1].param_groups[0]["lr"] for name, own in trainer.optimizers.items()}
    assert rates == pytest.approx({"model": 1e-5, "hardness": 0.05})


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"optimizer": {"plateau": {"patience": 0}}}, r"^optimizer\.plateau\.patience: got 0"),
        ({"optimizer": {"plateau": {}}}, r"^optimizer\.plateau\.patience: "),
        ({"optimizer": {"plateau": {"patience": 1, "factor": 1.0}}}, r"^optimizer\.plateau\.factor: got 1"),
        (
            {"optimizer": {"learning_rate": 0.01, "plateau": {"patience": 1, "min_lr": 0.01}}},
            r"^optimizer\.plateau\.min_lr: got 0\.01, takes less than optimizer\.learning_rate, 0\.01$",
        ),
        (
            {"optimizer": {"plateau": {"patience": 1}}, "training": {"select_on": "none"}},
            r"^optimizer\.plateau: got one, takes null where training\.select_on is none",
        ),
    ],
)
def test_what_can_cut_nothing_is_refused(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        recipe(**sections)


def test_a_refit_is_refused_before_anything_is_read() -> None:
    given = recipe(optimizer={"plateau": {"patience": 1}})
    with pytest.raises(InputError, match=r"^--refit: got a recipe with optimizer\.plateau, takes one whose"):
        _training.refit(given, Path("/nowhere"))
