"""A training that goes on from a checkpoint is the training that was never interrupted, bit by bit."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from components import catalog
from components.config import Recipe
from components.data.interactions import Interactions
from components.errors import DivergedError, InputError
from components.training import checkpoint
from components.training.collectives import Workers
from components.training.loop import Progress, Trainer
from tests.unit.test_serving import Hostile
from tests.worlds import recipe, small_log

DATASET = "0123456789ab"
CLOCK = ("rows_per_second", "step_seconds", "validation_seconds")  # differ from run to run


def mixed(**training: Any) -> Recipe:
    """Draws of every kind: dropout, a pool shared by the batch and negatives of each row."""
    return recipe(
        encoder={"name": "mf", "dim": 8, "dropout": 0.3},
        negatives=[{"name": "in_batch"}, {"name": "uniform", "count": 20}, {"name": "uniform", "count": 3, "per": "row"}],
        optimizer={"learning_rate": 0.02, "l2": {"weight": 0.01, "on": "tables"}},
        training={"batch_size": 100, "epochs": 4, "precision": "float64", "checkpoint_steps": 2, **training},
    )


def trainer(given: Recipe) -> Trainer:
    task = small_log()
    return Trainer(given, task.seen, task, Workers(), torch.device("cpu"))


def told(progress: Progress) -> tuple[int, dict[str, float]] | None:
    if progress.metrics is None:
        return None
    return progress.epoch, {name: value for name, value in progress.metrics.items() if name not in CLOCK}


def go_on(from_here: Trainer) -> list[tuple[int, dict[str, float]]]:
    return [epoch for progress in from_here.run() if (epoch := told(progress))]


def each_resumed(given: Recipe, epochs: list[Any], left: list[Any]) -> Iterator[Trainer]:
    """A trainer from each checkpoint, which has gone on to the end as the undisturbed one did."""
    for path, before, _ in left:
        resumed = trainer(given)
        resumed.restore(path, DATASET)
        assert go_on(resumed) == epochs[before:]
        yield resumed


def checkpoints(given: Recipe, folder: Path) -> tuple[Trainer, list[Any], list[tuple[Path, int, Progress]]]:
    """An uninterrupted training that leaves each of its checkpoints: (folder, epochs told before it, what was told then)."""
    whole, epochs, left = trainer(given), [], []
    for progress in whole.run():
        if epoch := told(progress):
            epochs.append(epoch)
        if progress.checkpoint_due:
            path = folder / f"{len(left)}"
            whole.save(path, DATASET)
            left.append((path, len(epochs), progress))
    return whole, epochs, left


def adversarial(**training: Any) -> Recipe:
    """Two learners; a pass of the other one in every epoch but the first."""
    other = recipe(
        objective={"name": "adv_infonce", "adv_interval": 1, "adv_learning_rate": 0.05},
        negatives=[{"name": "uniform", "count": 3, "per": "row"}],
    )
    return mixed(**training).model_copy(update={"objective": other.objective, "negatives": other.negatives})


@pytest.mark.parametrize("validate_every", [1, 2])
def test_from_every_checkpoint_on_the_future_is_the_same_bits(tmp_path: Path, validate_every: int) -> None:
    given = mixed(validate_every=validate_every)
    whole, epochs, left = checkpoints(given, tmp_path)
    ends = [progress for *_, progress in left if progress.metrics is not None]
    assert len(ends) == 4 // validate_every
    assert len(left) - len(ends) == 4 * 2, "two checkpoints inside each epoch of five steps"
    for resumed in each_resumed(given, epochs, left):
        assert resumed.position == whole.position
        for name, table in whole.encoder.state_dict().items():
            assert torch.equal(resumed.encoder.state_dict()[name], table)


def test_the_future_of_two_learners_is_the_same_bits(tmp_path: Path) -> None:
    given = adversarial()
    whole, epochs, left = checkpoints(given, tmp_path)
    inside = sorted({(progress.epoch, progress.step) for *_, progress in left if progress.metrics is None})
    assert (1, 2) in inside, "in the other learner's pass"
    assert (1, 6) in inside, "in the model's, after the four steps of that"
    for resumed in each_resumed(given, epochs, left):
        for name, learner in whole.learners.items():
            for key, table in learner.module.state_dict().items():
                assert torch.equal(resumed.learners[name].module.state_dict()[key], table)


def test_the_future_of_what_remembers_is_the_same_bits(tmp_path: Path) -> None:
    """Views draw from a bank of recent items, across the warm-up's end and up the curriculum."""
    given = recipe(
        data={"source": "log.csv", "split": {"by": "leave_one_out"}},
        encoder={"name": "mean_pool", "dim": 8, "inner_dim": 16, "init_std": 0.5},
        objective={"name": "ccl4rec", "warm_up": 1, "curriculum_epochs": 2},
        views=[{"name": "replace"}, {"name": "replace", "replaces": "indispensable"}],
        negatives=[{"name": "in_batch"}, {"name": "memory_bank", "size": 250}],
        training={"batch_size": 100, "epochs": 4, "precision": "float64", "checkpoint_steps": 2},
    )
    whole, epochs, left = checkpoints(given, tmp_path)
    assert len(left) > 6
    for resumed in each_resumed(given, epochs, left):
        assert torch.equal(resumed.encoder.state_dict()["item_table"], whole.encoder.state_dict()["item_table"])


def test_the_future_of_learners_who_take_turns_on_a_batch_is_the_same_bits(tmp_path: Path) -> None:
    """In the middle of an epoch two Adams have taken steps, one of them twice as many; both go on where they stood."""
    given = recipe(
        data={"source": "log.csv", "split": {"by": "leave_one_out"}},
        encoder={"name": "sasrec", "dim": 8, "inner_dim": 16, "max_length": 7, "init_std": 0.5, "dropout": 0.2},
        objective={"name": "mclrec", "lambda_": 0.3, "beta": 0.7},
        views=[{"name": "crop"}, {"name": "mask"}, {"name": "reorder"}],
        negatives=[{"name": "all_items"}],
        training={"batch_size": 100, "epochs": 2, "precision": "float64", "checkpoint_steps": 2},
    )
    whole, epochs, left = checkpoints(given, tmp_path)
    assert sum(progress.metrics is None for *_, progress in left) >= 2, "inside an epoch"
    for resumed in each_resumed(given, epochs, left):
        for name, learner in whole.learners.items():
            for key, weight in learner.module.state_dict().items():
                assert torch.equal(resumed.learners[name].module.state_dict()[key], weight), (name, key)


@pytest.mark.parametrize(
    "sections",
    [
        {"training": {"batch_size": 100, "epochs": 3, "precision": "bfloat16", "checkpoint_steps": 2}},
        {"optimizer": {"lazy": True, "learning_rate": 0.02}},
        {"optimizer": {"lazy": True}, "encoder": {"name": "sasrec", "dim": 8, "inner_dim": 16, "max_length": 7}},
    ],
    ids=["bfloat16", "lazy", "lazy and dense"],
)
def test_the_future_is_the_same_bits_however_weights_move(tmp_path: Path, sections: dict[str, Any]) -> None:
    training = {"batch_size": 100, "epochs": 3, "precision": "float64", "checkpoint_steps": 2}
    data = {"source": "log.csv", "split": {"by": "leave_one_out"}}
    given = recipe(**{"training": training, "data": data, **sections})
    whole, epochs, left = checkpoints(given, tmp_path)
    assert len(left) > 4
    for resumed in each_resumed(given, epochs, left):
        for name, table in whole.encoder.state_dict().items():
            assert torch.equal(resumed.encoder.state_dict()[name], table)


def test_the_future_of_a_learning_rate_that_is_cut_is_the_same_bits(tmp_path: Path) -> None:
    """Of weights that went back to the best ones, too."""
    plateau = {"patience": 1, "factor": 0.5, "reload": True}
    given = recipe(
        optimizer={"learning_rate": 0.3, "plateau": plateau},
        training={"batch_size": 100, "epochs": 6, "precision": "float64", "checkpoint_steps": 3},
    )
    whole, epochs, left = checkpoints(given, tmp_path)
    rates = [metrics["learning_rate"] for _, metrics in epochs]
    assert 1 < len({*rates}) < 6, "cut, and not after every epoch"
    for resumed in each_resumed(given, epochs, left):
        assert resumed.position == whole.position
        for name, table in whole.encoder.state_dict().items():
            assert torch.equal(resumed.encoder.state_dict()[name], table)
            assert torch.equal(resumed.best.state_dict()[name], whole.best.state_dict()[name])


def test_early_stopping_goes_on_counting(tmp_path: Path) -> None:
    given = mixed(patience=3, min_epochs=5, epochs=60, checkpoint_steps=None)
    whole, epochs, left = checkpoints(given, tmp_path)
    values = [metrics["valid_recall@20"] for _, metrics in epochs]
    assert len(epochs) < 60, "the training stopped early"
    assert whole.position.best_epoch is not None
    assert whole.position.best_epoch == values.index(max(values))
    assert len(epochs) == max(5, whole.position.best_epoch + 1 + 3)
    resumed = trainer(given)
    resumed.restore(left[-2][0], DATASET)
    assert resumed.position.validations_since_best == 2
    assert len(go_on(resumed)) == 1


def test_a_finished_training_does_not_go_on(tmp_path: Path) -> None:
    given = mixed(epochs=2)
    _, _, left = checkpoints(given, tmp_path)
    resumed = trainer(given)
    resumed.restore(left[-1][0], DATASET)
    assert go_on(resumed) == []


def test_a_position_that_is_a_pickle_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    folder, struck = tmp_path / "checkpoint", tmp_path / "struck"
    resumed = trainer(mixed())
    resumed.save(folder, DATASET)
    (folder / checkpoint.POSITION).write_bytes(pickle.dumps(Hostile(struck)))
    with pytest.raises(InputError, match=rf"^{folder}/position.json: got no JSON .*, takes a position as training writes it$"):
        resumed.restore(folder, DATASET)
    assert not struck.exists()


def test_a_finished_training_extended_is_the_longer_one(tmp_path: Path) -> None:
    short, long = mixed(epochs=2), mixed(epochs=4)
    _, begun, left = checkpoints(short, tmp_path)
    whole = trainer(long)
    epochs = go_on(whole)
    extended = trainer(long)
    with pytest.raises(InputError, match="made for recipe"):
        extended.restore(left[-1][0], DATASET)
    extended.restore(left[-1][0], DATASET, made_for=short)
    assert [*begun, *go_on(extended)] == epochs
    assert extended.position == whole.position
    assert torch.equal(extended.encoder.state_dict()["item_table"], whole.encoder.state_dict()["item_table"])


def test_a_training_that_ran_out_of_patience_stays_ended(tmp_path: Path) -> None:
    short = mixed(patience=3, min_epochs=5, epochs=60, checkpoint_steps=None)
    _, _, left = checkpoints(short, tmp_path)
    extended = trainer(mixed(patience=3, min_epochs=5, epochs=80, checkpoint_steps=None))
    extended.restore(left[-1][0], DATASET, made_for=short)
    assert go_on(extended) == []


def test_a_last_epoch_that_was_not_validated_leaves_a_checkpoint_too(tmp_path: Path) -> None:
    still = mixed().optimizer.model_copy(update={"learning_rate": 1e-12})  # no validation improves on the first
    given = mixed(epochs=30, validate_every=2, patience=1, min_epochs=5).model_copy(update={"optimizer": still})
    _, epochs, left = checkpoints(given, tmp_path)
    assert len(epochs) == 5
    assert left[-1][2].finished


def test_a_checkpoint_for_another_dataset_or_recipe_is_refused(tmp_path: Path) -> None:
    given, other = mixed(), mixed(batch_size=101)
    trainer(given).save(tmp_path, DATASET)
    with pytest.raises(InputError, match=f"dataset {DATASET}, takes one of dataset ba9876543210"):
        trainer(given).restore(tmp_path, "ba9876543210")
    with pytest.raises(InputError, match=f"recipe {given.fingerprint()}, takes one of recipe {other.fingerprint()}"):
        trainer(other).restore(tmp_path, DATASET)


class _NotANumberOnce:
    """A loss that is NaN for one row of one later step, as overflow in a kernel would make it."""

    def __init__(self, trainer: Trainer, epoch: int, step: int, turn: int = 0) -> None:
        self.inner, self.trainer, self.when = trainer.objective, trainer, (epoch, step, turn)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, batch: Any) -> Any:
        outcome = self.inner(batch)
        if (self.trainer.position.epoch, self.trainer.position.step, batch.turn) == self.when:
            outcome.loss_B[3] = torch.nan
        return outcome


def test_a_nan_later_on_is_named_and_the_last_good_checkpoint_is_kept(tmp_path: Path) -> None:
    given = mixed()
    faulty: Any = trainer(given)
    faulty.objective = _NotANumberOnce(faulty, epoch=2, step=3)
    left = []
    with pytest.raises(DivergedError, match=r"^epoch 3, step 4: the loss is nan on the batch of rows 301 to 400 in its order"):
        for progress in faulty.run():
            if progress.checkpoint_due:
                left.append(tmp_path / f"{len(left)}")
                faulty.save(left[-1], DATASET)
    resumed = trainer(given)
    resumed.restore(left[-1], DATASET)
    assert (resumed.position.epoch, resumed.position.step) == (2, 2), "the one before the step that failed"
    assert all(bool(torch.isfinite(table).all()) for table in resumed.encoder.parameters())
    assert go_on(resumed) == go_on(trainer(given))[2:], "it goes on as if nothing had been"


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ("user_table", "queries"),
        ("item_table", "positives and candidates of negatives.0 and candidates of negatives.1 and candidates of negatives.2"),
    ],
)
def test_vectors_that_are_not_finite_are_named(table: str, named: str) -> None:
    faulty = trainer(mixed())
    with torch.no_grad():
        getattr(faulty.encoder, table)[:] = torch.inf
    with pytest.raises(
        DivergedError, match=rf"^epoch 1, step 1: the loss is nan .* in its order, where {named} are not finite;"
    ):
        go_on(faulty)


@pytest.mark.parametrize("loss", catalog.names("loss"))
def test_no_loss_hides_a_candidate_that_is_not_finite(loss: str) -> None:
    """Step, batch and vectors are named whatever the loss: it is the loss that is looked at."""
    seen, given = small_log().seen, recipe(loss={"name": loss}, negatives=[{"name": "all_items"}])
    log = Interactions.of(seen.users, seen.items, seen.num_users, seen.num_items + 1)
    faulty = Trainer(given, log, None, Workers(), torch.device("cpu"))
    with torch.no_grad():
        faulty.encoder.item_table[-1] = torch.nan  # nobody's positive
    with pytest.raises(
        DivergedError, match=r"^epoch 1, step 1: the loss is nan on .*, where candidates of negatives\.0 are not finite;"
    ):
        go_on(faulty)


VIEWS: dict[str, Any] = {
    "data": {"source": "log.csv", "split": {"by": "leave_one_out"}},
    "encoder": {"name": "sasrec", "dim": 8, "inner_dim": 16, "max_length": 7},
    "objective": {"name": "mclrec", "beta": 0.7},
    "views": [{"name": "mask", "token": "own"}, {"name": "mask", "token": "own", "ratio": 0.9}],
}


def test_views_that_are_not_finite_are_named() -> None:
    """What masks them is in no history."""
    faulty = trainer(recipe(**VIEWS, negatives=[{"name": "in_batch"}]))
    with torch.no_grad():
        faulty.encoder.item_table[-1] = torch.inf
    with pytest.raises(
        DivergedError, match=r"1: the loss is nan in turn 1, of model, .*, where the \w+ views and the \w+ views are"
    ):
        go_on(faulty)


def test_the_turn_of_a_loss_that_is_not_finite_is_named() -> None:
    faulty: Any = trainer(recipe(**VIEWS))
    faulty.objective = _NotANumberOnce(faulty, epoch=1, step=2, turn=1)
    with pytest.raises(
        DivergedError, match=r"^epoch 2, step 3: the loss is nan in turn 2, of augmenters, on the batch of rows 101"
    ):
        go_on(faulty)


@pytest.mark.parametrize("checkpoint_steps", [2, None])
def test_a_training_that_diverges_says_so_and_leaves_no_checkpoint_of_it(tmp_path: Path, checkpoint_steps: int | None) -> None:
    wild = mixed().optimizer.model_copy(update={"learning_rate": 1e300})
    given = mixed(checkpoint_steps=checkpoint_steps).model_copy(update={"optimizer": wild})
    found = r"loss is \S+ on the batch of rows \d+ to \d+ in its order.*|weights are not finite, .*"
    with pytest.raises(DivergedError, match=rf"epoch 1, step \d: the ({found}); try"):
        checkpoints(given, tmp_path)
    assert list(tmp_path.iterdir()) == []
