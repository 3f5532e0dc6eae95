"""Small searches, and what a test asks of one: its trials' folders, how they ended, their MLflow runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.config import Recipe
from ray_jobs import _found, _tracking
from tests.integration import training

TOO_LARGE = 10**12  # a width that no memory holds
CPUS = 2  # of a trial's worker: two trials at once in the tests' cluster of four
SLOW = {"batch_size": 4, "patience": 100, "checkpoint_steps": None}  # a third of a second an epoch of the small log


def recipe(source: Path, store: Path, search: dict[str, Any], **sections: Any) -> Recipe:
    scale = {"storage_path": str(store), "num_workers": 1, "cpus_per_worker": CPUS}
    return training.recipe(source, store, **{"search": search, "scale": scale, **sections})


def newest(store: Path) -> Path | None:
    """The search that began last, once it has trials."""
    begun = [folder for folder in (store / "searches").glob("*-*-*") if _found.runs(folder)]
    return max(begun, key=lambda folder: folder.stat().st_mtime, default=None)


def ended(folder: Path) -> dict[str, list[Path]]:
    """Trials by how they ended."""
    found: dict[str, list[Path]] = {}
    for run in _found.runs(folder):
        found.setdefault(_found.ended(run), []).append(run)
    return found


def children(folder: Path) -> dict[str, Any]:
    """The MLflow runs below a search's, by name."""
    parent = _tracking.attach(folder)
    client = _tracking.client(parent.tracking_uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
    return {run.info.run_name: run for run in runs}
