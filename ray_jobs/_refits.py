"""After a search: its best recipe, fitted on train and valid from several seeds, and tested once."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import scipy.stats
from rich.console import Console

from components import storage
from components.config import Recipe, Scale, parse
from components.errors import InputError
from ray_jobs import _evaluation, _program, _remote, _results, _tracking, _training, _trials

REFIT = "refit.json"


def tests_of(dataset: Path) -> list[str]:
    """The splits that a refit is tested on.

    Raises:
        InputError: no test has a row, or `valid` has none, which is to be fitted on too.
    """
    rows = storage.read_json(dataset / storage.MANIFEST)["rows"]
    tests = sorted(split for split in rows if split.startswith("test") and rows[split])
    if not tests or not rows["valid"]:
        lacks = "valid" if tests else "any test"
        raise InputError(f"--refit: got {dataset} without a row in {lacks}, takes a dataset with rows in valid and in a test")
    return tests


def check(folder: Path, number: int) -> None:
    """Raises InputError where another number of seeds was begun, or tested, for this search."""
    begun = _begun(folder)
    if len(begun.get("seeds", range(number))) != number:
        did = "tested, and a test is looked at once" if "metrics" in begun else "begun"
        raise InputError(f"--refit: got {number}, takes {len(begun['seeds'])}: {folder} has {REFIT}, of seeds that were {did}")


def refit(recipe: Recipe, folder: Path, number: int) -> dict[str, Any]:
    """Trains the best trial's recipe anew on train + valid, for the epochs that it chose, from seeds 1 to `number`, by the
    `scale` of the recipe given, and evaluates each on every test split that has rows: {trial, seeds, runs, metrics: {split:
    {name: {mean, low, high}}}}, kept in the search's folder and MLflow run. What was tested before is shown again.

    Raises:
        InputError: the search has not ended, other seeds were begun, or the dataset has nothing to test on.
    """
    check(folder, number)
    best = folder / _trials.TRIALS / storage.open_finished(folder, "search")["best"]
    tracked, seeds = _tracking.attach_by(recipe, folder), list(range(1, number + 1))
    recipe = recipe_of(best, recipe.scale)
    told = _begun(folder) or {"trial": best.name, "seeds": seeds, "runs": []}
    if "metrics" in told:
        print(f"{folder}: was refitted and tested before")
        _show(told, recipe)
        return told
    dataset = _remote.linked(recipe, folder)
    tests = tests_of(dataset)
    metrics: dict[str, dict[str, Any]] = {}
    with _program.cluster(trains=True):
        for seed in seeds[len(told["runs"]) :]:
            own = parse({**recipe.model_dump(), "seed": seed})
            told["runs"].append(str(_training.train(own, dataset, tags={"search": tracked.run_id})))
            storage.write_json(folder / REFIT, told)  # what was fitted before an interruption is what is tested
        for split in tests:
            found = [_evaluation.evaluate(recipe, Path(run), dataset, split).metrics[_results.MODEL] for run in told["runs"]]
            metrics[split] = {name: interval([each[name] for each in found]) for name in found[0]}
    told["metrics"] = metrics
    storage.write_json(folder / REFIT, told)
    with _tracking.saying(tracked, folder / REFIT):
        tracked.artifact(folder / REFIT)
        found = {f"{split}_{name}": about for split, own in metrics.items() for name, about in own.items()}
        tracked.metrics(
            {f"{name}_{what}": value for name, about in found.items() for what, value in about.items() if value is not None}
        )
    _show(told, recipe)
    return told


def _begun(folder: Path) -> dict[str, Any]:
    return storage.read_json(folder / REFIT) if (folder / REFIT).exists() else {}


def recipe_of(trial: Path, scale: Scale) -> Recipe:
    """Of a trial, that which fits on train and valid for the epochs after which it was best, by this `scale`."""
    recipe = Recipe.from_json((trial / "recipe.json").read_text(encoding="utf-8"))
    chosen_by = recipe.training.logged(recipe.training.metric)
    validated = [entry for entry in _tracking.read_history(trial) if chosen_by in entry["metrics"]]
    epochs = max(validated, key=lambda entry: entry["metrics"][chosen_by])["step"]
    training = {"fit_on": "train+valid", "select_on": "none", "epochs": epochs}
    tree = recipe.model_dump()
    tree["scale"] = {**scale.model_dump(), "storage_path": recipe.scale.storage_path}
    return parse({**tree, "training": {**tree["training"], **training}})


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean, and Student's 95 % interval of it where there are two values or more."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None}
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def _show(told: dict[str, Any], recipe: Recipe) -> None:
    console = Console(highlight=False)
    for split, found in told["metrics"].items():
        console.print(f"{split}, {len(told['seeds'])} seeds of trial {told['trial']}, fitted on train and valid:")
        for name in (f"{name}@{k}" for k in recipe.evaluation.ks for name in ("recall", "ndcg")):
            about = found[name]
            between = f"  (95 %: {about['low']:.4f} to {about['high']:.4f})" if about["low"] is not None else ""
            console.print(f"  {name} {about['mean']:.4f}{between}")
