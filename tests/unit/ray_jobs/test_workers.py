"""What a training finds in its data before any worker starts; what its workers report, however it ends."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ray.train import Checkpoint

from components import storage
from components.data import interactions
from components.errors import DivergedError, InputError
from components.evaluation import splits
from components.evaluation.evaluate import Task
from components.training.batches import Batch
from components.training.collectives import Workers
from components.training.loop import Trainer
from ray_jobs import _tracking, _workers
from tests.worlds import recipe, small_log


def test_more_candidates_than_the_training_log_has_items(monkeypatch: pytest.MonkeyPatch) -> None:
    train = small_log().seen
    monkeypatch.setattr(interactions, "load", lambda *_: train)

    def opened(count: int, **sections: Any) -> interactions.Interactions:
        negatives = [{"name": "in_batch"}, {"name": "uniform", "count": count}]
        given = recipe(negatives=negatives, training={"select_on": "none"}, **sections)
        return _workers.open_data(given, Path("dataset"))[0]

    assert opened(count=train.num_items) is train
    with pytest.raises(InputError, match=r"^negatives\.1\.count: got 41, takes at most 40, the number of items$"):
        opened(count=41)
    given = {
        "data": {"source": "log.csv", "split": {"by": "leave_one_out"}},
        "encoder": {"name": "sasrec"},
        "objective": {"name": "mclrec"},
        "views": [{"name": "crop"}, {"name": "substitute", "neighbours": 40}],
    }
    with pytest.raises(InputError, match=r"^views\.1\.neighbours: got 40, takes less than 40, the number of items$"):
        opened(count=4, **given)


def test_an_epoch_is_chosen_with_seen_items_masked_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not masked, a model that ranks what users have first finds nothing new; it reads the same histories."""
    told, seen = {}, small_log().seen
    items = [seen.items_of(user)[0] if len(seen.items_of(user)) else 0 for user in range(seen.num_users)]
    truth = interactions.Interactions.of(range(seen.num_users), [(item + 1) % seen.num_items for item in items], 60, 40)
    monkeypatch.setattr(interactions, "load", lambda *_: seen)
    monkeypatch.setattr(splits, "task_of", lambda *_: Task(truth, seen))
    for masked in (True, False):
        given = recipe(training={"metric": "recall@5", "mask_seen": masked, "epochs": 1})
        _, task = _workers.open_data(given, Path("dataset"))
        assert task is not None
        assert task.history is seen
        trainer = Trainer(given, seen, task, Workers(), torch.device("cpu"))
        with torch.no_grad():  # a user's own items score far more than others
            owned = torch.zeros(seen.num_users, seen.num_items)
            owned[torch.from_numpy(seen.users.copy()).long(), torch.from_numpy(seen.items.copy()).long()] = 1
            left, scale, right = torch.linalg.svd(owned.double())
            trainer.encoder.user_table.copy_((left[:, :40] * scale)[:, :8])
            trainer.encoder.item_table.copy_(right.T[:, :8])
        told[masked] = trainer.validate()
    assert told[False]["recall@5"] < told[True]["recall@5"]
    assert told[False]["recall_snips@5"] < told[True]["recall_snips@5"]


@pytest.mark.parametrize(
    ("section", "prefix"),
    [
        ({}, "valid"),
        ({"mask_seen": False}, "valid_not_masked"),
        ({"select_on": "valid_late"}, "valid_late"),
        ({"select_on": "valid_late", "mask_seen": False}, "valid_late_not_masked"),
    ],
)
def test_validation_is_asked_of_its_split_and_logged_by_split_and_protocol(
    section: dict[str, Any], prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, asked = small_log(), []

    def task_of(dataset: Path, split: str, name: str) -> Task:
        asked.append(split)
        return world

    monkeypatch.setattr(interactions, "load", lambda *_: world.seen)
    monkeypatch.setattr(splits, "task_of", task_of)
    data = {"source": "log.csv", "split": {"by": "given"}}
    given = recipe(data=data, training={"metric": "mrr@5", "epochs": 1, "precision": "float64", **section})
    _, task = _workers.open_data(given, Path("dataset"))
    assert asked == [given.training.select_on]
    (told,) = (each.metrics for each in Trainer(given, world.seen, task, Workers(), torch.device("cpu")).run() if each.metrics)
    logged = {name for name in told if "@" in name}
    assert logged == {f"{prefix}_{name}@5" for name in ("mrr", "recall", "ndcg", "recall_snips")}
    assert given.training.logged("mrr@5") in logged


def test_a_second_split_is_measured_whenever_the_run_validates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the run's protocol and under its own name; the epoch is chosen without it."""
    near, far = small_log(), small_log(seed=1)
    tasks = {"valid": near, "valid_far": Task(far.truth, near.seen)}
    monkeypatch.setattr(interactions, "load", lambda *_: near.seen)
    monkeypatch.setattr(splits, "task_of", lambda dataset, split, name: tasks[split])
    monkeypatch.setattr(_workers.ray.train, "get_checkpoint", lambda: None)
    monkeypatch.setattr(_workers.ray.train.torch, "get_device", lambda: torch.device("cpu"))
    storage.write_json(tmp_path / storage.MANIFEST, {"fingerprint": "d"})
    data = {"source": "log.csv", "split": {"by": "given"}}
    short = {"metric": "recall@5", "epochs": 4, "validate_every": 2, "precision": "float64"}

    def told(also_on: str, **training: Any) -> list[dict[str, float]]:
        given = recipe(data=data, training={**short, **training})
        trainer, _, _ = _workers._start_alone(given, tmp_path, tmp_path, also_on)
        epochs = [each.metrics for each in trainer.run() if each.metrics is not None]
        return [{name: value for name, value in epoch.items() if "@" in name} for epoch in epochs]

    alone, both, turned = told(""), told("valid_far"), told("valid", select_on="valid_far")
    assert [len(epoch) for epoch in alone] == [0, 3, 0, 3]
    assert [{name: value for name, value in epoch.items() if not name.startswith("valid_far")} for epoch in both] == alone
    assert {name for name in both[1] if name.startswith("valid_far_")} == {f"valid_far_{each[6:]}" for each in alone[1]}
    assert turned == both, "each is what choosing on it would have measured"
    assert "valid_far_not_masked_recall@5" in told("valid_far", mask_seen=False)[1]


def test_a_user_who_has_every_item(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Said by the source's id, whichever of a recipe's sources needs another item; a pool only masks."""
    train = interactions.Interactions.of([0, 0, 1, 1, 1], [0, 1, 1, 0, 1], 2, 2)
    monkeypatch.setattr(interactions, "load", lambda *_: train)
    pq.write_table(pa.table({"id": [0, 1], "raw": ["all of it", "twice"]}), tmp_path / "users.parquet")

    def open_with(**source: Any) -> None:
        negatives = [{"name": "in_batch"}, {"name": "uniform", "count": 1, **source}]
        _workers.open_data(recipe(negatives=negatives, training={"select_on": "none"}), tmp_path)

    open_with(per="batch")
    open_with(per="row", exclude="nothing")
    with pytest.raises(
        InputError, match=r"^negatives\.1: user 'all of it' has all 2 items in training, takes users with one left"
    ):
        open_with(per="row")
    train = interactions.Interactions.of([0, 0, 0, 1], [0, 1, 1, 2], 2, 3)  # three rows, of two items out of three
    open_with(per="row")


class Told:
    """In the place of ray.train.report: it keeps what was reported, checkpoints with it."""

    def __init__(self, folder: Path) -> None:
        self.epochs: list[list[int]] = []
        self.checkpoints: list[Path | None] = []
        self._folder = folder

    def __call__(self, metrics: dict[str, Any], checkpoint: Checkpoint | None) -> None:
        self.epochs.append([entry["step"] for entry in metrics.get("history", [])])  # of the first worker alone
        kept = None
        if checkpoint is not None:
            kept = self._folder / f"{len(self.checkpoints)}"
            shutil.copytree(checkpoint.path, kept)
        self.checkpoints.append(kept)


def follow(folder: Path, seconds_per_look: float, fails_in_epoch: int | None = None, **training: Any) -> tuple[Told, Trainer]:
    """A training of six epochs, and what was told of it; a clock that goes on by so much with each look at it."""
    task = small_log()
    settings = {"batch_size": 100, "epochs": 6, "precision": "float64", **training}
    trainer = Trainer(recipe(training=settings), task.seen, task, Workers(), torch.device("cpu"))
    update = trainer.update

    def failing(batch: Batch, learner: str = "model") -> torch.Tensor:
        return update(batch, learner) * (torch.nan if trainer.position.epoch == fails_in_epoch else 1)

    trainer.update = failing
    told = Told(folder)
    reports = _workers.Reports(trainer, "dataset", [], told, clock=itertools.count(0, seconds_per_look).__next__)
    if fails_in_epoch is None:
        _workers._follow(trainer, reports, None, None)
    else:
        with pytest.raises(DivergedError, match=f"^epoch {fails_in_epoch + 1}, step 1: the loss is nan"):
            _workers._follow(trainer, reports, None, None)
    return told, trainer


def stands_at(trainer: Trainer, checkpoint: Path | None) -> tuple[int, int]:
    assert checkpoint is not None
    trainer.restore(checkpoint, "dataset")
    return trainer.position.epoch, len(_tracking.read_history(checkpoint))


def test_epochs_that_are_short_are_told_together(tmp_path: Path) -> None:
    told, trainer = follow(tmp_path, seconds_per_look=0.0)
    assert told.epochs == [[1, 2, 3, 4, 5, 6]]
    assert stands_at(trainer, told.checkpoints[0]) == (6, 6)


def test_epochs_that_are_long_are_told_one_by_one(tmp_path: Path) -> None:
    told, trainer = follow(tmp_path, seconds_per_look=3.0)
    assert told.epochs == [[1], [2], [3], [4], [5], [6]]
    assert [stands_at(trainer, checkpoint) for checkpoint in told.checkpoints] == [(n, n) for n in range(1, 7)]


def test_a_checkpoint_that_was_asked_for_inside_an_epoch_does_not_wait(tmp_path: Path) -> None:
    told, trainer = follow(tmp_path, seconds_per_look=0.0, checkpoint_steps=4)
    assert told.epochs[:3] == [[], [1], [2]], "with the epochs before it"
    assert stands_at(trainer, told.checkpoints[1]) == (1, 1)


@pytest.mark.parametrize("stale", [True, False])
def test_each_worker_reports_what_it_wrote(tmp_path: Path, stale: bool) -> None:
    """Of a bank of vectors its share; of anything else the first worker alone."""
    task, bank = small_log(), {"name": "memory_bank", "size": 50, "stale": stale}
    trainer = Trainer(recipe(negatives=[bank]), task.seen, task, Workers(), torch.device("cpu"))
    progress = next(trainer.run())
    files = []
    for trainer.workers.rank, trainer.workers.size in ((0, 2), (1, 2)):
        told = Told(tmp_path / f"{trainer.workers.rank}")
        _workers.Reports(trainer, "dataset", [], told).add_checkpoint(progress)
        (checkpoint,) = told.checkpoints
        files.append({file.name for file in checkpoint.iterdir()} if checkpoint else set())
    shares = [{f"negatives.0.{rank}of2.safetensors"} if stale else set() for rank in (0, 1)]
    assert files[1] == shares[1]
    assert files[0] > shares[0] | {"position.json", "model.safetensors", "negatives.0.safetensors"}


def test_an_epoch_tells_of_the_worker_with_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, history = small_log(), []
    trainer = Trainer(recipe(training={"epochs": 1}), task.seen, task, Workers(), torch.device("cpu"))
    (progress,) = [each for each in trainer.run() if each.metrics]
    reports = _workers.Reports(trainer, "dataset", history, Told(tmp_path))
    reports.add_epoch(progress, {})
    trainer.received_per_step = 3 * 2**20
    other = {"waited": 0.0, "system": {}, "worker": {_workers.MEMORY: 1e6, _workers.RECEIVED: 1.0}}
    monkeypatch.setattr(trainer.workers, "gather_objects", lambda own: [own, other])
    reports.add_epoch(progress, {})
    alone, together = ([entry["metrics"][name] for name in (_workers.MEMORY, _workers.RECEIVED)] for entry in history)
    assert 0.05 < alone[0] < 1e3, "Python and torch, in GiB"
    assert alone[1] == 0
    assert together == [1e6, 3]


def test_what_waits_is_told_where_the_loss_diverges(tmp_path: Path) -> None:
    told, trainer = follow(tmp_path, seconds_per_look=0.0, fails_in_epoch=4)
    assert told.epochs == [[1, 2, 3, 4]]
    assert stands_at(trainer, told.checkpoints[0]) == (4, 4), "the last good one"
    told, _ = follow(tmp_path / "at once", seconds_per_look=0.0, fails_in_epoch=0)
    assert (told.epochs, told.checkpoints) == ([[]], [None])
