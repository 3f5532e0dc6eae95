"""The Markdown page of a pipeline's run: a table of metrics over seeds, and the way to MLflow."""

from __future__ import annotations

import statistics
from pathlib import Path

from components.config import Recipe
from ray_jobs._results import Evaluated


def markdown(recipe: Recipe, evaluated: list[Evaluated]) -> str:
    """The page: each metric's mean over the runs, with their spread, for the model and its baselines; then the runs."""
    scorers, names = list(evaluated[0].metrics), list(evaluated[0].metrics["model"])
    over = f"{len(evaluated)} seeds: mean ± standard deviation (lowest to highest)" if len(evaluated) > 1 else "one seed"
    training = recipe.training
    means = [[name, *(_spread([each.metrics[scorer][name] for each in evaluated]) for scorer in scorers)] for name in names]
    runs = [[Path(each.run).name, *(f"{each.metrics['model'][n]:.4f}" for n in names), _link(each)] for each in evaluated]
    lines = [
        f"# {recipe.name}",
        f"Split {evaluated[0].split}, {over}. Fit on {training.fit_on}, epoch chosen on {training.select_on}.",
        *_table(["metric", *scorers], means),
        "## Runs",
        *_table(["run", *names, "MLflow"], runs),
    ]
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    mean = f"{statistics.fmean(values):.4f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values):.4f} ({min(values):.4f} to {max(values):.4f})"


def _link(each: Evaluated) -> str:
    return f"[open]({each.mlflow_url})" if each.mlflow_url else "in a file"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["", *(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows]), ""]
