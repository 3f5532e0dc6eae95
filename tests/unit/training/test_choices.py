"""What is looked at changes no weight: a refit for E epochs is the run that looks at the test split, at its epoch E."""

from __future__ import annotations

import torch

from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.worlds import recipe, small_log


def weights_after(epochs: int, looks: bool, stop_at: int) -> dict[str, torch.Tensor]:
    task = small_log()
    training = {"batch_size": 50, "epochs": epochs, "fit_on": "train+valid", "select_on": "test" if looks else "none"}
    settings = recipe(training=training, encoder={"name": "mf", "dim": 8, "dropout": 0.2})
    trainer = Trainer(settings, task.seen, task if looks else None, Workers(), torch.device("cpu"))
    for progress in trainer.run():
        if progress.metrics is not None and progress.epoch + 1 == stop_at:
            break
    return trainer.encoder.state_dict()


def test_a_refit_is_the_other_run_at_that_epoch_bit_for_bit() -> None:
    refit, looked = weights_after(3, looks=False, stop_at=3), weights_after(8, looks=True, stop_at=3)
    assert set(refit) == {"user_table", "item_table"}
    assert all(torch.equal(refit[name], looked[name]) for name in refit)
    later = weights_after(8, looks=True, stop_at=4)
    assert not torch.equal(refit["item_table"], later["item_table"])
