"""The driver of an evaluation: model and baselines ranked alike, files beside the run, numbers in its MLflow run."""

from __future__ import annotations

import functools
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from components import storage
from components.config import Recipe
from components.data import interactions
from components.errors import InputError
from components.evaluation import lengths, ranking, samples, splits
from components.evaluation.baselines import Ease, MostPopular
from components.evaluation.evaluate import Task
from components.evaluation.protocols import PROTOCOLS, Protocol, logged
from components.evaluation.scorers import Scorer
from components.reports import plots, tables
from components.training import checkpoint
from ray_jobs import _program, _ranking, _results, _tracking


def evaluate(recipe: Recipe, run: Path, dataset: Path, split: str) -> _results.Evaluated:
    """Evaluates a finished run on a split into `run`/evaluation/`split`, and prints the comparison.

    Where held-out rows came after what is seen, every scorer has lists by both protocols in use: seen items masked, and not
    masked.

    Raises:
        InputError: run and dataset do not belong together, there is no such split, the run was fitted on it, K exceeds the
            catalogue, another evaluation of it is under way, or it is tracked elsewhere than by the recipe's MLflow.
    """
    trained, task = checkpoint.open_run(run, dataset), splits.task_of(dataset, split)
    _tracking.attach_by(recipe, run)
    if split in trained.recipe.training.fit_on.split("+"):
        fitted = trained.recipe.training.fit_on
        raise InputError(f"--split: got {split}, takes a split that {run.name} was not fitted on ({fitted})")
    ks = sorted(set(recipe.evaluation.ks))
    ranking.check_k(max(ks), task.truth.num_items, "evaluation.ks")
    folder = run / "evaluation" / split
    with storage.lock(folder):
        _rank(recipe, trained, task, split, ks, folder)
    metrics = storage.read_json(folder / "metrics.json")["metrics"]
    return _results.Evaluated(run=str(run), split=split, metrics=metrics, mlflow_url=_tracking.url(run))


def _rank(recipe: Recipe, trained: checkpoint.TrainedRun, task: Task, split: str, ks: list[int], folder: Path) -> None:
    run, dataset = trained.folder, trained.dataset
    loads = {_results.MODEL: functools.partial(_model, run, dataset, split)}
    fitted = interactions.load(dataset, *trained.recipe.training.fit_on.split("+"))
    weights = folder / ".ease.npy"
    if "most_popular" in recipe.evaluation.baselines:
        loads["most popular"] = functools.partial(_most_popular, trained.recipe, dataset, split)
    if "ease" in recipe.evaluation.baselines:
        Ease.fit(fitted, recipe.evaluation.ease_l2).save(weights)
        loads["ease"] = functools.partial(_ease, trained.recipe, dataset, split, weights)
    protocols: tuple[Protocol, ...] = ("masked", "not_masked") if splits.is_ordered(dataset) else ("masked",)
    degrees_I = interactions.load(dataset, "train").item_degrees()
    started = time.perf_counter()
    files: list[dict[Protocol, Path]] = [
        {protocol: folder / _results.per_user(scorer, protocol) for protocol in protocols} for scorer in loads
    ]
    try:
        with _program.cluster():
            found = _ranking.evaluate(list(loads.values()), task.num_tiles, ks, degrees_I, recipe.scale, files)
    finally:
        weights.unlink(missing_ok=True)
    seconds = time.perf_counter() - started
    how = " and ".join(PROTOCOLS[protocol] for protocol in protocols)
    print(f"{len(task.users):,} users ranked by {', '.join(loads)} ({how}) in {seconds:.1f} s", file=sys.stderr, flush=True)
    names = [f"{name}@{k}" for name in ("hit", "ndcg") for k in ks]
    by_length = {
        _results.named(scorer, protocol): lengths.by_history_length(file, task.history.positive_counts(), names)
        for scorer, own in zip(loads, files, strict=True)
        for protocol, file in own.items()
    }
    _write(folder, trained, split, task, dict(zip(loads, found, strict=True)), by_length)


def _write(
    folder: Path,
    trained: checkpoint.TrainedRun,
    split: str,
    task: Task,
    found: dict[str, _ranking.Ranked],
    by_length: dict[str, list[dict[str, Any]]],
) -> None:
    own = found[_results.MODEL]
    ks, name, protocols = own.summaries["masked"].ks, trained.manifest["name"], list(own.summaries)
    lists = {_results.named(scorer, protocol): PROTOCOLS[protocol] for scorer in found for protocol in protocols}
    summaries = {_results.named(s, protocol): found[s].summaries[protocol] for s in found for protocol in protocols}
    results = {named: summary.metrics() for named, summary in summaries.items()}
    groups = {named: {str(k): summary.group_recall(k) for k in ks} for named, summary in summaries.items()}
    fitted, counts = trained.recipe.training.fitted, task.counts()
    cost = {
        "parameters": sum(weight.numel() for weight in trained.encoder.parameters()),
        "training": _tracking.cost(trained.folder, trained.manifest),
        "microseconds_per_user": {scorer: ranked.microseconds_per_user for scorer, ranked in found.items()},
    }
    about = {"split": split, **counts, "run": trained.folder.name, "dataset": trained.manifest["dataset"]}
    about |= {"fitted": fitted, "protocol": lists}
    storage.write_json(folder / "metrics.json", {**about, "cost": cost, "metrics": results})
    storage.write_json(folder / "groups.json", {**about, "recall_contributions": groups, "history_lengths": by_length})
    plots.popularity_groups(
        {named: values[str(ks[-1])] for named, values in groups.items()},
        folder / "popularity_groups.png",
        f"{name}: where the hits on {split} come from",
        f"recall@{ks[-1]}",
    )
    rng = np.random.default_rng([trained.recipe.seed, ks[-1]])
    scores = samples.sample_scores(trained.scorer(task.history), task, rng)
    if all(map(len, scores)):
        plots.score_histograms(*scores, folder / "scores.png", f"{name}: scores of {split} positives and unseen items")
    tracked = _tracking.attach(trained.folder)
    with _tracking.saying(tracked, folder / "metrics.json"):
        values = {}
        for protocol in protocols:
            of = results[_results.named(_results.MODEL, protocol)]
            values |= {logged(split, protocol, metric): value for metric, value in of.items()}
        tracked.metrics(values, step=trained.manifest["epochs"] + 1)  # after every step that training logged
        files = [folder / _results.per_user(_results.MODEL, protocol) for protocol in protocols]
        for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*.png")) + files:
            tracked.artifact(path, f"evaluation/{split}")
    title = f"{name} on {split}, {counts['users']:,} users"
    for protocol in protocols:
        rows = {scorer: results[_results.named(scorer, protocol)] for scorer in found}
        Console().print(tables.comparison(rows, ks, f"{title}, {PROTOCOLS[protocol]} ({fitted})"))
    _say(counts, cost)
    print(folder)


def _say(counts: dict[str, int], cost: dict[str, Any]) -> None:
    """What the tables leave out: cost, and users and items for whom a protocol matters."""
    epochs, each, total = tables.cost(cost["training"])
    took = cost["microseconds_per_user"][_results.MODEL]
    print(f"{cost['parameters']:,} parameters, trained in {total} ({epochs} epochs of {each} s); ", end="")
    print(f"a user's lists took {took['encode']:,.0f} µs to encode, {took['rank']:,.0f} µs to rank")
    if counts["targets_in_history"]:
        print(f"{counts['targets_in_history']:,} of {counts['targets']:,} held-out items are in their user's own history")
    if counts["users_without_history"]:
        print(f"{counts['users_without_history']:,} users have no history: a model that reads histories lists nothing for them")


def _model(run: Path, dataset: Path, split: str) -> tuple[Scorer, Task]:
    task = splits.task_of(dataset, split)
    return checkpoint.open_run(run, dataset).scorer(task.history), task


def _most_popular(recipe: Recipe, dataset: Path, split: str) -> tuple[Scorer, Task]:
    fitted = interactions.load(dataset, *recipe.training.fit_on.split("+"))
    return MostPopular(fitted), splits.task_of(dataset, split)


def _ease(recipe: Recipe, dataset: Path, split: str, weights: Path) -> tuple[Scorer, Task]:
    fitted = interactions.load(dataset, *recipe.training.fit_on.split("+"))
    return Ease.load(weights, fitted), splits.task_of(dataset, split)
