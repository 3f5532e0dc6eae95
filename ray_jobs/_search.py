"""A search: Ray Tune over trials; its folder, its MLflow run, and what came of it."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import yaml
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from components import config, space, storage
from components.config import Recipe
from components.errors import InputError
from components.search import Search
from components.space import Question
from ray_jobs import _found, _program, _results, _tracking, _trials

TRIALS, BEST = "trials.json", "best.yaml"
MOST_POINTS = 10_000  # of a random search that time alone ends
FEWEST_FAILED = 3  # before failures end a search


def check(recipe: Recipe) -> None:
    """Tries the corners of the space, before any trial starts.

    Raises:
        InputError: there is no space, a key names nothing, or a part refuses a value.
    """
    search = recipe.search
    if not search.space:
        raise InputError("search.space: got nothing, takes dotted keys and their distributions")
    for point in space.corners(search.space):
        try:
            _trials.recipe_of(recipe, point)
        except InputError as error:
            if str(error).startswith("search."):
                raise
            raise InputError(f"search.space: has {point}, which is refused: {error}") from error
    if search.searcher == "grid":
        next(space.grid(search.space))
    metrics = logged(recipe)
    for name, value in (("metric", search.metric or recipe.training.metric), ("against", search.against)):
        if value not in metrics and (name == "metric" or search.searcher == "pareto"):
            raise InputError(f"search.{name}: got {value!r}, takes one of {', '.join(metrics)}")
    if search.scheduler == "asha" and search.grace_epochs >= recipe.training.epochs:
        raise InputError(f"search.grace_epochs: got {search.grace_epochs}, takes less than training.epochs")


def logged(recipe: Recipe) -> list[str]:
    """What validation logs."""
    k = recipe.training.metric.partition("@")[2]
    return sorted({recipe.training.metric, f"recall@{k}", f"ndcg@{k}", f"shifted_recall@{k}"})


def run(recipe: Recipe, dataset: Path) -> Path:
    """Searches, and returns the search's folder."""
    check(recipe)
    _program.require_server(_tracking.uri(recipe))
    _program.require_slots(recipe.scale, recipe.scale.num_workers, recipe.scale.use_gpu)
    folder = _create(recipe)
    with storage.lock(folder):
        tracked = _tracking.create(recipe, folder, dataset, {"kind": "search"})
        plan = _trials.Plan(recipe.to_json(), str(dataset), str(folder))
        with _tracking.closing(tracked, folder):
            _tune(_tuner(recipe, plan), recipe, folder)
            _conclude(recipe, folder, tracked)
    return folder


def resume(recipe: Recipe, folder: Path) -> None:
    """Continues an interrupted search: finished trials stay, unfinished ones go on from their checkpoints."""
    began = Recipe.from_json((folder / "recipe.json").read_text(encoding="utf-8"))
    if differ := list(_differences(began, recipe)):
        raise InputError(f"--resume: {folder} was started from another recipe: {'; '.join(differ)}")
    dataset = storage.read_json(folder / _tracking.LINKS)["dataset"]
    plan = _trials.Plan(began.to_json(), dataset, str(folder))
    with storage.lock(folder):
        tracked = _tracking.attach(folder)
        with _tracking.closing(tracked, folder):
            tracked.reopen()
            tuner = tune.Tuner.restore(str(folder / "tune"), trainable=_trainable(plan), resume_unfinished=True)
            _tune(tuner, began, folder)
            _conclude(began, folder, tracked)


def result_of(folder: Path) -> _results.Tuned:
    """What a search that is over came to."""
    searched = Recipe.from_json((folder / "recipe.json").read_text(encoding="utf-8"))
    trials = _found.trials(folder)
    best = _found.best(trials)
    assert best.score is not None, "the best trial has a score"
    return _results.Tuned(
        folder=str(folder),
        file=str(folder / BEST),
        recipe=config.load(folder / BEST).to_json(),
        trial=best.name,
        ended=dict(collections.Counter(trial.ended or "interrupted" for trial in trials)),
        metric=searched.search.metric or searched.training.metric,
        best_value=best.score,
        mlflow_run_id=_tracking.attach(folder).run_id,
        mlflow_url=_tracking.url(folder),
    )


def _differences(began: Recipe, now: Recipe) -> Iterator[str]:
    before, after = (dict(_tracking.flat(recipe.model_dump(mode="json", exclude={"scale"}))) for recipe in (began, now))
    for key in sorted({*before, *after}):
        if before.get(key) != after.get(key):
            yield f"{key} was {before.get(key, 'absent')}, is {after.get(key, 'absent')}"


def _create(recipe: Recipe) -> Path:
    name = f"{recipe.name}-{recipe.fingerprint()}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    folder = Path(recipe.scale.storage_path) / "searches" / name
    folder.mkdir(parents=True)
    storage.write_text(folder / "recipe.json", recipe.to_json())
    return folder


def _trainable(plan: _trials.Plan) -> Any:
    """A trial's own process holds no CPU, or its workers would lack it; Tune wants it to hold something."""
    return tune.with_resources(functools.partial(_trials.run, plan=plan), {"memory": 2**20})


def _tuner(recipe: Recipe, plan: _trials.Plan) -> tune.Tuner:
    search = recipe.search
    algorithm, samples, given = None, 1, {}
    if search.searcher in ("grid", "random"):
        given = {_trials.ANSWERS: tune.grid_search(list(_points(search, recipe.seed)))}
    else:
        metrics: Any = _trials.SCORE if search.searcher == "tpe" else [_trials.SCORE, _trials.AGAINST]
        mode: Any = "max" if search.searcher == "tpe" else ["max", "max"]
        algorithm = OptunaSearch(functools.partial(_ask_optuna, search.space), metric=metrics, mode=mode, seed=recipe.seed)
        samples = search.trials or -1
    scheduler = None
    if search.scheduler == "asha":
        scheduler = ASHAScheduler(
            time_attr=_trials.EPOCH,
            metric=_trials.SCORE,
            mode="max",
            max_t=recipe.training.epochs,
            grace_period=search.grace_epochs,
            reduction_factor=search.reduction_factor,
        )
    return tune.Tuner(
        _trainable(plan),
        param_space=given,
        tune_config=tune.TuneConfig(
            search_alg=algorithm,
            scheduler=scheduler,
            num_samples=samples,
            max_concurrent_trials=slots(recipe) + 1,  # the one more starts while the others train, and waits for a place
            time_budget_s=None if search.hours is None else search.hours * 3600,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=plan.folder,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=recipe.scale.max_failures),
            stop=_Stopper(Path(plan.folder)),
            callbacks=[_Watch(Path(plan.folder), search.scheduler)],
        ),
    )


def slots(recipe: Recipe) -> int:
    """Trials that the cluster has room for at once."""
    total, scale = ray.cluster_resources(), recipe.scale
    cpus = total.get("CPU", 0) // (scale.num_workers * scale.cpus_per_worker)
    gpus = total.get("GPU", 0) // scale.num_workers if scale.use_gpu else cpus
    return max(1, int(min(cpus, gpus)))


def _points(search: Search, seed: int) -> Iterator[space.Answers]:
    most = search.trials or (MOST_POINTS if search.hours else 20)
    if search.searcher == "grid":
        for number, answers in enumerate(space.grid(search.space)):
            if search.trials is None or number < search.trials:
                yield answers
        return
    numbers = random.Random(seed)
    for _ in range(most):
        answers: space.Answers = {}
        space.draw(search.space, functools.partial(_ask_at_random, numbers, answers))
        yield answers


def _ask_at_random(numbers: random.Random, answers: space.Answers, question: Question) -> float | int:
    if question.is_whole:
        answers[question.name] = numbers.randint(int(question.low), int(question.high))
    else:
        answers[question.name] = question.at(numbers.random())
    return answers[question.name]


def _ask_optuna(tree: dict[str, Any], trial: Any) -> None:
    def ask(question: Question) -> float | int:
        if question.is_whole:
            return trial.suggest_int(question.name, int(question.low), int(question.high))
        return trial.suggest_float(question.name, question.low, question.high, log=question.is_log)

    space.draw(tree, ask)


class _Stopper(tune.Stopper):
    """Ends a search of which over half the trials that ended have failed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        ended = [how for run in _found.runs(self._folder) if (how := _found.ended(run))]
        failed = ended.count("failed")
        return failed >= FEWEST_FAILED and 2 * failed > len(ended)


class _Watch(tune.Callback):
    """Marks trials that the scheduler stopped, so that their MLflow runs end as such."""

    def __init__(self, folder: Path, scheduler: str) -> None:
        self._folder, self._scheduler = folder, scheduler

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        run = self._folder / "trials" / trial.trial_id
        if run.exists() and not storage.is_finished(run) and not (run / _trials.FAILED).exists():
            told = {"by": self._scheduler, "epoch": trial.last_result.get(_trials.EPOCH)}
            storage.write_json(run / _tracking.STOPPED, told)


def _tune(tuner: tune.Tuner, recipe: Recipe, folder: Path) -> None:
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a failed trial has no metric
    tuner.fit()


def _conclude(recipe: Recipe, folder: Path, tracked: _tracking.TrackedRun) -> None:
    """The best recipe, a table and pictures, beside the trials and in MLflow."""
    trials = _found.trials(folder)
    best = _found.best(trials)
    chosen = Recipe.from_json((folder / "trials" / best.name / "recipe.json").read_text(encoding="utf-8"))
    tree = chosen.model_dump(mode="json", exclude={"search"})
    storage.write_text(folder / BEST, yaml.safe_dump(tree, sort_keys=False))
    storage.write_json(folder / TRIALS, [dataclasses.asdict(trial) for trial in trials])
    pictures = _found.draw(trials, recipe, folder / "plots")
    with _tracking.saying(tracked, folder / TRIALS):
        for path in (folder / BEST, folder / TRIALS):
            tracked.artifact(path)
        for path in pictures:
            tracked.artifact(path, "plots")
        history = sorted((trial for trial in trials if trial.score is not None), key=lambda trial: trial.hours)
        so_far = itertools.accumulate((trial.score or 0.0 for trial in history), max)
        tracked.log([{"time": time.time(), "step": n, "metrics": {"best_score": value}} for n, value in enumerate(so_far, 1)])
