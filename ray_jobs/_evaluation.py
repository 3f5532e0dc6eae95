"""The driver of an evaluation: model and baselines ranked alike, files beside the run, numbers in its MLflow run."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
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
from components.evaluation.evaluate import Summary, Task
from components.evaluation.scorers import Scorer
from components.reports import plots, tables
from components.training import checkpoint
from ray_jobs import _program, _ranking, _results, _tracking

MASKED, NOT_MASKED = "seen items masked", "not masked"


def evaluate(recipe: Recipe, run: Path, dataset: Path, split: str) -> _results.Evaluated:
    """Evaluates a finished run on a split into `run`/evaluation/`split`, and prints the comparison.

    Where users' last rows were left out, every scorer is ranked by both protocols in use: seen items masked, and not masked.

    Raises:
        InputError: run and dataset do not belong together, there is no such split, the run was fitted on it, K exceeds the
            catalogue, or another evaluation of it is under way.
    """
    trained, task = checkpoint.open_run(run, dataset), splits.task_of(dataset, split)
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
    if storage.read_json(dataset / storage.MANIFEST)["rules"]["split"]["by"] == "leave_one_out":
        loads |= {f"{name} {NOT_MASKED}": functools.partial(_unmasked, load) for name, load in loads.items()}
    degrees_I = interactions.load(dataset, "train").item_degrees()
    started = time.perf_counter()
    files = [folder / ("per_user" + f"_{name.replace(' ', '_')}" * (name != _results.MODEL) + ".parquet") for name in loads]
    try:
        with _program.cluster():
            found = _ranking.evaluate(list(loads.values()), task.num_tiles, ks, degrees_I, recipe.scale, files)
    finally:
        weights.unlink(missing_ok=True)
    seconds = time.perf_counter() - started
    print(f"{len(task.users):,} users ranked by {', '.join(loads)} in {seconds:.1f} s", file=sys.stderr, flush=True)
    summaries = dict(zip(loads, found, strict=True))
    names = [f"{name}@{k}" for name in ("hit", "ndcg") for k in ks]
    by_length = {
        name: lengths.by_history_length(file, task.history.positive_counts(), names)
        for name, file in zip(loads, files, strict=True)
    }
    _write(folder, trained, split, task, summaries, by_length)


def _write(
    folder: Path,
    trained: checkpoint.TrainedRun,
    split: str,
    task: Task,
    summaries: dict[str, Summary],
    by_length: dict[str, list[dict[str, Any]]],
) -> None:
    own = summaries[_results.MODEL]
    ks, name = own.ks, trained.manifest["name"]
    results = {scorer: summary.metrics() for scorer, summary in summaries.items()}
    masking = {scorer: NOT_MASKED if scorer.endswith(NOT_MASKED) else MASKED for scorer in summaries}
    groups = {scorer: {str(k): summary.group_recall(k) for k in ks} for scorer, summary in summaries.items()}
    training = trained.recipe.training
    fitted, title = (
        f"fit on {training.fit_on}, epoch chosen on {training.select_on}",
        f"{name} on {split}, {own.num_users:,} users",
    )
    about = {"split": split, "users": own.num_users, "run": trained.folder.name, "dataset": trained.manifest["dataset"]}
    about |= {"protocol": fitted, "masking": masking}
    storage.write_json(folder / "metrics.json", {**about, "metrics": results})
    storage.write_json(folder / "groups.json", {**about, "recall_contributions": groups, "history_lengths": by_length})
    plots.popularity_groups(
        {scorer: values[str(ks[-1])] for scorer, values in groups.items()},
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
        values = {f"{split}_{metric}": value for metric, value in results[_results.MODEL].items()}
        unmasked = results.get(f"{_results.MODEL} {NOT_MASKED}", {})
        values |= {f"{split}_not_masked_{metric}": value for metric, value in unmasked.items()}
        tracked.metrics(values, step=trained.manifest["epochs"] + 1)  # after every step that training logged
        for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*.png")) + [folder / "per_user.parquet"]:
            tracked.artifact(path, f"evaluation/{split}")
    for protocol in dict.fromkeys(masking.values()):
        rows = {scorer.removesuffix(f" {NOT_MASKED}"): results[scorer] for scorer in results if masking[scorer] == protocol}
        Console().print(tables.comparison(rows, ks, f"{title}, {protocol} ({fitted})"))
    print(folder)


def _model(run: Path, dataset: Path, split: str) -> tuple[Scorer, Task]:
    task = splits.task_of(dataset, split)
    return checkpoint.open_run(run, dataset).scorer(task.history), task


def _unmasked(load: Callable[[], tuple[Scorer, Task]]) -> tuple[Scorer, Task]:
    scorer, task = load()
    return scorer, splits.unmasked(task)


def _most_popular(recipe: Recipe, dataset: Path, split: str) -> tuple[Scorer, Task]:
    fitted = interactions.load(dataset, *recipe.training.fit_on.split("+"))
    return MostPopular(fitted), splits.task_of(dataset, split)


def _ease(recipe: Recipe, dataset: Path, split: str, weights: Path) -> tuple[Scorer, Task]:
    fitted = interactions.load(dataset, *recipe.training.fit_on.split("+"))
    return Ease.load(weights, fitted), splits.task_of(dataset, split)
