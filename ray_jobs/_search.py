"""A search: Ray Tune over trials; its folder, its MLflow run, and how it goes on after an interruption."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray import tune

from components import config, plan, space, storage
from components.config import Recipe
from components.data import interactions
from components.errors import FailedError, InputError
from components.search import Trial
from components.split_rules import ShiftedSplit, selectable
from ray_jobs import _found, _program, _remote, _results, _runs, _search_report, _searchers, _tracking, _trials, _workers

APART = {"data", "name", "search", "scale", "seed", "tracking", "evaluation"}  # what all trials share
JUDGES = {
    f"training.{name}" for name in ("select_on", "fit_on", "mask_seen", "metric", "epochs")
}  # trials are compared by them
TUNE = "tune"  # Tune's own state, in a search's folder
FEWEST_FAILED = 3  # before a search ends for failures
LOOK_SECONDS = 2.0  # between looks at how trials ended
GRACE_SECONDS = 120.0  # for trials that are asked to end
SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own tables and advice: we say how each trial ended
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the program as a kill does: --resume knows one way
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial has no metric
    "TUNE_GLOBAL_CHECKPOINT_S": "5",  # seconds between notes of where the search stands
}


def check(recipe: Recipe) -> None:
    """Tries the corners of the space, or all of a grid, before any trial starts: each takes a step on a small log.

    Raises:
        InputError: there is no space, a key names nothing that trials may differ in, or a part refuses a value.
    """
    search = recipe.search
    if not search.space:
        raise InputError("search.space: got nothing, takes dotted keys and their distributions")
    for key in search.space:
        if judges := sorted(judge for judge in JUDGES if judge == key or judge.startswith(f"{key}.")):
            has = f", which has {', '.join(judges)}" if judges != [key] else ""
            raise InputError(f"search.space.{key}{has}: is the same for all trials, for they are compared by it")
        if inside := [other for other in search.space if other.startswith(f"{key}.")]:
            raise InputError(f"search.space.{inside[0]}: lies within {key}, which is searched too; takes one of them")
        if key.partition(".")[0] in APART:
            takes = sorted({*Recipe.model_fields} - APART)
            raise InputError(f"search.space.{key}: is the same for all trials, takes keys of {', '.join(takes)}")
    tried = corners(recipe)
    _check_selection(recipe)
    metrics = _trials.measured(recipe)
    if search.metric is not None and search.metric not in metrics:
        raise InputError(f"search.metric: got {search.metric!r}, takes one of {', '.join(metrics)}")
    _check_against(recipe)
    if search.scheduler == "asha" and search.grace_epochs >= recipe.training.epochs:
        raise InputError(
            f"search.grace_epochs: got {search.grace_epochs}, takes less than training.epochs, {recipe.training.epochs}"
        )
    for point, corner in tried:
        with _trials.blaming(point):
            _try_parts(corner)


def corners(recipe: Recipe) -> list[tuple[dict[str, Any], Recipe]]:
    """Points of the space that have all that it has, of a grid every one, and their recipes.

    Raises:
        InputError: a part refuses a value; names the point.
    """
    search = recipe.search
    points = space.corners(search.space)
    if search.searcher == "grid":
        points = [space.again(search.space, answers) for answers in _searchers.grid(search)]
    return [(point, _trials.recipe_of(recipe, point)) for point in points]


def _try_parts(recipe: Recipe) -> None:
    """Raises an InputError where parts do not go together. Lack of memory fails a trial, not the search."""
    try:
        plan.try_parts(recipe)
    except (MemoryError, RuntimeError) as error:
        if not _workers.is_no_memory(error):
            raise


def _check_selection(recipe: Recipe) -> None:
    """A search is chosen on a validation of the law of the tests that it is for."""
    chosen = recipe.training.select_on
    if not recipe.training.is_validated:
        raise InputError(f"training.select_on: got {chosen!r}, takes valid or a valid_NAME in a search: no test is searched on")
    if isinstance(recipe.data.split, ShiftedSplit) and chosen != "valid_shifted":
        raise InputError(
            f"training.select_on: got {chosen!r}, takes valid_shifted in a search under data.split shifted: in its tests "
            f"popularity is shifted, as in valid_shifted, and in {chosen} it is not"
        )


def _check_against(recipe: Recipe) -> None:
    split, metric = _trials.against_of(recipe)
    given, takes = recipe.search.against, [name for name in selectable(recipe.data.split) or [split] if name != "test"]
    if split not in takes:
        raise InputError(f"search.against: got {given!r}, takes a metric on {' or '.join(takes)} under this data.split")
    if recipe.search.searcher == "pareto" and (split, metric) == (recipe.training.select_on, _trials.metric_of(recipe)):
        raise InputError(f"search.against: got {given or metric!r}, takes another metric than search.metric in a pareto search")


def _check_data(recipe: Recipe, dataset: Path) -> None:
    """Holds the space against the prepared log, which this node's cache has then: of each trial that would be refused alone.

    Raises:
        InputError: the log lacks a split or what a source of negatives is to draw; names the point.
    """
    train = interactions.load(dataset, *recipe.training.fit_on.split("+"))
    _workers.task_of(recipe, train, dataset, recipe.training.select_on, "training.select_on")
    if also_on := _trials.also_on(recipe):
        _workers.task_of(recipe, train, dataset, also_on, "search.against")
    for point, corner in corners(recipe):
        with _trials.blaming(point):
            _workers.check_negatives(corner, train, dataset)


def run(recipe: Recipe, dataset: Path) -> Path:
    """Searches, and returns the search's folder. A named attempt (ray_jobs._runs) that has begun goes on; one that is finished
    is what it is.

    Raises:
        FailedError: over half of its trials failed, or none was validated once.
    """
    check(recipe)
    if (folder := _runs.begun(recipe, "searches")) is not None:
        resume(recipe, folder, _runs.ATTEMPT)
        return folder
    _program.require_server(_tracking.uri(recipe))
    _program.require_slots(recipe.scale, recipe.scale.num_workers, recipe.scale.use_gpu)
    _check_data(recipe, dataset)
    folder = _runs.create(recipe, "searches")
    with storage.lock(folder):
        try:
            tracked = _tracking.create(recipe, folder, dataset, {"kind": "search", "mlflow.source.name": "ray_jobs.tune"})
        except InputError:
            shutil.rmtree(folder)  # nothing has begun
            raise
        _search(recipe, dataset, folder, tracked)
    return folder


def resume(recipe: Recipe, folder: Path, asked_by: str = "--resume") -> None:
    """Continues an interrupted search: trials that ended stay, the others go on from their checkpoints, with the workers that
    the recipe has now: the cluster may be another.

    Raises:
        InputError: it was started from another recipe; names the differences.
    """
    _runs.require_begun(folder, "search", asked_by)
    began = Recipe.from_json((folder / "recipe.json").read_text(encoding="utf-8"))
    if differ := list(_differences(began, recipe)):
        raise InputError(f"{asked_by}: {folder} was started from another recipe: {'; '.join(differ)}")
    if storage.is_finished(folder):
        print(f"{folder}: finished already")
        return
    dataset = _remote.linked(recipe, folder)
    scale = recipe.scale.model_copy(update={"storage_path": began.scale.storage_path})
    _program.require_server(_tracking.uri(began))
    _program.require_slots(scale, scale.num_workers, scale.use_gpu)
    with storage.lock(folder):
        _search(began.model_copy(update={"scale": scale}), dataset, folder, _tracking.attach_by(recipe, folder))


def _search(recipe: Recipe, dataset: Path, folder: Path, tracked: _tracking.TrackedRun) -> None:
    path = str(folder / TUNE)
    is_resumed = tune.Tuner.can_restore(path)  # Tune keeps its number
    at_once = "as many trials at once as when it began" if is_resumed else f"{_searchers.slots(recipe.scale)} trials at once"
    print(f"searching in {folder}, {at_once}, MLflow run {tracked.run_id}", flush=True)
    with _tracking.closing(tracked, folder), _trials.keeping_credentials() as keeper:
        with _tracking.saying(tracked, folder / _tracking.HISTORY):
            tracked.reopen()  # of a search that is resumed
        (folder / _trials.OVER).unlink(missing_ok=True)
        os.environ |= SETTINGS
        shared = _trials.Plan(recipe.to_json(), str(dataset), str(folder), keeper)
        if is_resumed:
            tuner = tune.Tuner.restore(path, trainable=_searchers.trainable(shared), resume_unfinished=True)
        else:
            tuner = _searchers.tuner(recipe, shared, Stopper(folder, recipe.search.hours), Watch(folder, recipe), TUNE)
        try:
            tuner.fit()
        except (KeyboardInterrupt, SystemExit):
            ray.shutdown()  # a trial that lived on could begin its MLflow run when all are closed
            raise
        finally:
            _found.close(folder)
        _found.sweep(folder)
        trials = _found.trials(folder)
        _search_report.write(trials, recipe, folder, tracked)
        counted = [trial.ended for trial in trials if trial.ended]  # less those that began anew by another name
        if 2 * counted.count("failed") > len(counted):
            raise FailedError(f"search: ended, for over half of its trials failed: {_found.failures(folder)}")
        best = _found.best(trials)
        about = {
            "kind": "search",
            "name": recipe.name,
            "recipe": recipe.fingerprint(),
            "best": best.name,
            "finished": time.time(),
        }
        storage.finish(folder, about, only=["recipe.json", _search_report.TRIALS, _search_report.BEST])


def result_of(folder: Path) -> _results.Tuned:
    """What a search that is over came to."""
    searched = Recipe.from_json((folder / "recipe.json").read_text(encoding="utf-8"))
    trials = _found.trials(folder)
    best = _found.best(trials)
    assert best.score is not None, "the best trial has a score"
    return _results.Tuned(
        folder=str(folder),
        file=str(folder / _search_report.BEST),
        recipe=config.load(folder / _search_report.BEST).to_json(),
        trial=best.name,
        ended=dict(Counter(trial.ended or "interrupted" for trial in trials)),
        metric=_trials.metric_of(searched),
        best_value=best.score,
        mlflow_run_id=_tracking.attach(folder).run_id,
        mlflow_url=_tracking.url(folder),
    )


def _differences(began: Recipe, now: Recipe) -> Iterator[str]:
    before, after = (dict(_tracking.flat(recipe.model_dump(mode="json", exclude={"scale"}))) for recipe in (began, now))
    for key in sorted({*before, *after}):
        if before.get(key) != after.get(key):
            yield f"{key} was {before.get(key, 'absent')}, is {after.get(key, 'absent')}"


def too_many_failed(ended: list[str]) -> bool:
    """Over half of the trials that have begun, one under way being no failure, and not merely the first."""
    failed = ended.count("failed")
    return failed >= FEWEST_FAILED and 2 * failed > len(ended)


class Stopper(tune.Stopper):
    """Ends a search of which over half the trials have failed, or whose hours are over: asks its trials to end.

    Tune would kill them, and with them the controllers that hold the places of their workers. So it hears of the end when they
    have ended, each after its epoch, or after GRACE_SECONDS.
    """

    def __init__(self, folder: Path, hours: float | None, used: float = 0.0) -> None:
        self._folder, self._hours, self._used = folder, hours, used  # seconds, before an interruption
        self._began: float | None = None
        self._looked, self._over = -math.inf, math.inf

    def __reduce__(self) -> Any:
        return Stopper, (self._folder, self._hours, self._seconds())

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        now = time.monotonic()
        self._began = self._began or now
        if now - self._looked < LOOK_SECONDS:  # Tune asks at its every step
            return False
        self._looked = now
        runs = _found.runs(self._folder)
        going_or_ended = [run for run in runs if _found.ended(run) or not _found.has_left(run)]  # less those begun anew
        if math.isinf(self._over) and (by := self._over_by([_found.ended(run) for run in going_or_ended])):
            self._over = now
            storage.write_json(self._folder / _trials.OVER, {"by": by})
        if math.isinf(self._over):
            return False
        for run in runs:
            if not _found.ended(run) and not _found.has_left(run):
                _trials.ask_to_end(run, storage.read_json(self._folder / _trials.OVER)["by"])
        return now - self._over > GRACE_SECONDS or all(_found.has_left(run) for run in runs)

    def _over_by(self, ended: list[str]) -> str:
        if too_many_failed(ended):
            return "the search's failures"
        is_late = self._hours is not None and self._seconds() > self._hours * 3600
        return "the end of the search's hours" if is_late else ""

    def _seconds(self) -> float:
        return self._used + (time.monotonic() - self._began if self._began else 0.0)


class Watch(tune.Callback):
    """In the driver: looks which trials of a search that is resumed are known to Tune, and says how each trial ended."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self._folder, self._recipe = folder, recipe
        self._told: dict[str, Trial] | None = None  # not known where a search is resumed
        self._is_looked_at = False

    def __reduce__(self) -> Any:
        return Watch, (self._folder, self._recipe)

    def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Where Tune cannot read its own state it logs that, and would begin the search anew, with all trials. One that began
        after its last note nobody goes on with, and nobody is to wait for.
        """
        if not self._is_looked_at:
            self._is_looked_at = True
            begun, known = _found.runs(self._folder), {trial.trial_id for trial in trials}
            left = [run for run in begun if run.name not in known]
            if begun and len(left) == len(begun):
                raise FailedError(f"search: {self._folder / TUNE} cannot be read any more, and {len(begun)} trials have begun")
            for run in left:
                storage.write_json(run / _trials.LEFT, {})

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        run = self._folder / _trials.TRIALS / trial.trial_id
        self._say(run)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """More often than scale.max_failures its process or node was lost, MLflow away, or what comes before its training
        failed, as where a node lacks a package or the storage: then it left no trace in its folder.
        """
        run = self._folder / _trials.TRIALS / trial.trial_id
        if _found.ended(run):
            return
        if not (run / _trials.POINT).exists():
            run.mkdir(parents=True, exist_ok=True)
            storage.write_json(run / _trials.POINT, _trials.point_of(self._recipe, trial.config))
        error = Path(trial.error_file).read_text() if trial.error_file else "lost"
        _trials.keep_failure(run, _trials.kind_of_text(error), error)
        self._say(run)

    def _say(self, run: Path) -> None:
        if not (run / _trials.POINT).exists():  # it never began
            return
        if self._told is None:
            self._told = {trial.name: trial for trial in _found.trials(self._folder) if trial.ended}
        self._told[run.name] = _found.trial(run, self._recipe)
        _search_report.say(list(self._told.values()), run.name, self._recipe)
