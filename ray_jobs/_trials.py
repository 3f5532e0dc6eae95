"""A trial: a Ray Train run inside Ray Tune, with a folder and an MLflow run of its own. It tells Tune how good it is so far.

What goes wrong in a trial ends that trial, and is kept in its folder: Tune sees it end without a result. What Tune itself sees
fail is a trial whose process or node is gone; only that is tried again, from its last checkpoint: one budget, one kind.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from components import space, storage
from components.config import Recipe, parse
from components.errors import DivergedError, InputError
from ray_jobs import _tracking, _training, _workers

POINT, FAILED = "point.json", "failed.json"
ANSWERS = "answers"
SCORE, AGAINST, EPOCH = "score", "against", "epoch"


@dataclass(frozen=True)
class Plan:
    """What all trials of a search share; picklable."""

    recipe: str
    dataset: str
    folder: str

    def base(self) -> Recipe:
        return Recipe.from_json(self.recipe)


def recipe_of(base: Recipe, point: Mapping[str, Any]) -> Recipe:
    """The recipe of a point, without the search.

    Raises:
        InputError: a part refuses a value.
    """
    tree = space.apply(base.model_dump(exclude={"search"}), point)
    return parse(tree)


def run(config: dict[str, Any], plan: Plan) -> None:
    """What Tune runs: trains the point that these answers give, or takes up where this trial was interrupted."""
    base, answers = plan.base(), config.get(ANSWERS, config)  # a list of points is one choice to Tune; Optuna's are flat
    folder = Path(plan.folder) / "trials" / tune.get_context().get_trial_id()
    point = space.again(base.search.space, answers)
    recipe = recipe_of(base, point)
    if (folder / FAILED).exists():
        return
    if not storage.is_finished(folder):
        try:
            _train(recipe, point, folder, plan)
        except Exception as error:
            _keep(error, folder)
            return
    history = _tracking.read_history(folder)
    tune.report(standing(history, base))  # again, for the last one may not have arrived


def _train(recipe: Recipe, point: Mapping[str, Any], folder: Path, plan: Plan) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with storage.lock(folder):
        if (folder / _tracking.LINKS).exists():
            tracked = _tracking.attach(folder)
        else:
            storage.write_text(folder / "recipe.json", recipe.to_json())
            storage.write_json(folder / POINT, point)
            parent = _tracking.attach(Path(plan.folder))
            tags = {"mlflow.parentRunId": parent.run_id, "trial": folder.name}
            tracked = _tracking.create(recipe, folder, Path(plan.dataset), tags, space.leaves(point))
        with _tracking.closing(tracked, folder):
            with _tracking.saying(tracked, folder / _tracking.HISTORY):
                tracked.reopen()
            _workers.fit(recipe, Path(plan.dataset), folder, tracked, [Teller(plan, folder)], tries=-1)
            _training.finish(recipe, Path(plan.dataset), folder, tracked)


class Teller(TuneReportCallback):
    """Train's callback that tells Tune where the trial stands, from all epochs that the run's folder has."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        super().__init__()
        self._plan, self._folder = plan, folder

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: ray.train.Checkpoint | None) -> None:
        found = standing(_tracking.read_history(self._folder), self._plan.base())
        if found:
            super().after_report(run_context, [found], None)


def standing(history: list[dict[str, Any]], base: Recipe) -> dict[str, float]:
    """Of the epoch that training would choose so far: what is searched for. {} before the first validation."""
    split, chosen_by = base.training.select_on, f"{base.training.select_on}_{base.training.metric}"
    validated = [entry for entry in history if chosen_by in entry["metrics"]]
    if not validated:
        return {}
    best = max(validated, key=lambda entry: entry["metrics"][chosen_by])["metrics"]
    metric = base.search.metric or base.training.metric
    return {SCORE: best[f"{split}_{metric}"], AGAINST: best[f"{split}_{base.search.against}"], EPOCH: history[-1]["step"]}


def _keep(error: Exception, folder: Path) -> None:
    """Why a trial failed, in its folder and in its MLflow run, which has ended by now."""
    text = "".join(traceback.format_exception(error))
    storage.write_json(folder / FAILED, {"kind": kind_of(error), "reason": str(error)[:2000], "traceback": text})
    if (folder / _tracking.LINKS).exists():
        tracked = _tracking.attach(folder)
        with _tracking.saying(tracked, folder / FAILED):
            tracked.artifact(folder / FAILED)
            _tracking.client(tracked.tracking_uri).set_tag(tracked.run_id, "failure", kind_of(error))


def kind_of(error: BaseException) -> str:
    """diverged, out of memory, input or error: told by the whole chain of causes."""
    for each in _chain(error):
        if isinstance(each, DivergedError):
            return "diverged"
        if "OutOfMemory" in type(each).__name__ or isinstance(each, MemoryError):
            return "out of memory"
        if isinstance(each, InputError):
            return "input"
    return "error"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        yield from getattr(error, "worker_failures", {}).values()
        error = error.__cause__ or error.__context__
