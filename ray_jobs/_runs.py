"""Names and folders of runs: `runs/<recipe>-<fingerprint>-<attempt>/`, stable over retries and new for each new run."""

from __future__ import annotations

import time
from pathlib import Path

from components import storage
from components.config import Recipe
from components.errors import InputError


def create(recipe: Recipe) -> Path:
    """A new run's folder, with the recipe in it; creating it is what claims the name."""
    runs = Path(recipe.scale.storage_path) / "runs"
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
    """The folder of a finished run: a path, an MLflow run id, or by default the newest of this very recipe.

    Raises:
        InputError: there is none; names the runs of the same name, which differ in what they compute.
    """
    if run is not None and Path(run).is_dir():
        return Path(run).absolute()
    folders = (Path(recipe.scale.storage_path) / "runs").glob("*-*-*")
    finished = {folder: storage.read_json(folder / storage.MANIFEST) for folder in folders if storage.is_finished(folder)}
    if run is not None:
        named = [folder for folder, manifest in finished.items() if manifest["mlflow_run_id"] == run]
        if not named:
            raise InputError(
                f"--run: got {run!r}, takes a run's folder or the MLflow id of a run in {recipe.scale.storage_path}"
            )
        return named[0]
    own = {folder: about["finished"] for folder, about in finished.items() if about["recipe"] == recipe.fingerprint()}
    if not own:
        others = sorted(folder.name for folder, about in finished.items() if about["name"] == recipe.name)
        differ = f" (there are, of other settings: {', '.join(others)})" if others else ""
        raise InputError(
            f"{recipe.scale.storage_path}/runs: no finished run of {recipe.name} {recipe.fingerprint()}{differ}; "
            "train one, or name one with --run"
        )
    return max(own, key=lambda folder: own[folder])
