"""ASHA against training every trial to its end: random searches of the same points, with the same hours on the same places.

python -m tests.benchmarks.asha [--seeds 1 2 3] [--quick] [--keep] [--storage DIR] [--hours .333]

InfoNCE on Yahoo! R3 with MF: an epoch takes about 1.2 s, so a whole training (120 epochs) takes ten times what starting a trial
does, and ending one early saves something; on Coat (10 ms an epoch) it would not. Temperature, learning rate and L2 are drawn;
a seed draws the same points in the same order for both. The recipe's patience ends trials in both. Cost: 2 searches for each
seed, of the hours given, on two places: 4 core-hours with three seeds. Best so far is that of every validation of every trial,
by the time since the search began, waiting and starting included. Finished searches of the same recipe and seed on the storage
path are taken as they are. Needs HARDNEG_DATA.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components import storage
from ray_jobs import _search_report, _tracking, _trials
from tests.benchmarks import _common, _programs
from tests.benchmarks.search import BY_METRIC, METRIC

RECIPE, SLOTS, SEEDS, HOURS, EPOCHS = "yahoo_mf_infonce", 2, 3, 1 / 3, 120
SPACE = {
    "loss.temperature": {"loguniform": [0.03, 3.0]},
    "optimizer.learning_rate": {"loguniform": [1e-5, 1e-2]},
    "optimizer.l2.weight": {"loguniform": [1e-8, 1e-2]},
}
SCHEDULERS = ("fifo", "asha")
LENGTH = (f"training.epochs={EPOCHS}", "search.grace_epochs=5")
QUICK = ("training.epochs=5", "training.validate_every=1", "search.grace_epochs=1", "search.trials=3")  # these end it

Curve = list[tuple[float, float]]  # (hours, best so far), where it rises


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, nargs="+", help=f"by default 1 to {SEEDS}")
    parser.add_argument("--hours", type=float, default=HOURS, help="of each search")
    parser.add_argument("--storage", default="runs", help="storage path, where finished searches are looked for")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    seeds = arguments.seeds or list(range(1, 2 if arguments.quick else 1 + SEEDS))
    path, hours = _programs.recipe(RECIPE), arguments.hours
    shared = [
        f"scale.storage_path={Path(arguments.storage).absolute()}",
        *BY_METRIC,
        *(QUICK if arguments.quick else LENGTH),
        f"search.space={json.dumps(SPACE)}",
        "search.searcher=random",
        f"search.hours={hours}",
    ]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEDULERS}
    for seed, name in itertools.product(seeds, SCHEDULERS):
        changes = [*shared, f"search.scheduler={name}", f"seed={seed}"]
        folder = _programs.searched(path, changes, resume=False, **_programs.cpus(SLOTS))
        runs[name].append({"seed": seed, **_of_search(folder, hours)})
        _common.say(f"{name}, seed {seed}: {json.dumps(runs[name][-1])}")
    for name in SCHEDULERS:
        for run, plain in zip(runs[name], runs["fifo"], strict=True):
            run["hours_to_fifos_best"] = first(run["curve"], plain["curve"][-1][1])
    figures = {
        "recipe": RECIPE,
        "space": SPACE,
        "changes": [*LENGTH],
        "slots": SLOTS,
        "hours": hours,
        "metric": METRIC,
        "schedulers": runs,
    }
    return {"seeds": seeds, "figures": figures}


def _of_search(folder: Path, hours: float) -> dict[str, Any]:
    began = (folder / "recipe.json").stat().st_mtime
    trials = storage.read_json(folder / _search_report.TRIALS)
    histories = [_tracking.read_history(folder / _trials.TRIALS / trial["name"]) for trial in trials]
    return {
        "trials": len(trials),
        "ended": Counter(trial["ended"] for trial in trials),
        "epochs": sum(trial["epochs"] for trial in trials),
        "curve": best_so_far(itertools.chain(*histories), f"valid_{METRIC}", began, hours),
    }


def best_so_far(entries: Iterable[Mapping[str, Any]], metric: str, began: float, hours: float) -> Curve:
    """Of all validations within so many hours, those that were better than every one before: (hours since `began`, value)."""
    told = [(entry["time"], entry["metrics"][metric]) for entry in entries if metric in entry["metrics"]]
    curve: Curve = []
    for time, value in sorted(told):
        after = (time - began) / 3600
        if after <= hours and (not curve or value > curve[-1][1]):
            curve.append((after, value))
    return curve


def at(curve: Sequence[Sequence[float]], hour: float) -> float | None:
    """The best until then; None before the first validation."""
    values = [value for when, value in curve if when <= hour]
    return values[-1] if values else None


def first(curve: Sequence[Sequence[float]], value: float) -> float | None:
    """The hour at which a value was reached."""
    return next((when for when, best in curve if best >= value), None)


def band(curves: Sequence[Sequence[Sequence[float]]], hours: Sequence[float]) -> list[tuple[float, float, float, float]]:
    """(hour, mean, least, largest) over the curves, at those hours at which all have a value."""
    found = []
    for hour in hours:
        values = [value for curve in curves if (value := at(curve, hour)) is not None]
        if len(values) == len(curves):
            found.append((hour, sum(values) / len(values), min(values), max(values)))
    return found


if __name__ == "__main__":
    sys.exit(_common.main("asha", __doc__ or "", measure, add_arguments))
