"""Ray Train's list of checkpoints in a run's folder, made to survive kills.

Ray writes the list in place, before it deletes what is no longer on it: a kill in the middle leaves half a list, and Ray then
refuses the whole run. So the controller keeps a copy of each list once it is written.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from components import storage
from components.errors import InputError
from components.training import checkpoint

LIST = "checkpoint_manager_snapshot.json"
KEPT = ".checkpoints.json"
BEGUN = "begun"  # the checkpoint that a run begins with, where it extends another


def keep(run: Path) -> None:
    """Copies the list, which is whole now."""
    storage.write_text(run / KEPT, (run / LIST).read_text(encoding="utf-8"))


def copy_last(finished: Path, run: Path) -> None:
    """A new run begins where a finished one ended: with its newest checkpoint and its best weights so far. A copy that a kill
    cut short is made whole.
    """
    shutil.copytree(_last(finished), run / BEGUN, dirs_exist_ok=True)
    shutil.copy2(finished / "recipe.json", run / BEGUN)
    shutil.copytree(finished / "model", run / "model", dirs_exist_ok=True)


def last_position(finished: Path) -> dict[str, Any]:
    """Where a finished run's training stood."""
    return storage.read_object(_last(finished) / checkpoint.POSITION, "a position as training writes it")["position"]


def _last(finished: Path) -> Path:
    found = max(finished.glob("checkpoint_2*"), default=None)
    if found is None:
        raise InputError(f"--extend: {finished} has no checkpoint left, takes a run that has one")
    return found


def mend(run: Path) -> None:
    """Puts the copy in the place of half a list; its checkpoints are all there."""
    try:
        if (run / LIST).exists():
            storage.read_json(run / LIST)
    except json.JSONDecodeError:
        if (run / KEPT).exists():
            (run / KEPT).replace(run / LIST)
        else:
            (run / LIST).unlink()


def sweep(run: Path) -> None:
    """Deletes checkpoints that nothing needs: what a killed worker or controller left behind, and what a run began with."""
    listed = json.dumps(storage.read_json(run / LIST))
    for folder in run.glob("checkpoint_*"):
        if folder.is_dir() and folder.name not in listed:
            shutil.rmtree(folder)
    (run / KEPT).unlink(missing_ok=True)
    shutil.rmtree(run / BEGUN, ignore_errors=True)
