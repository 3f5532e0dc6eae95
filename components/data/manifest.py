"""What a dataset is called, and what its manifest says."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components import storage
from components.config import SPLITS, Recipe
from components.data import shifted, sources, vocabulary
from components.data.cleaning import Counts
from components.data.files import SourceFile
from components.data.sources import SourcePlan
from components.data.statistics import DatasetStatistics
from components.errors import InputError
from components.split_rules import GivenSplit, RatioSplit, ShiftedSplit, Split

WORK = ".work"  # the folder of a dataset that is being made
LAYOUT = 3  # raised when the same rules and source give other bytes


def uses_seed(recipe: Recipe) -> bool:
    """Whether a random draw decides the split."""
    split = recipe.data.split
    if isinstance(split, GivenSplit):
        return split.valid_fraction > 0
    return isinstance(split, ShiftedSplit) or (isinstance(split, RatioSplit) and split.order == "random")


def all_sources(recipe: Recipe, plan: SourcePlan) -> list[dict[str, Any]]:
    """Every file that is read: the log's and the titles'."""
    titles = recipe.data.titles
    extra: list[SourceFile] = [vocabulary.check_titles(titles, recipe.data.encoding)] if titles else []
    return plan.describe() + SourcePlan(tuple(extra), "string", "string", None).describe()


def fingerprint(recipe: Recipe, plan: SourcePlan) -> str:
    """Twelve hex digits of the rules, the seed where it matters, and the source's paths, sizes, times and footers."""
    what = {
        "layout": LAYOUT,
        "rules": recipe.data.settled(),
        "seed": recipe.seed if uses_seed(recipe) else None,
        "sources": all_sources(recipe, plan),
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]


def dataset_path(recipe: Recipe, plan: SourcePlan | None = None) -> Path:
    """Where the recipe's dataset is, or will be.

    Raises:
        InputError: the source is not there or not readable.
    """
    plan = plan or sources.inspect(recipe.data)
    return Path(recipe.scale.storage_path) / "datasets" / fingerprint(recipe, plan)


def split_names(counts: Counts, rule: Split) -> list[str]:
    """train, valid, test, then the source's or the rule's further ones, ascending: their positions are the splits' codes."""
    further = shifted.names(rule) if isinstance(rule, ShiftedSplit) else counts.splits
    return [*SPLITS, *sorted(set(further) - set(SPLITS))]


def is_current(folder: Path) -> bool:
    """Whether the dataset is finished. What a process that was killed right then left of its making is removed."""
    if not storage.is_finished(folder):
        return False
    shutil.rmtree(folder / WORK, ignore_errors=True)
    storage.remove_dead_lock(folder)
    return True


def refuse_if_empty(
    rows: int, counts: Counts, stage: str, rounds: Sequence[dict[str, int]] = (), bad_files: Sequence[str] = ()
) -> None:
    """Raises InputError with the counts at every stage where no row is left."""
    if rows:
        return
    lines = [f"data: no row is left after {stage}: read {counts.read}, kept {counts.kept}"]
    lines += [f"  put aside: {len(bad_files)} files, as {bad_files[0]}"] if bad_files else []
    lines += [f"  filtered: {number} fail {rule!r}" for rule, number in sorted(counts.filtered.items())]
    lines += [f"  quarantined: {number} because {reason}" for reason, number in sorted(counts.quarantined.items())]
    lines += [f"  k-core round {n}: {r['users']} users, {r['items']} items, {r['rows']} rows" for n, r in enumerate(rounds, 1)]
    raise InputError("\n".join(lines))


def compose(
    recipe: Recipe,
    plan: SourcePlan,
    name: str,
    counts: Counts,
    distinct_rows: int,
    rounds: list[dict[str, int]],
    statistics: DatasetStatistics,
    titled: int,
    found: dict[str, Any],
) -> dict[str, Any]:
    """The manifest, apart from the list of files. `found` is what else was found out."""
    counts.check()
    left, unknown = statistics.rows.total(), statistics.dropped.total()
    core = rounds[-1]["rows"]
    assert core == left + unknown, f"k-core left {core} rows, {left} were written and {unknown} dropped as unknown"
    return {
        "kind": "dataset",
        "layout": LAYOUT,
        "fingerprint": name,
        "num_users": statistics.users,
        "num_items": len(statistics.degree),
        "rows": dict(statistics.rows),
        "has_time": plan.time_kind is not None,
        "counts": {
            "read": counts.read,
            "kept": counts.kept,
            "filtered": dict(counts.filtered),
            "quarantined": dict(counts.quarantined),
            "repeats": counts.kept - distinct_rows,
            "k_core": distinct_rows - core,
            "k_core_rounds": rounds,
            "unknown": dict(statistics.dropped),
            "left": left,
        },
        **found,
        "rules": recipe.data.model_dump(mode="json"),
        "seed": recipe.seed if uses_seed(recipe) else None,
        "sources": all_sources(recipe, plan),
        "statistics": {**statistics.describe(plan.time_kind), "items_with_title": titled},
    }
