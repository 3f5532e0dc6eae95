"""What a search leaves for people: its best recipe, a table, pictures and a page, beside the trials and in MLflow."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import optuna
import yaml
from rich.console import Console

from components import space, storage
from components.config import Recipe
from components.errors import reason
from components.reports import search_plots, tables
from components.reports.page import Page
from components.search import Trial
from ray_jobs import _found, _tracking, _trials
from ray_jobs._mlflow import LONGEST_VALUE

TRIALS, BEST, PAGE, PLOTS = "trials.json", "best.yaml", "search.html", "plots"
FEWEST_TO_WEIGH = 4  # trials before importance means anything
SHOWN = 10  # trials in the terminal and in MLflow's description, where the page has all; and tracebacks
SAYS = {
    "best_so_far": "Every trial where it ended, and the best score until then",
    "importance": "How much each parameter that all trials have tells the best tenth of them from the others (PED-ANOVA)",
    "slices": "Each parameter against the score",
    "heat_map": "The two most important parameters of trials with the best one's parts, and the mean score in each cell",
    "parallel_coordinates": "A line per trial through its parameters to its score",
    "pareto_front": "Two metrics of every trial, and those that none beats in both",
}


def write(trials: Sequence[Trial], recipe: Recipe, folder: Path, tracked: _tracking.TrackedRun) -> None:
    """All of it; of a search without a single score, table and page, which say what failed."""
    storage.write_json(folder / TRIALS, [dataclasses.asdict(trial) for trial in trials])
    written, pictures = [folder / TRIALS, folder / PAGE], list[Path]()
    if any(trial.score is not None for trial in trials):
        storage.write_text(folder / BEST, best_recipe(trials, recipe, folder))
        written.append(folder / BEST)
        try:
            pictures = draw(trials, recipe, folder / PLOTS)
        except Exception as error:  # what a picture stumbles on ends no search
            print(f"warning: the search's pictures are not all there: {reason(error)}", file=sys.stderr, flush=True)
    storage.write_text(folder / PAGE, _page(trials, recipe, folder, pictures))
    title = f"{recipe.name}, on {recipe.training.chosen_on}: {_counts(trials)}"
    Console().print(tables.trials(ranked(trials)[:SHOWN], _trials.metric_of(recipe), title))
    with _tracking.saying(tracked, folder / TRIALS):
        for path in written:
            tracked.artifact(path)
        for path in sorted((folder / PLOTS).glob("*.png")):
            tracked.artifact(path, PLOTS)
        tracked.tag("mlflow.note.content", _note(trials, recipe))
        history = sorted((trial for trial in trials if trial.score is not None), key=lambda trial: trial.hours)
        so_far = itertools.accumulate((trial.score or 0.0 for trial in history), max)
        name = f"best_{recipe.training.logged(_trials.metric_of(recipe))}"
        began = (folder / "recipe.json").stat().st_mtime  # sent twice with the same times, points are there once
        times = [began + trial.hours * 3600 for trial in history]
        tracked.log(
            [
                {"time": time, "step": n, "metrics": {name: best}}
                for n, (time, best) in enumerate(zip(times, so_far, strict=True), 1)
            ]
        )


def best_recipe(trials: Sequence[Trial], recipe: Recipe, folder: Path) -> str:
    """As YAML that train takes, on the workers that the search has: a trial of before it was resumed may have had others."""
    chosen = folder / _trials.TRIALS / _found.best(trials).name / "recipe.json"
    tree = Recipe.from_json(chosen.read_text(encoding="utf-8")).model_dump(mode="json", exclude={"search"})
    return yaml.safe_dump({**tree, "scale": recipe.scale.model_dump(mode="json")}, sort_keys=False)


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The best first; those without a score last."""
    return sorted(trials, key=lambda trial: (trial.score is None, -(trial.score or 0.0)))


def say(trials: Sequence[Trial], name: str, recipe: Recipe) -> None:
    """A line on one of the trials that have ended."""
    (trial,) = (trial for trial in trials if trial.name == name)
    values = "  ".join(f"{key} {_short(value)}" for key, value in trial.values.items())
    came_to = trial.reason if trial.score is None else f"{_trials.metric_of(recipe)} {trial.score:.4f}"
    scores = [each.score for each in trials if each.score is not None]
    best = f"  best {max(scores):.4f}" if scores else ""
    print(f"{len(trials)} {trial.name} {trial.ended} at epoch {trial.epochs}: {came_to}  {values}{best}", flush=True)


def draw(trials: Sequence[Trial], recipe: Recipe, folder: Path) -> list[Path]:
    """The search's pictures."""
    folder.mkdir(exist_ok=True)
    name, is_log = _trials.metric_of(recipe), _logarithmic(trials, recipe)
    search_plots.best_so_far(trials, folder / "best_so_far.png", name)
    search_plots.slices(trials, folder / "slices.png", name, is_log)
    search_plots.parallel_coordinates(trials, folder / "parallel_coordinates.png", name, is_log)
    if recipe.search.searcher == "pareto":
        split, against = _trials.against_of(recipe)
        names = f"{name} on {recipe.training.select_on}", f"{against} on {split}"
        search_plots.pareto_front(trials, folder / "pareto_front.png", *names)
    weights = importance(trials, is_log)
    if len(weights) > 1:
        search_plots.importance(weights, folder / "importance.png")
    alike = [trial for trial in trials if trial.values.keys() == _found.best(trials).values.keys()]
    own = importance(alike, is_log)
    if len(own) > 1:
        x, y = sorted(own, key=lambda key: -own[key])[:2]
        search_plots.heat_map(alike, x, y, folder / "heat_map.png", name, is_log)
    return [path for each in SAYS if (path := folder / f"{each}.png").exists()]


def _logarithmic(trials: Sequence[Trial], recipe: Recipe) -> dict[str, bool]:
    """What is drawn on a logarithmic scale and has no value that is not on it, as another option of a choice may be."""
    values = {key: [trial.values.get(key, 1.0) for trial in trials] for key in space.logarithmic(recipe.search.space)}
    return {key: all(isinstance(value, int | float) and value > 0 for value in own) for key, own in values.items()}


def importance(trials: Sequence[Trial], is_log: dict[str, bool]) -> dict[str, float]:
    """How much each parameter that every trial has tells the best tenth from all, as shares; {} of too few trials.

    Source: Watanabe et al. 2023, arXiv 2304.10255 (PED-ANOVA), by Optuna.
    """
    scored = [trial for trial in trials if trial.score is not None]
    if len(scored) < FEWEST_TO_WEIGH:
        return {}
    distributions: dict[str, optuna.distributions.BaseDistribution] = {}
    for name in scored[0].values:
        values = [trial.values.get(name) for trial in scored]
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        if len({*map(str, values)}) < 2 or None in values:
            continue
        if len(numbers) == len(values):
            distributions[name] = optuna.distributions.FloatDistribution(
                min(numbers), max(numbers), log=is_log.get(name, False)
            )
        else:
            distributions[name] = optuna.distributions.CategoricalDistribution(sorted({*map(str, values)}))
    if not distributions:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    is_number = {name: isinstance(kind, optuna.distributions.FloatDistribution) for name, kind in distributions.items()}
    study = optuna.create_study(direction="maximize")
    for trial in scored:
        params = {name: trial.values[name] if is_number[name] else str(trial.values[name]) for name in distributions}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=trial.score))
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def _page(trials: Sequence[Trial], recipe: Recipe, folder: Path, pictures: Sequence[Path]) -> str:
    search, first = recipe.search, next(iter(ranked(trials)), None)
    page = Page(f"Search: {recipe.name}")
    came_to = "No trial was validated once."
    if first is not None and first.score is not None:
        came_to = f"The best trial is {first.name}, with {first.score:.4f}; {BEST} beside this page is its recipe."
    page.text(
        f"{search.searcher} search with the scheduler {search.scheduler} for the highest {_trials.metric_of(recipe)} on "
        f"{recipe.training.chosen_on}: {_counts(trials)}. {came_to}"
    )
    for path in pictures:
        page.heading(path.stem.replace("_", " ").capitalize())
        page.picture(path, SAYS[path.stem])
    page.heading("Every trial")
    page.table(*_table(ranked(trials), recipe))
    for said, traceback in itertools.islice(_found.tracebacks(folder).items(), SHOWN):
        page.heading(said)
        page.code(traceback)
    return page.html(f"{folder.name}, commit {_tracking.commit()}")


def _note(trials: Sequence[Trial], recipe: Recipe) -> str:
    """The description of the search's MLflow run, in Markdown."""
    header, rows = _table(ranked(trials)[:SHOWN], recipe)
    artifacts = f"`{BEST}` is what train takes, `{PAGE}` has every trial, `{PLOTS}/`"
    said = f"On {recipe.training.chosen_on}: {_counts(trials)}. Artifacts: {artifacts}.\n\n"
    for line in [header, ["---"] * len(header), *rows]:
        row = f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n"
        if len(said) + len(row) > LONGEST_VALUE:  # whole rows: MLflow would be given half of one
            break
        said += row
    return said


def _table(trials: Sequence[Trial], recipe: Recipe) -> tuple[list[str], list[list[str]]]:
    keys = list(dict.fromkeys(key for trial in trials for key in trial.values))
    has_against = recipe.search.searcher == "pareto"
    header = [
        "trial",
        _trials.metric_of(recipe),
        *([_against(recipe)] if has_against else []),
        "epochs",
        *keys,
        "ended",
    ]
    rows = []
    for trial in trials:
        scores = [trial.score, *([trial.against] if has_against else [])]
        said = [f"{value:.4f}" if value is not None else "" for value in scores]
        values = [_short(trial.values[key]) if key in trial.values else "" for key in keys]
        ended = f"{trial.ended or 'interrupted'}{': ' * bool(trial.reason)}{trial.reason}"
        rows.append([trial.name, *said, str(trial.epochs), *values, ended])
    return header, rows


def _against(recipe: Recipe) -> str:
    """With its split, where it is another than the one that is searched on."""
    split, metric = _trials.against_of(recipe)
    return metric if split == recipe.training.select_on else f"{metric} on {split}"


def _counts(trials: Sequence[Trial]) -> str:
    ended = [trial.ended or "interrupted" for trial in trials]
    return f"{len(trials)} trials ({', '.join(f'{ended.count(how)} {how}' for how in sorted({*ended}))})"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
