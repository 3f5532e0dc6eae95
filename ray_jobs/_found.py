"""What a search found, read from its folder alone: how each trial ended, what it was given and what it reached."""

from __future__ import annotations

from pathlib import Path

import optuna

from components import space, storage
from components.config import Recipe
from components.errors import InputError
from components.reports import search_plots
from components.reports.search_plots import Trial
from ray_jobs import _tracking, _trials

FEWEST_TO_WEIGH = 4  # trials before importance means anything


def runs(folder: Path) -> list[Path]:
    """The folders of trials that have begun, in the order of their names."""
    return sorted(run for run in (folder / "trials").glob("*") if (run / _trials.POINT).exists())


def ended(run: Path) -> str:
    """finished, stopped (by the scheduler), failed; empty of a trial that goes on, or was interrupted."""
    if (run / _trials.FAILED).exists():
        return "failed"
    if storage.is_finished(run):
        return "finished"
    return "stopped" if (run / _tracking.STOPPED).exists() else ""


def trials(folder: Path) -> list[Trial]:
    base = Recipe.from_json((folder / "recipe.json").read_text(encoding="utf-8"))
    began = (folder / "recipe.json").stat().st_mtime
    found = []
    for run in runs(folder):
        history, how = _tracking.read_history(run), ended(run)
        standing = {} if how == "failed" else _trials.standing(history, base)
        marks = [run / name for name in (_trials.FAILED, _tracking.STOPPED, storage.MANIFEST, _tracking.HISTORY)]
        last = max((mark.stat().st_mtime for mark in marks if mark.exists()), default=began)
        values = space.leaves(storage.read_json(run / _trials.POINT))
        score, against = standing.get(_trials.SCORE), standing.get(_trials.AGAINST)
        found.append(Trial(run.name, how, (last - began) / 3600, values, score, against))
    return found


def best(found: list[Trial]) -> Trial:
    """The trial of the highest score.

    Raises:
        InputError: no trial was validated once.
    """
    scored = [trial for trial in found if trial.score is not None]
    if not scored:
        raise InputError(f"search: of {len(found)} trials none was validated once; why is in trials/*/{_trials.FAILED}")
    return max(scored, key=lambda trial: trial.score or 0.0)


def draw(found: list[Trial], recipe: Recipe, folder: Path) -> list[Path]:
    """The search's pictures."""
    folder.mkdir(exist_ok=True)
    search = recipe.search
    metric = search.metric or recipe.training.metric
    is_log = dict.fromkeys(space.logarithmic(search.space), True)
    search_plots.best_so_far(found, folder / "best_so_far.png", metric)
    search_plots.slices(found, folder / "slices.png", metric, is_log)
    search_plots.parallel_coordinates(found, folder / "parallel_coordinates.png", metric, is_log)
    if search.searcher == "pareto":
        search_plots.pareto_front(found, folder / "pareto_front.png", metric, search.against)
    weights = importance(found)
    if weights:
        search_plots.importance(weights, folder / "importance.png")
        x, y, *_ = [*sorted(weights, key=lambda name: -weights[name]), "", ""]
        if y:
            search_plots.heat_map(found, x, y, folder / "heat_map.png", metric, is_log)
    return sorted(folder.glob("*.png"))


def importance(found: list[Trial]) -> dict[str, float]:
    """The share of each parameter in the variation of scores, by Optuna's PED-ANOVA; {} of too few trials.

    Source: Watanabe et al. 2023, arXiv 2304.10255.
    """
    scored = [trial for trial in found if trial.score is not None]
    names = [name for name in scored[0].values if all(name in trial.values for trial in scored)] if scored else []
    if len(scored) < FEWEST_TO_WEIGH or len(names) < 2:
        return {}
    study = optuna.create_study(direction="maximize")
    distributions = {}
    for name in names:
        values = [trial.values[name] for trial in scored]
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        if numbers and min(values) < max(values):
            distributions[name] = optuna.distributions.FloatDistribution(min(values), max(values))
        elif not numbers:
            distributions[name] = optuna.distributions.CategoricalDistribution(sorted({*map(str, values)}))
    for trial in scored:
        params = {
            name: trial.values[name]
            if name in distributions and isinstance(trial.values[name], int | float)
            else str(trial.values[name])
            for name in distributions
        }
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=trial.score))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return optuna.importance.get_param_importances(study, evaluator=evaluator)
