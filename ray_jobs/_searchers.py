"""From a recipe's section `search` to Ray Tune: who chooses the points, who ends trials early, how many at once."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
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
from ray_jobs import _found, _program, _tracking, _trials, _workers

TURN_SECONDS = 30.0  # at most, that a trial without a place lets others start before it


def trainable(plan: _trials.Plan) -> Any:
    """A trial's own process holds no CPU, or its workers would lack it; Tune wants it to hold something."""
    return tune.with_resources(functools.partial(run, plan=plan), {"memory": 2**20})


def run(config: dict[str, Any], plan: _trials.Plan) -> None:
    """What Tune runs: a trial. One without a place yet lets those start that have got theirs: its own processes, which would
    only wait, take the time of the cores that the others start on, while a place stands empty.
    """
    scale, folder, own = plan.base().scale, Path(plan.folder), tune.get_context().get_trial_id()
    until = time.monotonic() + TURN_SECONDS
    while time.monotonic() < until and not _has_place(scale) and _others_start(folder, own):
        time.sleep(0.5)
    _trials.run(config, plan)


def _has_place(scale: Scale) -> bool:
    what, each = ("GPU", 1) if scale.use_gpu else ("CPU", scale.cpus_per_worker)
    return ray.available_resources().get(what, 0.0) >= each * scale.num_workers


def _others_start(folder: Path, own: str) -> bool:
    """Whether another trial, one that goes on, has not trained a step."""
    others = (run for run in _found.runs(folder) if run.name != own and not _found.ended(run) and not _found.has_left(run))
    return any(not (run / _workers.PROGRESS).exists() for run in others)


def tuner(recipe: Recipe, plan: _trials.Plan, stopper: tune.Stopper, watch: tune.Callback, name: str) -> tune.Tuner:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = recipe.search
    if search.searcher == "grid":
        algorithm, samples, given = None, 1, {_trials.ANSWERS: tune.grid_search(list(grid(search)))}
    else:
        algorithm, samples, given = _optuna(search, recipe.seed, Path(plan.folder)), search.most_trials or -1, {}
    return tune.Tuner(
        trainable(plan),
        param_space=given,
        tune_config=tune.TuneConfig(
            search_alg=algorithm,
            scheduler=_asha(recipe, Path(plan.folder)) if search.scheduler == "asha" else None,
            num_samples=samples,
            max_concurrent_trials=slots(recipe.scale) + 1,  # the one more starts while the others train, and waits for a place
            reuse_actors=True,  # a trial that begins where one has ended needs no new process, which would import torch anew
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
    return _program.require_slots(scale, scale.num_workers, scale.use_gpu) // scale.num_workers


def grid(search: Search) -> Iterator[space.Answers]:
    """All of it, or the first `trials`."""
    return itertools.islice(space.grid(search.space), search.most_trials)


class Optuna(OptunaSearch):
    """Tells Optuna that a trial without a score has failed: of two metrics, [None, None] would be taken for scores. So has one
    that failed after a validation: Tune, which sees it end, hands over what it reported last.
    """

    folder: Path

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        failed = _found.ended(self.folder / _trials.TRIALS / trial_id) == "failed"
        scored = not failed and _trials.SCORE in (result or {})
        super().on_trial_complete(trial_id, result if scored else None, error=error or not scored)


def _optuna(search: Search, seed: int, folder: Path) -> Optuna:
    """random, tpe or pareto: each asks for one point after another."""
    metrics: Any = [_trials.SCORE, _trials.AGAINST] if search.searcher == "pareto" else _trials.SCORE
    mode: Any = ["max", "max"] if search.searcher == "pareto" else "max"
    ask = functools.partial(_ask_optuna, search.space)
    how: Any = {"sampler": optuna.samplers.RandomSampler(seed)} if search.searcher == "random" else {"seed": seed}
    algorithm = Optuna(ask, metric=metrics, mode=mode, **how)
    algorithm.folder = folder
    return algorithm


def _ask_optuna(tree: dict[str, Any], trial: Any) -> None:
    def ask(question: Question) -> float | int:
        if not question.is_ordered:
            return trial.suggest_categorical(question.name, range(int(question.low), int(question.high) + 1))
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
    scheduler.folder, scheduler.base = folder, recipe
    return scheduler


class Asha(ASHAScheduler):
    """Asks a trial to end instead of having it killed: Train's controller, which holds the places of workers, would be killed
    with it, and where Ray's cleaner cannot see that, they are lost to the search.
    """

    folder: Path
    base: Recipe
    _is_filled = False

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A search that is resumed has its rungs from the trials' folders: Tune keeps none."""
        super().on_trial_add(tune_controller, trial)
        if not self._is_filled:
            self._is_filled = True
            bracket = self._trial_info[trial.trial_id]
            for run in _found.runs(self.folder):
                history = _tracking.read_history(run)
                for epoch in self.base.search.rungs(history[-1]["step"] + 1 if history else 0):
                    if found := _trials.standing(history, self.base, epoch):
                        bracket.on_result(SimpleNamespace(trial_id=run.name), epoch, found[_trials.SCORE])

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        stopped = self.folder / _trials.TRIALS / trial.trial_id / _tracking.STOPPED
        if stopped.exists() or storage.is_finished(stopped.parent):
            return TrialScheduler.CONTINUE
        if super().on_trial_result(tune_controller, trial, result) == TrialScheduler.STOP:
            _trials.ask_to_end(stopped.parent, "asha", int(result[_trials.EPOCH]))
        return TrialScheduler.CONTINUE
