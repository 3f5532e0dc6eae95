"""Which rows a split asks for and which are hidden there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components import storage
from components.config import SPLITS, is_split
from components.data import interactions
from components.data.interactions import Interactions
from components.errors import InputError
from components.evaluation.evaluate import Task


def task_of(dataset: Path, split: str, name: str = "--split") -> Task:
    """The task of a held-out split: at valid or valid_NAME, train is seen; at test or test_NAME, every other split.

    Histories are train, at a test train and valid: other tests are no part of them.

    An item of the split itself is asked for even where it is seen too (`Task`).

    Raises:
        InputError: the dataset has no such split, or no row in it.
    """
    names = require(dataset, storage.open_finished(dataset, "dataset"), split, name)
    is_validation = split.partition("_")[0] == "valid"
    seen = ["train"] if is_validation else [name for name in names if name != split]
    before = [name for name in seen if name in ("train", "valid")]
    own = None if before == seen else interactions.load(dataset, *before)
    return Task(interactions.load(dataset, split), interactions.load(dataset, *seen), own)


def unmasked(task: Task) -> Task:
    """The same question where nothing is masked: items of the user's own history may be listed."""
    size, items = task.seen.num_users, task.seen.num_items
    return Task(task.truth, Interactions.of([], [], size, items), task.history)


def is_ordered(dataset: Path) -> bool:
    """Whether held-out rows came after what is seen: a user's last rows, or rows with times that no chance held out."""
    manifest = storage.open_finished(dataset, "dataset")
    split = manifest["rules"]["split"]
    by_time = {"temporal": True, "ratio": split.get("order") == "time", "given": not split.get("valid_fraction")}
    return split["by"] == "leave_one_out" or (manifest["has_time"] and by_time.get(split["by"], False))


def require(dataset: Path | str, manifest: dict[str, Any], split: str, name: str) -> list[str]:
    """The splits of a dataset by its manifest, of which `split` is one that is held out and has rows.

    Raises:
        InputError: it is not; `name` is the key that asks for it.
    """
    names = _splits(dataset, manifest)
    held_out = [known for known in names if known != "train"]
    if split not in held_out:
        raise InputError(f"{name}: got {split!r}, takes one of {', '.join(held_out) or 'none, for all rows are in train'}")
    return names


def known(dataset: Path) -> Interactions:
    """Every row of every split: what a user has consumed already and is not recommended again."""
    return interactions.load(dataset, *_splits(dataset, storage.open_finished(dataset, "dataset")))


def _splits(dataset: Path | str, manifest: dict[str, Any]) -> list[str]:
    """Splits that have rows, in the manifest's order: train, valid, test, further ones.

    Raises:
        InputError: one is none: its name becomes a folder's, there and in the cache, and could lead out of both.
    """
    rows = manifest["rows"]
    found = [name for name in (*SPLITS, *sorted(set(rows) - set(SPLITS))) if rows.get(name)]
    if wrong := [name for name in found if not is_split(name)]:
        takes = "takes train, valid, test, valid_NAME and test_NAME"
        raise InputError(f"dataset {dataset}: {storage.MANIFEST} has rows of {wrong[0]}, {takes}")
    return found
