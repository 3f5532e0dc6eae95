"""A comparison as one HTML page: what was compared, its tables and pictures, and every run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.evaluation.comparison import Difference, Interval, excludes_zero
from components.reports import tables
from components.reports.page import Link, Page

COST = ("epochs", "seconds per epoch", "training", "parameters", "µs per user to encode", "to rank")


def html(
    about: Mapping[str, Any],
    apart: Mapping[str, Mapping[str, Difference]],
    notes: Sequence[str],
    pictures: Mapping[Path, str],
    addresses: Mapping[str, str],
    footer: str,
) -> str:
    """The page's text.

    Args:
        about: what compare.json says.
        apart: of each system but the baseline, its difference by metric.
        notes: what a reader of intervals must know.
        pictures: PNG files and what they show.
        addresses: of runs' MLflow pages, by their folder; those that have one.
        footer: how the page was made.
    """
    systems, metrics = about["systems"], list(about["systems"][0]["metrics"])
    several = about["baseline"] if len(systems) > 2 else f"{about['baseline']} and {systems[1]['name']}"
    others = f" and {len(systems) - 1} others" if len(systems) > 2 else ""
    page = Page(f"{several}{others} on {about['split']}, {about['protocol']}")
    page.text(
        f"{len(systems)} systems, ranked for the same {about['users']:,} users of the split {about['split']} of dataset "
        f"{about['dataset']}, {about['protocol']}. Baseline: {about['baseline']}. A system is a recipe with all its seeds."
    )
    page.heading("Systems")
    page.text("Mean over seeds ± standard deviation, and what a training cost on average.")
    header = ["", "seeds", *metrics, *COST, "workers", "fit on", "epoch chosen on"]
    page.table(header, (_system(system, metrics) for system in systems))
    page.heading(f"Differences from {about['baseline']}")
    header = ["", "metric", "difference", "%", "interval over users", "over seeds and users"]
    page.table(header, _differences(apart))
    page.text(" ".join(f"{note[0].upper()}{note[1:]}." for note in notes))
    for path, says in pictures.items():
        page.picture(path, says)
    page.heading("Runs")
    folder = Path(os.path.commonpath([Path(run["folder"]).parent for system in systems for run in system["runs"]]))
    page.text(f"Each seed's values; their folders are below {folder}.")
    header = ["", "seed", *metrics, "epoch chosen", *COST, "commit", "MLflow"]
    page.table(header, _runs(systems, metrics, addresses, folder))
    return page.html(footer)


def _system(system: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
    values = [_with_deviation(**{key: system["metrics"][name][key] for key in ("mean", "deviation")}) for name in metrics]
    trained = (system["workers"], system["fit_on"], system["chosen_on"])
    return [system["name"], str(len(system["runs"])), *values, *_cost(system["cost"]), *trained]


def _cost(of: Mapping[str, float | None]) -> list[str]:
    inference = (of[name] for name in ("parameters", "encode", "rank"))
    return [*tables.cost(of), *("-" if value is None else f"{value:,.0f}" for value in inference)]


def _with_deviation(mean: float, deviation: float | None) -> str:
    return f"{mean:.4f}" if deviation is None else f"{mean:.4f} ± {deviation:.4f}"


def _differences(apart: Mapping[str, Mapping[str, Difference]]) -> Iterator[list[str]]:
    """A system's first row has its name."""
    for name, values in apart.items():
        for n, (metric, found) in enumerate(values.items()):
            cells = [tables.signed(found.value), tables.percent(found.relative)]
            intervals = [_interval(bounds) for bounds in (found.over_users, found.over_seeds_and_users)]
            yield [name if n == 0 else "", metric, *cells, *intervals]


def _interval(bounds: Interval | None) -> str:
    if bounds is None:
        return "one seed"
    return f"{tables.signed(bounds[0])} to {tables.signed(bounds[1])}" + " *" * excludes_zero(bounds)


def _runs(
    systems: Sequence[Mapping[str, Any]], metrics: Sequence[str], addresses: Mapping[str, str], below: Path
) -> Iterator[list[str | Link]]:
    for system in systems:
        for run in system["runs"]:
            values = [f"{system['metrics'][name]['by_seed'][str(run['seed'])]:.4f}" for name in metrics]
            values += [str(run["cost"]["best_epoch"]), *_cost(run["cost"]), run["commit"][:9]]
            tracked, address = run["mlflow_run_id"][:8], addresses.get(run["folder"])
            own = str(Path(run["folder"]).relative_to(below))
            yield [own, str(run["seed"]), *values, Link(tracked, address) if address else tracked]
