"""Ray Train around the training loop: what each worker runs, what the controller hears, what the driver waits for."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import UserCallback

from components import storage
from components.config import Recipe
from components.data import interactions
from components.errors import InputError
from components.evaluation.evaluate import Task
from components.training.checkpoint import MODEL, save_model
from components.training.collectives import Workers
from components.training.loop import DivergedError, Progress, Trainer
from ray_jobs._system import SystemSampler
from ray_jobs._tracking import HISTORY, TrackedRun

PROGRESS = "progress.json"
PROGRESS_SECONDS = 0.5
RETRY_TRACKING_SECONDS = 30


def open_data(recipe: Recipe, dataset: Path) -> tuple[interactions.Interactions, Task | None]:
    """The rows to fit on, and those to choose on with what is masked there: all that was known before them."""
    train = interactions.load(dataset, *recipe.training.fit_on.split("+"))
    if recipe.training.select_on == "none":
        return train, None
    seen = interactions.load(dataset, *{"valid": ["train"], "test": ["train", "valid"]}[recipe.training.select_on])
    validation = Task(interactions.load(dataset, recipe.training.select_on), seen)
    if len(validation.truth) == 0:
        raise InputError(
            f"training.select_on: got {recipe.training.select_on}, which has no rows in this dataset; takes none, or a "
            "data.split that holds some out"
        )
    return train, validation


def train_worker(config: dict[str, str]) -> dict[str, Any]:
    """One of Train's workers. Returns {} or {"error": a mistake that no retry mends}."""
    try:
        _train(Recipe.from_json(config["recipe"]), Path(config["dataset"]), Path(config["run"]))
    except (InputError, DivergedError) as error:  # on every worker alike: raised, Ray would try it again
        return {"error": f"{type(error).__name__}: {error}", "input": isinstance(error, InputError)}
    return {}


def _train(recipe: Recipe, dataset: Path, run: Path) -> None:
    torch.set_num_threads(recipe.scale.cpus_per_worker)
    context = ray.train.get_context()
    fingerprint = storage.read_json(dataset / storage.MANIFEST)["fingerprint"]
    trainer = Trainer(recipe, *open_data(recipe, dataset), Workers(), ray.train.torch.get_device())
    last = ray.train.get_checkpoint()
    if last is not None:
        with last.as_directory() as folder:
            trainer.restore(Path(folder), fingerprint)
    sampler = SystemSampler(context.get_node_rank()) if context.get_local_rank() == 0 else None
    board = _Board(run) if context.get_world_rank() == 0 else None
    history: list[dict[str, Any]] = []
    for progress in trainer.run():
        if progress.metrics is not None:
            system = sampler.read() if sampler else {}
            history.append({"time": time.time(), "step": progress.epoch + 1, "metrics": {**progress.metrics, **system}})
        if board is not None:
            board.show(progress, recipe.training.epochs, trainer)
            if progress.improved:
                save_model(run / "model" / MODEL, trainer.encoder)
        if progress.checkpoint_due:
            _report(trainer, history, fingerprint, is_first=board is not None)
            history = []
    if history:
        ray.train.report({"history": history})


def _report(trainer: Trainer, history: list[dict[str, Any]], fingerprint: str, is_first: bool) -> None:
    if not is_first:
        ray.train.report({"history": history})
        return
    with tempfile.TemporaryDirectory() as folder:
        trainer.save(Path(folder), fingerprint)
        ray.train.report({"history": history}, checkpoint=ray.train.Checkpoint.from_directory(folder))


class _Board:
    """Where training stands, in a small file of the run's folder that the driver (or a person) reads."""

    def __init__(self, run: Path) -> None:
        (run / "model").mkdir(exist_ok=True)
        self._path = run / PROGRESS
        self._shown = 0.0
        self._first_step: float | None = None
        self._loss: float | None = None

    def show(self, progress: Progress, epochs: int, trainer: Trainer) -> None:
        now = time.time()
        self._first_step = self._first_step or now
        if progress.metrics is not None:
            self._loss = progress.metrics["loss"]
        if progress.metrics is None and now - self._shown < PROGRESS_SECONDS:
            return
        self._shown = now
        state = {
            "epoch": progress.epoch,
            "epochs": epochs,
            "step": progress.step,
            "steps": progress.steps,
            "best": trainer.position.best_value,
            "best_epoch": trainer.position.best_epoch,
            "loss": self._loss,  # of the last whole epoch
            "first_step": self._first_step,
            "finished": progress.finished,
        }
        storage.write_json(self._path, state)


class Reporter(UserCallback):
    """In the controller: keeps every epoch in metrics.jsonl, and sends it to MLflow. A server that is away costs nothing."""

    def __init__(self, tracked: TrackedRun, run: Path) -> None:
        self._tracked, self._path = tracked, run / HISTORY
        self._unsent: list[dict[str, Any]] = []
        self._next_try = 0.0

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        entries = [_merge(alike) for alike in zip(*(worker["history"] for worker in metrics), strict=True)]
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in entries)
        self._unsent += entries
        if time.monotonic() < self._next_try:
            return
        try:
            self._tracked.log(self._unsent)
            self._unsent = []
        except Exception as error:
            self._next_try = time.monotonic() + RETRY_TRACKING_SECONDS
            print(
                f"MLflow at {self._tracked.tracking_uri} does not answer ({type(error).__name__}): training goes on, "
                f"metrics are kept in {self._path} and sent when it is back"
            )


def _merge(entries: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """One epoch as all workers saw it: the same training metrics, and the system's metrics of each node."""
    merged: dict[str, float] = {}
    for entry in reversed(entries):
        merged.update(entry["metrics"])
    return {**entries[0], "metrics": merged}


def fit(recipe: Recipe, dataset: Path, run: Path, tracked: TrackedRun) -> None:
    """Trains under Ray Train, in the run's folder; continues from its last checkpoint where it has one.

    Raises:
        InputError, DivergedError: no retry would help.
        Exception: Ray's, when workers failed more often than scale.max_failures.
    """
    scale = recipe.scale
    resources = {"CPU": float(scale.cpus_per_worker)} | ({"GPU": 1.0} if scale.use_gpu else {})
    trainer = ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={"recipe": recipe.to_json(), "dataset": str(dataset), "run": str(run)},
        scaling_config=ray.train.ScalingConfig(
            num_workers=scale.num_workers, use_gpu=scale.use_gpu, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name=run.name,
            storage_path=str(run.parent),
            failure_config=ray.train.FailureConfig(max_failures=scale.max_failures, controller_failure_limit=3),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            callbacks=[Reporter(tracked, run)],
        ),
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if scale.use_gpu else "gloo"),
    )
    outcome = trainer.fit().return_value or {}
    if "error" in outcome:
        raise (InputError if outcome["input"] else DivergedError)(outcome["error"].partition(": ")[2])


def sweep_unregistered(run: Path) -> None:
    """Deletes checkpoints that a killed worker left behind: those that Ray Train did not register."""
    registered = json.dumps(storage.read_json(run / "checkpoint_manager_snapshot.json"))
    for folder in run.glob("checkpoint_*"):
        if folder.is_dir() and folder.name not in registered:
            shutil.rmtree(folder)


class Watching(threading.Thread):
    """Reads progress.json while the driver waits, and calls `show` whenever it changed."""

    def __init__(self, run: Path, show: Any) -> None:
        super().__init__(daemon=True)
        self._path, self._show, self._ended = run / PROGRESS, show, threading.Event()

    def __enter__(self) -> Watching:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        shown = None
        while not self._ended.wait(PROGRESS_SECONDS / 2):
            if self._path.exists() and (state := storage.read_json(self._path)) != shown:
                self._show(state)
                shown = state
