"""What a search found, read from its folder alone: how each trial ended, what it was given and what it reached."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components import space, storage
from components.config import Recipe
from components.errors import FailedError
from components.search import Trial
from ray_jobs import _mlflow, _tracking, _trials

LONGEST_REASON = 200


def runs(folder: Path) -> list[Path]:
    """The folders of trials that have begun, in the order of their names."""
    return sorted(run for run in (folder / _trials.TRIALS).glob("*") if (run / _trials.POINT).exists())


def ended(run: Path) -> str:
    """finished, stopped (by scheduler or budget), failed; empty of a trial that goes on, or was interrupted."""
    if (run / _trials.FAILED).exists():
        return "failed"
    if storage.is_finished(run):
        return "finished"
    return "stopped" if (run / _tracking.STOPPED).exists() else ""


def has_left(run: Path) -> bool:
    """Whether it has ended, and not merely been asked to; or was interrupted, and nobody goes on with it."""
    return ended(run) in ("failed", "finished") or (run / _trials.LEFT).exists()


def trials(folder: Path) -> list[Trial]:
    base = Recipe.from_json((folder / "recipe.json").read_text(encoding="utf-8"))
    return [trial(run, base) for run in runs(folder)]


def trial(run: Path, base: Recipe) -> Trial:
    """What one trial of the search of this recipe came to, or has come to so far."""
    began = (run.parents[1] / "recipe.json").stat().st_mtime
    history, how = _tracking.read_history(run), ended(run)
    standing = {} if how == "failed" else _trials.standing(history, base)
    marks = [run / name for name in (_trials.FAILED, _tracking.STOPPED, storage.MANIFEST, _tracking.HISTORY)]
    last = max((mark.stat().st_mtime for mark in marks if mark.exists()), default=began)
    failed = failure(run)
    return Trial(
        name=run.name,
        ended=how,
        hours=(last - began) / 3600,
        values=space.leaves(storage.read_json(run / _trials.POINT)),
        score=standing.get(_trials.SCORE),
        against=standing.get(_trials.AGAINST),
        epochs=history[-1]["step"] if history else 0,
        reason=f"{failed['kind']}, {failed['reason'][:LONGEST_REASON]}" if failed else "",
    )


def best(found: Sequence[Trial]) -> Trial:
    """The trial of the highest score.

    Raises:
        FailedError: no trial was validated once.
    """
    scored = [trial for trial in found if trial.score is not None]
    if not scored:
        raise FailedError(
            f"search: none of {len(found)} trials was validated once; takes a budget for at least one validation "
            f"(search.hours, training.validate_every); what failed is in {_trials.TRIALS}/*/{_trials.FAILED}"
        )
    return max(scored, key=lambda trial: trial.score or 0.0)


def failure(run: Path) -> dict[str, str] | None:
    """{kind, reason} of a trial that failed."""
    return storage.read_json(run / _trials.FAILED) if (run / _trials.FAILED).exists() else None


def tracebacks(folder: Path) -> dict[str, str]:
    """The traceback of the first trial of each kind of failure that said something else than other numbers, as of the epoch in
    which it diverged; by the trial and what it said.
    """
    first: dict[tuple[str, str], tuple[Path, str]] = {}
    for run in runs(folder):
        if failed := failure(run):
            first.setdefault((failed["kind"], re.sub(r"\d+", "", failed["reason"])), (run, failed["reason"]))
    return {
        f"{run.name}: {kind}, {reason[:LONGEST_REASON]}": (run / _trials.TRACEBACK).read_text(encoding="utf-8")
        for (kind, _), (run, reason) in first.items()
    }


def failures(folder: Path) -> str:
    """How many failed of each kind, and what the first of each said."""
    first: dict[str, str] = {}
    kinds = Counter[str]()
    for run in runs(folder):
        if failed := failure(run):
            kinds[failed["kind"]] += 1
            first.setdefault(failed["kind"], f"{run.name}: {failed['reason'][:LONGEST_REASON]}")
    return "; ".join(f"{number} {kind} ({first[kind]})" for kind, number in kinds.most_common())


def sweep(folder: Path) -> None:
    """Deletes the checkpoints of trials that ended early, or that nobody goes on with."""
    for run in runs(folder):
        if ended(run) in ("stopped", "failed") or (run / _trials.LEFT).exists():
            for checkpoint in run.glob("checkpoint_2*"):
                shutil.rmtree(checkpoint)


def close(folder: Path) -> None:
    """Ends the MLflow run of every trial that did not end its own, as its folder says, and one that was created just before a
    kill, of which no folder knows: none stays RUNNING.
    """
    begun, search = runs(folder), _tracking.attach(folder)
    for run in begun:
        if not (run / _tracking.LINKS).exists() or not _tracking.is_running(run):
            continue
        if ended(run) == "failed":
            _tracking.end(_tracking.attach(run), run, "FAILED", (failure(run) or {})["reason"])
        else:
            _tracking.end_left(run)
    known = [_tracking.attach(run) for run in begun if (run / _tracking.LINKS).exists()]
    with _tracking.saying(search, folder / _trials.TRIALS):
        for left in _running_below(search):
            if left not in known:
                left.end("KILLED", "the driver was killed")


def _running_below(search: _tracking.TrackedRun) -> list[_tracking.TrackedRun]:
    running = f"tags.`mlflow.parentRunId` = '{search.run_id}' and attributes.status = 'RUNNING'"

    def ask(mlflow: Any) -> list[Any]:
        return mlflow.search_runs([mlflow.get_run(search.run_id).info.experiment_id], running)

    found = _mlflow.patiently(search.tracking_uri, ask)
    return [_tracking.TrackedRun(search.tracking_uri, run.info.run_id) for run in found]
