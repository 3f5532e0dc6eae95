"""After a search: its best recipe, fitted on train and valid from several seeds, and tested once."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import scipy.stats

from components import storage
from components.config import Recipe
from components.errors import InputError
from ray_jobs import _evaluation, _found, _program, _tracking, _training

REFIT = "refit.json"


def refit(folder: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Trains the best trial's recipe anew on train + valid for the epochs that it chose, and evaluates each on test.

    Raises:
        InputError: the search has not ended, its best trial was stopped before its end, or it was tested before.
    """
    if (folder / REFIT).exists():
        raise InputError(f"--refit: {folder} was refitted and tested before, and a test is looked at once; see {REFIT} there")
    best = _found.best(_found.trials(folder))
    chosen = folder / "trials" / best.name
    recipe = Recipe.from_json((chosen / "recipe.json").read_text(encoding="utf-8"))
    runs = []
    with _program.cluster():
        for seed in seeds:
            settings, dataset = _training.refit(recipe, chosen, seed)
            runs.append(_training.train(settings, dataset))
    found = [_evaluation.evaluate(recipe, run, dataset, "test").metrics for run in runs]
    told = {
        "trial": best.name,
        "seeds": list(seeds),
        "runs": [str(run) for run in runs],
        "metrics": {name: interval([each["model"][name] for each in found]) for name in found[0]["model"]},
    }
    storage.write_json(folder / REFIT, told)
    tracked = _tracking.attach(folder)
    with _tracking.saying(tracked, folder / REFIT):
        tracked.artifact(folder / REFIT)
        tracked.metrics({f"test_{name}_mean": about["mean"] for name, about in told["metrics"].items()})
    return told


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean, and Student's 95 % interval of it where there are two values or more."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None}
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}
