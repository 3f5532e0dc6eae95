"""Names and folders of runs and searches: `runs/<recipe>-<fingerprint>-<attempt>/`, stable over retries."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from components import storage
from components.config import Recipe
from components.errors import InputError


def create(recipe: Recipe, kind: str = "runs") -> Path:
    """The folder of a new run, or of one of the `searches`, with the recipe in it; creating it is what claims the name."""
    runs = Path(recipe.scale.storage_path) / kind
    runs.mkdir(parents=True, exist_ok=True)
    while True:
        folder = runs / f"{recipe.name}-{recipe.fingerprint()}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
        try:
            folder.mkdir()
            break
        except FileExistsError:
            time.sleep(1)
    storage.write_text(folder / "recipe.json", recipe.to_json())
    return folder


def find(recipe: Recipe, run: str | None) -> Path:
    """The folder of a finished run: as `named` has it, or by default the newest of this very recipe.

    Raises:
        InputError: there is none; names the runs of the same name, which differ in what they compute.
    """
    if run is not None:
        return named(run, recipe.scale.storage_path)
    finished = _finished(recipe.scale.storage_path)
    own = {folder: about["finished"] for folder, about in finished.items() if about["recipe"] == recipe.fingerprint()}
    if not own:
        others = sorted(folder.name for folder, about in finished.items() if about["name"] == recipe.name)
        differ = f" (there are, of other settings: {', '.join(others)})" if others else ""
        raise InputError(
            f"{recipe.scale.storage_path}/runs: no finished run of {recipe.name} {recipe.fingerprint()}{differ}; "
            "train one, or name one with --run"
        )
    return max(own, key=lambda folder: own[folder])


def named(run: str, storage_path: str, option: str = "--run") -> Path:
    """The folder of a run: a path, or the MLflow id, or the address of the MLflow page, of a finished one in a storage path.

    Raises:
        InputError: it is none of them.
    """
    if Path(run).is_dir():
        return Path(run).absolute()
    page = re.search(r"://.*/runs/(\w+)", run)
    run_id = page[1] if page else run
    folders = [folder for folder, about in _finished(storage_path).items() if about["mlflow_run_id"] == run_id]
    if not folders:
        raise InputError(f"{option}: got {run!r}, takes a run's folder or the MLflow id of a run in {storage_path}")
    return folders[0]


def _finished(storage_path: str) -> dict[Path, dict[str, Any]]:
    """Every finished run with its manifest."""
    folders = Path(storage_path, "runs").glob("*-*-*")
    return {folder: storage.read_json(folder / storage.MANIFEST) for folder in folders if storage.is_finished(folder)}
