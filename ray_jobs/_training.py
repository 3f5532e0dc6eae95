"""The driver of a training: MLflow's run around Train's, the live display, and the manifest that says it is finished."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from components import plan, storage
from components.config import Recipe, parse
from components.data import manifest, remote
from components.errors import InputError
from components.reports import plots
from ray_jobs import _checkpoints, _program, _remote, _results, _runs, _tracking, _workers


def dataset_of(recipe: Recipe) -> Path:
    """The folder of the recipe's prepared dataset, brought from `scale.datasets` where the storage path lacks it.

    Raises:
        InputError: it is not prepared; names the command that does.
    """
    dataset = _remote.bring(recipe, manifest.dataset_path(recipe))
    if not storage.is_finished(dataset):
        at = remote.place_of(recipe.scale, dataset) or dataset
        raise InputError(f"dataset {at}: not prepared; run python -m ray_jobs.prepare with this recipe first")
    return dataset


def refit(recipe: Recipe, chosen: Path, seed: int | None = None) -> tuple[Recipe, Path]:
    """What fits on train and valid for the number of epochs that a finished run chose on valid, on its dataset, from its seed
    or another.

    Raises:
        InputError: the run is not finished, of another recipe, chose otherwise, cuts its learning rate by validation, or its
            dataset is gone.
    """
    refuse_plateau(recipe)
    about = storage.open_finished(chosen, "run")
    tried = Recipe.from_json((chosen / "recipe.json").read_text(encoding="utf-8"))
    if _apart_from_training(tried) != _apart_from_training(recipe):
        raise InputError(f"--refit: {chosen} is of another recipe, takes a run that differs in seed and training alone")
    if not tried.training.is_validated:
        raise InputError(
            f"--refit: {chosen} chose its epoch on {tried.training.select_on}, takes a run that chose on valid or a valid_NAME"
        )
    dataset = _same_dataset(recipe, chosen, "--refit")
    training = {"fit_on": "train+valid", "select_on": "none", "epochs": about["best_epoch"] + 1}
    tree = recipe.model_dump()
    seed = tried.seed if seed is None else seed
    return parse({**tree, "seed": seed, "training": {**tree["training"], **training}}), dataset


def refuse_plateau(recipe: Recipe) -> None:
    """Raises InputError where a refit, which has nothing to validate on, would not know when to cut the learning rate."""
    if recipe.optimizer.plateau is not None:
        raise InputError("--refit: got a recipe with optimizer.plateau, takes one whose learning rate no validation changes")


def extend(recipe: Recipe, ended: Path) -> tuple[Recipe, Path]:
    """What goes on where a finished run ended, with its seed, on its dataset, up to the recipe's number of epochs.

    The weights are those of a run that had as many from the start: a training does not know how many are to come.

    Raises:
        InputError: the run is not finished, of another recipe, as long already, out of patience, its end was looked at out of
            turn, or its dataset is gone.
    """
    about = storage.open_finished(ended, "run")
    began = Recipe.from_json((ended / "recipe.json").read_text(encoding="utf-8"))
    tree: dict[str, Any] = {**recipe.model_dump(), "seed": began.seed}
    epochs, training = began.training.epochs, tree["training"]
    if parse({**tree, "training": {**training, "epochs": epochs}}).fingerprint() != began.fingerprint():
        raise InputError(f"--extend: {ended} is of another recipe, takes a run that differs in seed and training.epochs alone")
    if epochs >= recipe.training.epochs:
        raise InputError(f"training.epochs: got {recipe.training.epochs}, takes more than the {epochs} of the run to extend")
    every = began.training.validate_every
    if began.training.select_on != "none" and epochs % every:
        raise InputError(
            f"--extend: {ended} ended at epoch {epochs}, takes one that ended at a multiple of validate_every, {every}"
        )
    stood = _checkpoints.last_position(ended)
    if about["epochs"] < epochs or stood["validations_since_best"] >= training["patience"]:
        raise InputError(f"--extend: {ended} ended for want of patience, takes a run that ended at its last epoch")
    return parse(tree), _same_dataset(recipe, ended, "--extend")


def _same_dataset(recipe: Recipe, run: Path, option: str) -> Path:
    """The folder of the dataset that a finished run was trained on."""
    trained_on = storage.open_finished(run, "run")["dataset"]
    dataset = _remote.linked(recipe, run)
    fingerprint = storage.open_finished(dataset, "dataset")["fingerprint"]
    if fingerprint != trained_on:
        raise InputError(f"{option}: {run} was trained on dataset {trained_on}, {dataset} is {fingerprint} now")
    return dataset


def _apart_from_training(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(exclude={"name", "seed", "training", "tracking", "scale", "evaluation", "search"})


def train(recipe: Recipe, dataset: Path, extended: Path | None = None, tags: Mapping[str, str] | None = None) -> Path:
    """Trains a new run, from where another ended if it is to extend that, and returns its folder. `tags` are MLflow's. A named
    attempt (ray_jobs._runs) that has begun goes on; one that is finished is what it is.
    """
    if (folder := _runs.begun(recipe)) is not None:
        resume(recipe, folder, _runs.ATTEMPT)
        return folder
    _program.require_server(_tracking.uri(recipe))
    _program.require_slots(recipe.scale, recipe.scale.num_workers, recipe.scale.use_gpu)
    _check_fit_on(recipe, dataset)
    log, _ = _workers.open_data(recipe, dataset)  # finds mistakes, and fills this node's cache, before any worker starts
    needs = plan.needs_of(recipe, log)
    plan.check_fits(recipe, needs)
    folder = _runs.create(recipe)
    with storage.lock(folder):
        try:
            if extended is not None:
                _checkpoints.copy_last(extended, folder)
            extends = {"extends": _tracking.attach(extended).run_id} if extended is not None else {}
            tracked = _tracking.create(recipe, folder, dataset, {**extends, **(tags or {})})
        except InputError:
            shutil.rmtree(folder)  # nothing has begun
            raise
        _fit(recipe, dataset, folder, tracked, needs)
    return folder


def _check_fit_on(recipe: Recipe, dataset: Path) -> None:
    """Raises InputError where one of the splits to fit on has no row: the other alone would be told as both."""
    rows = storage.read_json(dataset / storage.MANIFEST)["rows"]
    if empty := [split for split in recipe.training.fit_on.split("+") if not rows[split]]:
        got = f"{recipe.training.fit_on}, and {dataset} has no row in {empty[0]}"
        raise InputError(f"training.fit_on: got {got}, takes splits that have rows")


def result_of(folder: Path) -> _results.TrainedRun:
    """What a finished run came to."""
    about = storage.open_finished(folder, "run")
    return _results.TrainedRun(
        folder=str(folder),
        seed=storage.read_json(folder / "recipe.json")["seed"],
        mlflow_run_id=about["mlflow_run_id"],
        mlflow_url=_tracking.url(folder),
        metric=about["metric"],
        best_value=about["best_value"],
        best_epoch=about["best_epoch"] + 1,
    )


def resume(recipe: Recipe, folder: Path, asked_by: str = "--resume") -> None:
    """Continues a run that was interrupted, in its folder and its MLflow run; of a finished one MLflow gets what it lacks.

    Raises:
        InputError: it was never started, or from another recipe.
    """
    _runs.require_begun(folder, "run", asked_by)
    began = Recipe.from_json((folder / "recipe.json").read_text(encoding="utf-8"))
    if began.model_copy(update={"seed": recipe.seed}).fingerprint() != recipe.fingerprint():
        raise InputError(f"{asked_by}: {folder} was started from another recipe than this, takes the one in its recipe.json")
    if storage.is_finished(folder):
        _tracking.end(_tracking.attach_by(recipe, folder), folder, "FINISHED")
        print(f"{folder}: finished already; its metrics were sent to MLflow again")
        return
    dataset = _remote.linked(recipe, folder)
    with storage.lock(folder):
        _program.require_slots(began.scale, began.scale.num_workers, began.scale.use_gpu)
        needs = plan.needs_of(began, _workers.open_data(began, dataset)[0])
        _fit(began, dataset, folder, _tracking.attach_by(recipe, folder), needs)


def _fit(recipe: Recipe, dataset: Path, folder: Path, tracked: _tracking.TrackedRun, needs: plan.Needs) -> None:
    started = time.time()
    print(f"training {folder.name} on {recipe.scale.num_workers} workers, MLflow run {tracked.run_id}", flush=True)
    with _tracking.closing(tracked, folder):
        with _tracking.saying(tracked, folder / _tracking.HISTORY):
            tracked.reopen()  # of a run that is resumed
        with _Display(recipe) as display, _workers.Watching(folder, display.show, display.say):
            _workers.fit(recipe, dataset, folder, tracked)
        about = finish(recipe, dataset, folder, tracked)
    best = ""
    if about["best_value"] is not None:
        best = f", best {about['metric']} on {recipe.training.chosen_on} {about['best_value']:.4f}"
    epochs = f"trained {about['epochs']} epochs in {time.time() - started:.0f} s"
    print(f"{epochs}{best} (epoch {about['best_epoch'] + 1}): {folder}", flush=True)
    print(f"{folder.name}: " + _beside(needs, _tracking.read_history(folder)[-1]["metrics"]), flush=True)


def _beside(needs: plan.Needs, measured: Mapping[str, float]) -> str:
    """Prediction and measurement, in one line: of a GPU's memory where there was one."""
    memory, received = (measured.get(name, math.nan) for name in (_workers.MEMORY, _workers.RECEIVED))  # nan of an old run
    if (on_gpu := measured.get(_workers.GPU_MEMORY)) is not None:
        told = f"of a worker {needs.computed_on / 2**20:,.1f} MiB of GPU memory predicted, {on_gpu * 2**10:,.1f} measured"
    else:
        told = (
            f"of a worker {needs.total / 2**20:,.1f} MiB of memory predicted, {memory * 2**10:,.1f} measured with Python's own"
        )
    if needs.received:
        told += f"; received in a step {needs.received / 2**20:,.3f} MiB predicted, {received:,.3f} measured"
    return told


def finish(recipe: Recipe, dataset: Path, folder: Path, tracked: _tracking.TrackedRun) -> dict[str, Any]:
    """Draws the curves and writes the manifest: from now on the run is finished. Returns what it says."""
    _checkpoints.sweep(folder)
    history = _tracking.read_history(folder)
    state = storage.read_json(folder / _workers.PROGRESS)
    plots.learning_curves([{"epoch": entry["step"], **entry["metrics"]} for entry in history], folder / "learning_curves.png")
    about = {
        "kind": "run",
        "name": recipe.name,
        "recipe": recipe.fingerprint(),
        "dataset": storage.read_json(dataset / storage.MANIFEST)["fingerprint"],
        "select_on": recipe.training.select_on,
        "metric": recipe.training.metric,
        "best_epoch": state["best_epoch"],
        "best_value": state["best"],
        "epochs": state["epoch"] + 1,
        "mlflow_run_id": tracked.run_id,
        "commit": _tracking.commit(),
        "finished": time.time(),
    }
    with _tracking.saying(tracked, folder / "learning_curves.png"):
        tracked.artifact(folder / "learning_curves.png", "plots")
    storage.finish(folder, about, only=["recipe.json", _tracking.HISTORY, "model/model.safetensors"])
    return about


class _Display:
    """A live line on a terminal; elsewhere a line whenever the end of an epoch passes a tenth of them."""

    def __init__(self, recipe: Recipe) -> None:
        self._metric = recipe.training.metric
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
        self._console = Console(stderr=True)
        live = self._console.is_terminal
        self._progress = Progress(*columns, TextColumn("{task.fields[news]}"), console=self._console, disable=not live)
        self._task = self._progress.add_task("starting workers", total=recipe.training.epochs, news="")
        self._told: int | None = None

    def __enter__(self) -> _Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, state: dict[str, Any]) -> None:
        done = state["epoch"] + state["step"] / state["steps"]
        best = f"best {self._metric} {state['best']:.4f}" if state["best"] is not None else ""
        loss = f"loss {state['loss']:.4f}  " if state["loss"] is not None else ""
        self._progress.update(self._task, description="training", completed=round(done, 1), news=loss + best)
        tenth = 10 * state["done"] // state["epochs"]
        if not self._console.is_terminal and loss and tenth != self._told:
            self._told = tenth
            print(f"epoch {state['done']} of {state['epochs']}  {loss}{best}", flush=True)

    def say(self, notice: str) -> None:
        self._console.print(notice, style="yellow", soft_wrap=True, highlight=False, markup=False)
