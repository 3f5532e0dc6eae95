"""From a recipe's section `search` to Ray Tune: who chooses the points, who ends trials early, how many at once."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from components import space, storage
from components.config import Recipe, Scale
from components.search import Search
from components.space import Question
from ray_jobs import _tracking, _trials

MOST_POINTS = 10_000  # of a random search that time alone ends


def trainable(plan: _trials.Plan) -> Any:
    """A trial's own process holds no CPU, or its workers would lack it; Tune wants it to hold something."""
    return tune.with_resources(functools.partial(_trials.run, plan=plan), {"memory": 2**20})


def tuner(recipe: Recipe, plan: _trials.Plan, stopper: tune.Stopper, watch: tune.Callback, name: str) -> tune.Tuner:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = recipe.search
    algorithm, samples, given = None, 1, {}
    if search.searcher in ("grid", "random"):
        given = {_trials.ANSWERS: tune.grid_search(list(points(search, recipe.seed)))}
    else:
        metrics: Any = _trials.SCORE if search.searcher == "tpe" else [_trials.SCORE, _trials.AGAINST]
        mode: Any = "max" if search.searcher == "tpe" else ["max", "max"]
        algorithm = OptunaSearch(functools.partial(_ask_optuna, search.space), metric=metrics, mode=mode, seed=recipe.seed)
        samples = search.most_trials or -1
    return tune.Tuner(
        trainable(plan),
        param_space=given,
        tune_config=tune.TuneConfig(
            search_alg=algorithm,
            scheduler=_asha(recipe, Path(plan.folder)) if search.scheduler == "asha" else None,
            num_samples=samples,
            max_concurrent_trials=slots(recipe.scale) + 1,  # the one more starts while the others train, and waits for a place
            time_budget_s=None if search.hours is None else search.hours * 3600,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=plan.folder,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=recipe.scale.max_failures),
            stop=stopper,
            callbacks=[watch],
        ),
    )


def slots(scale: Scale) -> int:
    """Trials that the cluster has room for at once."""
    total = ray.cluster_resources()
    cpus = total.get("CPU", 0) // (scale.num_workers * scale.cpus_per_worker)
    gpus = total.get("GPU", 0) // scale.num_workers if scale.use_gpu else cpus
    return max(1, int(min(cpus, gpus)))


def points(search: Search, seed: int) -> Iterator[space.Answers]:
    """All of a grid, or as many at random as are asked for."""
    most = search.most_trials or MOST_POINTS
    if search.searcher == "grid":
        for number, answers in enumerate(space.grid(search.space)):
            if number < most:
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


def _asha(recipe: Recipe, folder: Path) -> Asha:
    scheduler = Asha(
        time_attr=_trials.EPOCH,
        metric=_trials.SCORE,
        mode="max",
        max_t=recipe.training.epochs,
        grace_period=recipe.search.grace_epochs,
        reduction_factor=recipe.search.reduction_factor,
        stop_last_trials=False,  # one that reaches its last epoch ends by itself, and keeps its model
    )
    scheduler.folder = folder
    return scheduler


class Asha(ASHAScheduler):
    """Asks a trial to end instead of having it killed: Train's controller, which holds the places of workers, would be killed
    with it, and where Ray's cleaner cannot see that, they are lost to the search.
    """

    folder: Path

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        stopped = self.folder / _trials.TRIALS / trial.trial_id / _tracking.STOPPED
        if not stopped.exists() and super().on_trial_result(tune_controller, trial, result) == TrialScheduler.STOP:
            storage.write_json(stopped, {"by": "asha", "epoch": result[_trials.EPOCH]})
        return TrialScheduler.CONTINUE
