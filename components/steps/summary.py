"""What a run of the pipeline came to: a Markdown table of metrics over seeds, and the way to MLflow."""

import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from kfp.dsl import Markdown, Output

from components.steps import step

if TYPE_CHECKING:
    from components.config import Recipe
    from ray_jobs._results import Evaluated


@step
def summary(recipe: str, evaluated: list[str], page: Output[Markdown]):
    from pathlib import Path

    from components.config import Recipe
    from components.steps.summary import markdown
    from ray_jobs._results import Evaluated

    text = markdown(Recipe.from_json(recipe), [Evaluated.model_validate_json(each) for each in evaluated])
    Path(page.path).write_text(text, encoding="utf-8")


def markdown(recipe: "Recipe", evaluated: "list[Evaluated]") -> str:
    """The page: each metric's mean over the runs, with their spread, for the model and its baselines; then the runs."""
    scorers, names = list(evaluated[0].metrics), list(evaluated[0].metrics["model"])
    over = f"{len(evaluated)} seeds: mean ± standard deviation (lowest to highest)" if len(evaluated) > 1 else "one seed"
    training = recipe.training
    lines = [
        f"# {recipe.name}",
        f"Split {evaluated[0].split}, {over}. Fit on {training.fit_on}, epoch chosen on {training.select_on}.",
        *_table(
            ["metric", *scorers],
            [[name, *(_spread([each.metrics[scorer][name] for each in evaluated]) for scorer in scorers)] for name in names],
        ),
        "## Runs",
        *_table(
            ["run", *names, "MLflow"],
            [[_name(each.run), *(f"{each.metrics['model'][name]:.4f}" for name in names), _link(each)] for each in evaluated],
        ),
    ]
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    mean = f"{statistics.fmean(values):.4f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values):.4f} ({min(values):.4f} to {max(values):.4f})"


def _name(folder: str) -> str:
    return Path(folder).name


def _link(each: "Evaluated") -> str:
    return f"[open]({each.mlflow_url})" if each.mlflow_url else "in a file"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["", *(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows]), ""]
