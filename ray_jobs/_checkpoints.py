"""Ray Train's list of checkpoints in a run's folder, made to survive kills.

Ray writes the list in place, before it deletes what is no longer on it: a kill in the middle leaves half a list, and Ray then
refuses the whole run. So the controller keeps a copy of each list once it is written.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from components import storage

LIST = "checkpoint_manager_snapshot.json"
KEPT = ".checkpoints.json"


def keep(run: Path) -> None:
    """Copies the list, which is whole now."""
    storage.write_text(run / KEPT, (run / LIST).read_text(encoding="utf-8"))


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
    """Deletes checkpoints that a killed worker or controller left behind: those that are not on the list."""
    listed = json.dumps(storage.read_json(run / LIST))
    for folder in run.glob("checkpoint_*"):
        if folder.is_dir() and folder.name not in listed:
            shutil.rmtree(folder)
    (run / KEPT).unlink(missing_ok=True)
