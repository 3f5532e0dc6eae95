"""Names and folders of runs and searches: `runs/<recipe>-<fingerprint>-<attempt>/`, stable over retries.

An attempt is named by the clock, so that each start of a program is another one; or by HARDNEG_ATTEMPT, which a RayJob has from
its own name: then a program that is started again goes on with what an earlier try has left.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

from components import storage
from components.config import Recipe
from components.errors import InputError
from ray_jobs import _tracking

ATTEMPT = "HARDNEG_ATTEMPT"


def create(recipe: Recipe, kind: str = "runs") -> Path:
    """The folder of a new run, or of one of the `searches`, with the recipe in it; creating it is what claims the name. That of
    a named attempt may be there: an earlier try died before anything had begun, and the folder's lock is what claims it.

    Raises:
        InputError: HARDNEG_ATTEMPT is no name.
    """
    while True:
        kept = _of_attempt(recipe, kind)
        folder = kept or _folder(recipe, kind, time.strftime("%Y%m%d-%H%M%S", time.gmtime()))
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir(exist_ok=kept is not None)
            break
        except FileExistsError:
            time.sleep(1)
    storage.write_text(folder / "recipe.json", recipe.to_json())
    return folder


def begun(recipe: Recipe, kind: str = "runs") -> Path | None:
    """The folder of what an earlier try of a named attempt has begun, and maybe finished.

    Raises:
        InputError: HARDNEG_ATTEMPT is no name.
    """
    folder = _of_attempt(recipe, kind)
    if folder is None or not (folder / _tracking.LINKS).is_file():
        return None
    print(f"{folder}: begun by an earlier try of {ATTEMPT}={os.environ[ATTEMPT]}", flush=True)
    return folder


def require_begun(folder: Path, kind: str, asked_by: str) -> None:
    """Raises InputError where no run, or no search, was begun in this folder; `asked_by` is what names it."""
    links = folder / _tracking.LINKS
    if not links.is_file() or storage.read_json(links).get("kind") != kind:
        raise InputError(f"{asked_by}: got {folder}, takes the folder of a {kind} that was started")


def _of_attempt(recipe: Recipe, kind: str) -> Path | None:
    attempt = os.environ.get(ATTEMPT)
    if not attempt:
        return None
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", attempt):
        raise InputError(f"{ATTEMPT}: got {attempt!r}, takes letters, digits, '_', '.' and '-' (a letter or digit first)")
    return _folder(recipe, kind, attempt)


def _folder(recipe: Recipe, kind: str, attempt: str) -> Path:
    return Path(recipe.scale.storage_path, kind, f"{recipe.name}-{recipe.fingerprint()}-{attempt}")


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
