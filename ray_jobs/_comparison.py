"""What evaluated runs left on disk, side by side: systems of runs, their differences, files and a table in the terminal."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console

from components import storage
from components.config import Recipe
from components.errors import InputError
from components.evaluation import comparison, exact
from components.evaluation.comparison import Difference, System
from components.evaluation.protocols import PROTOCOLS, Protocol
from components.reports import comparison_page, plots, tables
from ray_jobs import _credentials, _mlflow, _results, _runs, _tracking

PAGE = "compare.html"
NOT_METRICS = ("user", "relevant", "items", "hits")  # columns of per_user.parquet
APART = {"name", "seed", "evaluation", "tracking", "search", "scale"}  # sections that do not tell systems apart


@dataclass(frozen=True)
class Run:
    """A finished run, and the folder of its evaluation on the split that is compared."""

    folder: Path
    evaluation: Path
    recipe: Recipe
    manifest: dict[str, Any]
    protocol: Protocol

    @property
    def scorer(self) -> str:
        """What the evaluation calls the model's lists."""
        return _results.named(_results.MODEL, self.protocol)

    @property
    def per_user(self) -> Path:
        return self.evaluation / _results.per_user(_results.MODEL, self.protocol)

    @property
    def system(self) -> str:
        """The fingerprint of everything but the seed."""
        return self.recipe.model_copy(update={"seed": 0}).fingerprint()


def compare(
    named: Sequence[str],
    split: str | None,
    metrics: Sequence[str],
    storage_path: str,
    out: str | None,
    protocol: Protocol = "masked",
) -> Path:
    """Writes compare.json, groups.png, difference.png and compare.html, prints the tables, and returns the folder.

    Without a split it is that of the first run's recipe. The page goes to the runs' MLflow, too, where there is one and it
    answers.

    Raises:
        InputError: a run is not there, given twice or not evaluated on the split or by the protocol; the runs are of several
            datasets or user sets, or of fewer than two systems; or an evaluation lacks a metric.
    """
    folders = [_runs.named(name, storage_path, "RUN") for name in named]
    split = split or _opened(folders[0])[1].evaluation.split
    runs = [_open(folder, split, protocol) for folder in folders]
    systems = _systems(runs)
    names = _names([group[0].recipe for group in systems])
    _require_metrics(runs, split, metrics)
    users_U = _values(runs[0], [])["user"]
    read = [_read(group, metrics, users_U) for group in systems]
    print(f"{comparison.RESAMPLES:,} resamples of {len(users_U):,} users", flush=True)
    apart = dict(zip(names[1:], comparison.differences(read, comparison.RESAMPLES), strict=True))
    k = metrics[0].partition("@")[2]
    about = {
        "split": split,
        "protocol": PROTOCOLS[protocol],
        "dataset": runs[0].manifest["dataset"],
        "users": len(users_U),
        "baseline": names[0],
        "resamples": comparison.RESAMPLES,
        "level": comparison.LEVEL,
        "systems": [
            {"name": name, **_describe(group), "metrics": _over_seeds(system), "groups": _groups(group, k)}
            for name, group, system in zip(names, systems, read, strict=True)
        ],
        "differences": {name: {m: asdict(found) for m, found in values.items()} for name, values in apart.items()},
    }
    folder = _folder(runs, split, metrics, storage_path, out, protocol)
    pictures = _draw(folder, about, apart, k)
    storage.write_json(folder / "compare.json", about)
    addresses = {str(run.folder): address for run in runs if _is_tracked(run) and (address := _tracking.url(run.folder))}
    notes, command = _notes(about), _command(runs, split, metrics)
    made = f"Made by {command} at commit {_tracking.commit()}."
    page = comparison_page.html(about, apart, notes, pictures, addresses, made)
    storage.write_text(folder / PAGE, page)
    _show(about, apart, notes)
    print(f"{folder}: {PAGE}, compare.json, {', '.join(path.name for path in pictures)}", flush=True)
    _log(folder / PAGE, runs)
    return folder


def _is_tracked(run: Run) -> bool:
    return (run.folder / _tracking.LINKS).is_file()


def _command(runs: Sequence[Run], split: str, metrics: Sequence[str]) -> str:
    options = [word for metric in metrics for word in ("--metric", metric)]
    options = ["--split", split, *options, "--protocol", runs[0].protocol]
    return shlex.join(["python", "-m", "ray_jobs.compare", *(str(run.folder) for run in runs), *options])


def _log(page: Path, runs: Sequence[Run]) -> None:
    """Gives the page to each run's MLflow run. An MLflow that cannot be used is asked once, and named."""
    tracked: dict[str, list[_tracking.TrackedRun]] = defaultdict(list)
    for run in runs:
        if _is_tracked(run):
            each = _tracking.attach(run.folder)
            tracked[each.tracking_uri].append(each)
    for tracking_uri, there in tracked.items():
        if not _credentials.may_go_to(tracking_uri, os.environ.get("MLFLOW_TRACKING_URI", "")):
            said = "the credentials that are set here go to MLFLOW_TRACKING_URI alone"
            print(f"MLflow at {tracking_uri} is not asked ({said}); the page is kept in {page}", file=sys.stderr)
            continue
        if why := _mlflow.trouble(tracking_uri):
            print(f"MLflow at {tracking_uri} does not answer ({why}); the page is kept in {page}", file=sys.stderr)
            continue
        for each in there:
            with _tracking.saying(each, page):
                each.artifact(page, f"comparisons/{page.parent.name}")


def _opened(folder: Path) -> tuple[dict[str, Any], Recipe]:
    manifest = storage.open_finished(folder, "run")
    return manifest, Recipe.from_json((folder / "recipe.json").read_text(encoding="utf-8"))


def _open(folder: Path, split: str, protocol: Protocol) -> Run:
    manifest, recipe = _opened(folder)
    run = Run(folder.resolve(), folder.resolve() / "evaluation" / split, recipe, manifest, protocol)
    if not all((run.evaluation / name).is_file() for name in ("metrics.json", "groups.json", "per_user.parquet")):
        raise InputError(f"--split: got {split}, on which {folder.name} was not evaluated; {_how_to_evaluate(run, split)}")
    if not run.per_user.is_file():
        raise InputError(
            f"--protocol: got {protocol}, by which {folder.name} was not evaluated on {split}, takes masked (both are where "
            "held-out rows came after what is seen)"
        )
    return run


def _how_to_evaluate(run: Run, split: str) -> str:
    command = ["python", "-m", "ray_jobs.evaluate", str(run.folder / "recipe.json"), "--run", str(run.folder), "--split", split]
    return f"run {shlex.join(command)}"


def _systems(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs of each system by ascending seed; systems in the order in which they were given."""
    systems: dict[str, list[Run]] = {}
    for n, run in enumerate(runs):
        if run.folder in [before.folder for before in runs[:n]]:
            raise InputError(f"RUN: got {run.folder} twice, takes each run once")
        datasets = [runs[0].manifest["dataset"], run.manifest["dataset"]]
        if datasets[0] != datasets[1]:
            raise InputError(
                f"RUN: got {runs[0].folder.name} of dataset {datasets[0]} and {run.folder.name} of dataset {datasets[1]}, "
                "takes runs of one dataset"
            )
        group = systems.setdefault(run.system, [])
        for other in group:
            if other.recipe.seed == run.recipe.seed:
                raise InputError(
                    f"RUN: got seed {run.recipe.seed} of one recipe twice, {other.folder.name} and {run.folder.name}, "
                    "takes one run of each seed"
                )
        group.append(run)
    if len(systems) < 2:
        seeds = ", ".join(str(run.recipe.seed) for run in runs)
        got = f"got runs of one system alone, {runs[0].recipe.name} (seed {seeds})"
        raise InputError(f"RUN: {got}, takes runs of two systems at least, which differ in more than their seeds")
    return [sorted(group, key=lambda run: run.recipe.seed) for group in systems.values()]


def _names(recipes: Sequence[Recipe]) -> list[str]:
    """The recipes' names; those of one name get the settings in which they differ, by a key's last word where it will do."""
    leaves = [dict(_tracking.flat(recipe.model_dump(mode="json", exclude=APART))) for recipe in recipes]
    names = []
    for recipe, own in zip(recipes, leaves, strict=True):
        alike = [other for another, other in zip(recipes, leaves, strict=True) if another.name == recipe.name]
        keys = {key: key.rpartition(".")[2] for other in alike for key in other if _differs(key, alike)}
        short = {key: last if list(keys.values()).count(last) == 1 and last != "name" else key for key, last in keys.items()}
        differ = [f"{short[key]} {value}" for key, value in own.items() if key in short]
        names.append(f"{recipe.name} ({', '.join(differ)})" if differ else recipe.name)
    return names


def _differs(key: str, alike: Sequence[dict[str, str]]) -> bool:
    return any(other.get(key) != alike[0].get(key) for other in alike)


def _require_metrics(runs: Sequence[Run], split: str, metrics: Sequence[str]) -> None:
    columns = [pq.read_schema(run.per_user).names for run in runs]
    common = [name for name in columns[0] if name not in NOT_METRICS and all(name in other for other in columns)]
    unknown = [metric for metric in metrics if metric not in common]
    if unknown:
        raise InputError(f"--metric: got {unknown[0]}, takes what every run's evaluation on {split} has: {', '.join(common)}")


def _values(run: Run, columns: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Columns of the model's lists, in the order of users."""
    table = pq.read_table(run.per_user, columns=["user", *columns]).sort_by("user")
    return {name: table[name].to_numpy() for name in table.column_names}


def _read(group: Sequence[Run], metrics: Sequence[str], users_U: NDArray[Any]) -> System:
    rows = []
    for run in group:
        values = _values(run, metrics)
        split = run.evaluation.name
        if not np.array_equal(values["user"], users_U):
            got = f"{len(values['user']):,} users of {run.folder.name}, not the {len(users_U):,} of the first run"
            raise InputError(f"--split: got {split} with {got}, takes runs evaluated on the same users")
        said = storage.read_json(run.evaluation / "metrics.json")["metrics"][run.scorer]
        if any(exact.mean(values[metric]) != said.get(metric) for metric in metrics):
            raise InputError(
                f"{run.evaluation}: got {run.per_user.name} and metrics.json of two evaluations, takes those of one; "
                f"{_how_to_evaluate(run, split)}"
            )
        rows.append(values)
    return System(tuple(run.recipe.seed for run in group), {m: np.stack([values[m] for values in rows]) for m in metrics})


def _describe(group: Sequence[Run]) -> dict[str, Any]:
    training = group[0].recipe.training
    widths = {f"{run.recipe.scale.num_workers}{' GPU' * run.recipe.scale.use_gpu}" for run in group}
    costs = [_cost(run) for run in group]
    known = {name: [value for cost in costs if (value := cost[name]) is not None] for name in costs[0]}
    return {
        "recipe": group[0].system,
        "fit_on": training.fit_on,
        "chosen_on": training.chosen_on,
        "workers": ", ".join(sorted(widths)),
        "cost": {name: statistics.fmean(values) if values else None for name, values in known.items()},
        "runs": [
            {
                "folder": str(run.folder),
                "seed": run.recipe.seed,
                "mlflow_run_id": run.manifest["mlflow_run_id"],
                "commit": run.manifest["commit"],
                "cost": cost,
            }
            for run, cost in zip(group, costs, strict=True)
        ],
    }


def _cost(run: Run) -> dict[str, float | None]:
    """Of training (`_tracking.cost`), the model's parameters, and the microseconds that a user's lists took: encode, rank.

    An evaluation of before these were kept has None.
    """
    known = storage.read_json(run.evaluation / "metrics.json").get("cost", {})
    took = known.get("microseconds_per_user", {}).get(_results.MODEL, {})
    own = {"parameters": known.get("parameters"), "encode": took.get("encode"), "rank": took.get("rank")}
    return {**_tracking.cost(run.folder, run.manifest), **own}


def _over_seeds(system: System) -> dict[str, dict[str, Any]]:
    return {
        metric: {
            "mean": system.mean(metric),
            "deviation": system.deviation(metric),
            "by_seed": dict(zip(map(str, system.seeds), system.by_seed(metric), strict=True)),
        }
        for metric in system.values
    }


def _groups(group: Sequence[Run], k: str) -> dict[str, list[float] | None]:
    """What each popularity group adds to recall@k, least popular first: mean and standard deviation over seeds."""
    found = [storage.read_json(run.evaluation / "groups.json")["recall_contributions"][run.scorer][k] for run in group]
    deviation = [statistics.stdev(values) for values in zip(*found, strict=True)] if len(group) > 1 else None
    return {"mean": [statistics.fmean(values) for values in zip(*found, strict=True)], "deviation": deviation}


def _folder(
    runs: Sequence[Run], split: str, metrics: Sequence[str], storage_path: str, out: str | None, protocol: Protocol
) -> Path:
    what = json.dumps([[run.folder.name for run in runs], split, list(metrics), protocol])
    digest = hashlib.sha256(what.encode()).hexdigest()[:12]
    folder = Path(out or Path(storage_path, "comparisons", f"{runs[0].recipe.name}-{digest}")).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"--out: got {folder}, takes a folder") from error
    return folder


def _draw(folder: Path, about: dict[str, Any], apart: dict[str, dict[str, Difference]], k: str) -> dict[Path, str]:
    """The pictures, each with what it shows."""
    groups = {system["name"]: system["groups"] for system in about["systems"]}
    plots.popularity_groups(
        {name: group["mean"] for name, group in groups.items()},
        folder / "groups.png",
        f"Where the hits on {about['split']} come from, {about['protocol']}",
        f"recall@{k}",
        {name: group["deviation"] for name, group in groups.items() if group["deviation"] is not None},
    )
    title = f"Differences from {about['baseline']} on {about['split']}, {about['protocol']}"
    plots.differences(apart, folder / "difference.png", title)
    return {
        folder / "difference.png": f"Differences from {about['baseline']} with both intervals, as in the table",
        folder / "groups.png": f"What each popularity group adds to recall@{k}, system by system",
    }


def _show(about: dict[str, Any], apart: dict[str, dict[str, Difference]], notes: Sequence[str]) -> None:
    console = Console()
    console.print(tables.systems(about["systems"], f"{about['split']}, {about['users']:,} users, {about['protocol']}"))
    for metric in next(iter(apart.values())):
        values = {system["name"]: system["metrics"][metric] for system in about["systems"]}
        found = {name: differences[metric] for name, differences in apart.items()}
        console.print(tables.differences(values, found, f"{metric}, {about['protocol']}"))
    for note in notes:
        console.print(note, highlight=False)


def _notes(about: dict[str, Any]) -> list[str]:
    """What a reader of the intervals must know."""
    notes = [f"intervals of {about['level']:.0%} by {about['resamples']:,} resamples; * 0 lies outside"]
    fewest = min(len(system["runs"]) for system in about["systems"])
    if fewest == 1:
        notes.append("one seed: no interval over seeds")
    elif fewest < comparison.ENOUGH_SEEDS:
        notes.append(f"few seeds ({fewest}): the intervals over seeds are narrower than they should be")
    return notes
