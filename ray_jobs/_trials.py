"""A trial: a Ray Train run inside Ray Tune, with a folder and an MLflow run of its own. It tells Tune how good it is so far.

What goes wrong in a trial's training ends that trial, and is kept in its folder: Tune sees it end without a result. What Tune
itself sees fail is tried again, from the last checkpoint: a process or node is gone, MLflow away, or a trial could not begin.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import time
import traceback
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray import tune
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train import WorkerGroupError
from ray.tune.integration.ray_train import TuneReportCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from components import space, storage
from components.config import Recipe, parse
from components.errors import DivergedError, InputError, TrackingError, WorkerError
from components.evaluation import protocols
from components.split_rules import ShiftedSplit
from components.training_rules import VALIDATION
from ray_jobs import _credentials, _tracking, _training, _workers

TRIALS, POINT, FAILED, TRACEBACK = "trials", "point.json", "failed.json", "traceback.txt"
OVER = "over.json"  # of a search that asks its trials to end
LEFT = "left.json"  # of a trial that has ended, where it was asked; or that Tune has forgotten
ANSWERS = "answers"
NO_MEMORY = "running low on memory"  # what Ray says of a process that its memory monitor killed
LOST = r"(Actor|Node|Owner|Raylet)Died|RayActorError|ActorUnavailable|ObjectLost|WorkerCrashed"  # Ray's errors of what is gone
SCORE, AGAINST, EPOCH = "score", "against", "epoch"


@dataclass(frozen=True)
class Plan:
    """What all trials of a search share; picklable."""

    recipe: str
    dataset: str
    folder: str
    keeper: str  # the actor that keeps MLflow's credentials, if there are any: Tune writes this plan to the storage path

    def base(self) -> Recipe:
        return Recipe.from_json(self.recipe)


@ray.remote(num_cpus=0)
class Keeper:
    """In a search's job: hands trials the credentials that its driver has, out of memory."""

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values

    def read(self) -> dict[str, str]:
        return self._values


@contextlib.contextmanager
def keeping_credentials() -> Iterator[str]:
    """The name of the actor that keeps them; empty where there are none."""
    values = _credentials.here()
    name = f"credentials-{uuid.uuid4().hex}" if values else ""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # not lost with another node
    keeper = Keeper.options(name=name, scheduling_strategy=here).remote(values) if values else None
    yield name
    del keeper  # it ends with its last handle


def recipe_of(base: Recipe, point: Mapping[str, Any]) -> Recipe:
    """The recipe of a point, without the search.

    Raises:
        InputError: a part refuses a value; names the point.
    """
    tree = space.apply(base.model_dump(exclude={"search"}), point)
    with blaming(point):
        return parse(tree)


@contextlib.contextmanager
def blaming(point: Mapping[str, Any]) -> Iterator[None]:
    """What is refused in it is a mistake of the space that has this point."""
    try:
        yield
    except InputError as error:
        raise InputError(f"search.space: has {json.dumps(point)}, which is refused: {error}") from error


def run(config: dict[str, Any], plan: Plan) -> None:
    """Trains the point that these answers give, or takes up where this trial was interrupted."""
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a process for each trial: a drained node is a lost one
    if plan.keeper:
        os.environ |= ray.get(ray.get_actor(plan.keeper).read.remote())
    base = plan.base()
    folder = Path(plan.folder) / TRIALS / tune.get_context().get_trial_id()
    if (folder / FAILED).exists():
        return
    while (Path(plan.folder) / OVER).exists() and not (folder / POINT).exists():
        time.sleep(1)  # until it is killed: were it to end, Tune would begin another
    if not storage.is_finished(folder) and not (folder / _tracking.STOPPED).exists():
        try:
            _train(base, point_of(base, config), folder, plan)
        except (RayActorError, TrackingError):  # Train's controller is gone, or MLflow away for long: Tune tries again
            raise
        except Exception as error:
            keep_failure(folder, kind_of(error), error)
            return
    if (folder / _tracking.STOPPED).exists():
        storage.write_json(folder / LEFT, {})
    if found := standing(_tracking.read_history(folder), base):
        tune.report(found)  # again, for the last one may not have arrived


def point_of(base: Recipe, config: Mapping[str, Any]) -> dict[str, Any]:
    """What Tune's configuration of a trial asks for: a list of points is one choice to Tune, Optuna's answers are flat."""
    return space.again(base.search.space, config.get(ANSWERS, config))


def _train(base: Recipe, point: Mapping[str, Any], folder: Path, plan: Plan) -> None:
    dataset = Path(plan.dataset)
    folder.mkdir(parents=True, exist_ok=True)
    storage.write_json(folder / POINT, point)
    recipe = recipe_of(base, point)
    if (folder / _tracking.LINKS).exists():
        tracked = _tracking.attach(folder)
    else:
        storage.write_text(folder / "recipe.json", recipe.to_json())
        tags = {
            "mlflow.parentRunId": _tracking.attach(Path(plan.folder)).run_id,
            "kind": "trial",
            "mlflow.source.name": "ray_jobs.tune",
        }
        tracked = _tracking.create(recipe, folder, dataset, tags, space.leaves(point))
    with _tracking.closing(tracked, folder):
        with _tracking.saying(tracked, folder / _tracking.HISTORY):
            tracked.reopen()
        _workers.fit(recipe, dataset, folder, tracked, [Teller(plan, folder)], tries=-1, also_on=also_on(base))
        if _has_all_epochs(folder):
            (folder / _tracking.STOPPED).unlink(missing_ok=True)  # it came too late
        if (folder / _tracking.STOPPED).exists():
            _tracking.tell_stopped(tracked, folder)
        else:
            _training.finish(recipe, dataset, folder, tracked)
        if found := standing(_tracking.read_history(folder), base):
            with _tracking.saying(tracked, folder / _tracking.HISTORY):
                tracked.metrics({f"best_{base.training.logged(metric_of(base))}": found[SCORE]}, step=int(found[EPOCH]))


def _has_all_epochs(folder: Path) -> bool:
    path = folder / _workers.PROGRESS
    return path.exists() and storage.read_json(path)["finished"]


class Teller(TuneReportCallback):
    """Train's callback that tells Tune where the trial stands, from all epochs that the run's folder has.

    A report may have many epochs: of those, ASHA hears of each at which it compares trials, or it would compare unlike ones.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        super().__init__()
        self._base, self._folder, self._told = plan.base(), folder, 0

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: ray.train.Checkpoint | None) -> None:
        history = _tracking.read_history(self._folder)
        last = history[-1]["step"] if history else 0
        rungs = [epoch for epoch in self._base.search.rungs(self._base.training.epochs) if self._told < epoch < last]
        for epoch in [*rungs, last]:
            found = standing(history, self._base, epoch)
            if found and epoch < self._base.training.epochs:  # of a whole training, Tune hears once its model is kept
                super().after_report(run_context, [found], None)
        self._told = last


def standing(history: list[dict[str, Any]], base: Recipe, until: float = math.inf) -> dict[str, float]:
    """Of the epoch that training would choose so far, or after epoch `until`: what is searched for. {} before a validation."""
    logged = base.training.logged
    chosen_by = logged(base.training.metric)
    history = [entry for entry in history if entry["step"] <= until]
    validated = [entry for entry in history if chosen_by in entry["metrics"]]
    if not validated:
        return {}
    best = max(validated, key=lambda entry: entry["metrics"][chosen_by])["metrics"]
    split, metric = against_of(base)
    against = best[protocols.logged(split, base.training.protocol, metric)]
    return {SCORE: best[logged(metric_of(base))], AGAINST: against, EPOCH: history[-1]["step"]}


def metric_of(base: Recipe) -> str:
    return base.search.metric or base.training.metric


def against_of(base: Recipe) -> tuple[str, str]:
    """(split, metric) of what is held against the search's metric. By default recall_snips on the split that is searched on;
    under a Pareto search for shifted tests recall on `valid`, whose popularity is train's.

    Raises:
        InputError: no validation measures that.
    """
    chosen, given, k = base.training.select_on, base.search.against, base.training.metric.partition("@")[2]
    if given is None:
        is_shifted = base.search.searcher == "pareto" and isinstance(base.data.split, ShiftedSplit)
        return ("valid", f"recall@{k}") if is_shifted else (chosen, f"recall_snips@{k}")
    metrics = measured(base)
    for metric in sorted(metrics, key=len, reverse=True):  # of two that end alike the whole one
        split = chosen if given == metric else given.removesuffix(f"_{metric}")
        if split != given and re.fullmatch(VALIDATION, split):
            return split, metric
    takes = f"takes one of {', '.join(metrics)}, or of another validation as valid_NAME_recall@{k}"
    raise InputError(f"search.against: got {given!r}, {takes}")


def also_on(base: Recipe) -> str:
    """The split that is measured beside the one that is searched on; empty where there is none."""
    split, _ = against_of(base)
    return "" if split == base.training.select_on else split


def measured(base: Recipe) -> list[str]:
    """What a validation measures."""
    k = base.training.metric.partition("@")[2]
    return sorted({base.training.metric, f"recall@{k}", f"ndcg@{k}", f"recall_snips@{k}"})


def ask_to_end(folder: Path, by: str, epoch: int | None = None) -> None:
    """Its workers look for this at the end of each epoch."""
    history = _tracking.read_history(folder)
    last = history[-1]["step"] if history else 0
    storage.write_json(folder / _tracking.STOPPED, {"by": by, "epoch": last if epoch is None else epoch})


def keep_failure(folder: Path, kind: str, error: BaseException | str) -> None:
    """Why a trial failed, in its folder and in its MLflow run."""
    text = error if isinstance(error, str) else "".join(traceback.format_exception(error))
    said = (error.text if isinstance(error, WorkerError) else str(error)).strip().splitlines() or [type(error).__name__]
    why = said[-1] if isinstance(error, WorkerError | str) else said[0]
    folder.mkdir(parents=True, exist_ok=True)
    storage.write_text(folder / TRACEBACK, text)
    storage.write_json(folder / FAILED, {"kind": kind, "reason": why[:2000]})
    if (folder / _tracking.LINKS).exists():
        tracked = _tracking.attach(folder)
        with _tracking.saying(tracked, folder / FAILED):
            tracked.tag("failure", kind)
            tracked.artifact(folder / FAILED)
            tracked.artifact(folder / TRACEBACK)


def kind_of(error: BaseException | None) -> str:
    """diverged, out of memory, input, lost workers, or error: told by the chain of causes."""
    while error is not None:
        if isinstance(error, WorkerError):
            return error.kind
        if isinstance(error, DivergedError):
            return "diverged"
        if isinstance(error, InputError):
            return "input"
        if isinstance(error, MemoryError | OutOfMemoryError) or NO_MEMORY in str(error):
            return "out of memory"
        if isinstance(error, WorkerGroupError):  # more often than scale.max_failures
            lost = [getattr(own, "health_check_failure", own) for own in error.worker_failures.values()]
            return "out of memory" if any(kind_of(own) == "out of memory" for own in lost) else "lost workers"
        error = error.__cause__ or error.__context__
    return "error"


def kind_of_text(text: str) -> str:
    """The same of what Tune kept of an error; tracking where MLflow was away."""
    if NO_MEMORY in text:
        return "out of memory"
    if TrackingError.__name__ in text:
        return "tracking"
    return "lost workers" if text == "lost" or re.search(LOST, text) else "error"
