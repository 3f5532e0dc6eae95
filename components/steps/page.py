"""The Markdown page of a pipeline's run: a table of metrics over seeds, what was searched before, and the way to MLflow."""

from __future__ import annotations

import statistics
from pathlib import Path

from components.config import Recipe
from ray_jobs._results import Evaluated, Tuned


def markdown(recipe: Recipe, evaluated: list[Evaluated], search: Tuned | None) -> str:
    """The page: each metric's mean over the runs, with their spread, for the model and its baselines; the runs; the search."""
    fitted = recipe.training.fitted
    scorers, names = list(evaluated[0].metrics), list(evaluated[0].metrics["model"])
    over = f"{len(evaluated)} seeds: mean ± standard deviation (lowest to highest)" if len(evaluated) > 1 else "one seed"
    means = [[name, *(_spread([each.metrics[scorer][name] for each in evaluated]) for scorer in scorers)] for name in names]
    runs = [
        [Path(each.run).name, *(f"{each.metrics['model'][n]:.4f}" for n in names), _link(each.mlflow_url)] for each in evaluated
    ]
    lines = [
        f"# {recipe.name}",
        f"Split {evaluated[0].split}, {over}. {fitted[0].upper()}{fitted[1:]}.",
        *_table(["metric", *scorers], means),
        "## Runs",
        *_table(["run", *names, "MLflow"], runs),
    ]
    if search is not None:
        head = ["best trial", f"{search.metric} on {recipe.training.chosen_on}", "trials", "MLflow"]
        ended = ", ".join(f"{number} {how}" for how, number in search.ended.items())
        lines += ["## Search", *_table(head, [[search.trial, f"{search.best_value:.4f}", ended, _link(search.mlflow_url)]])]
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    mean = f"{statistics.fmean(values):.4f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values):.4f} ({min(values):.4f} to {max(values):.4f})"


def _link(url: str | None) -> str:
    return f"[open]({url})" if url else "in a file"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["", *(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows]), ""]
