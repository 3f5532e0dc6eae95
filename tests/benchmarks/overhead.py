"""What a search costs beside training: (wall time x places - sum of training time) / trials, and where it goes.

python -m tests.benchmarks.overhead [--quick] [--keep]

32 trials of gowalla_mf_ssm on two places, five epochs each (about 70 s on one thread), by the program, with a new Ray and a new
MLflow database. Wall time is that of the whole program; the data are prepared before. A trial trains from its first step to the
end of its last epoch, validations included. The time that places do not train is cut at what the trials' files tell
(_spans.py), so that the parts add up to the whole. Limit: 15 s for each trial. `--quick`: four trials of seconds, on Coat.
Needs HARDNEG_DATA.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ray_jobs import _found
from tests.benchmarks import _common, _programs, _spans

LIMIT, SLOTS, TRIALS, SEED = 15, 2, 32, 1
RECIPE, LENGTH = "gowalla_mf_ssm", ("training.epochs=5", "training.validate_every=5")
QUICK_RECIPE, QUICK_LENGTH, QUICK_TRIALS = "coat_mf_infonce", ("training.epochs=100",), 4
LEAST_TRAINING = 60  # seconds of a trial, for which the limit is meant
SPACE = {"loss.temperature": {"loguniform": [0.06, 0.12]}}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    recipe, length = (QUICK_RECIPE, QUICK_LENGTH) if arguments.quick else (RECIPE, LENGTH)
    trials = QUICK_TRIALS if arguments.quick else TRIALS
    how = (f"search.space={json.dumps(SPACE)}", "search.searcher=random", f"search.trials={trials}", f"seed={SEED}")
    with tempfile.TemporaryDirectory(prefix="hardneg-overhead-") as folder:
        path, changes = _programs.recipe(recipe), [f"scale.storage_path={folder}", *length, *how]
        _programs.start("prepare", path, changes)
        started = time.time()
        _programs.start("tune", path, changes, **_programs.cpus(SLOTS))
        ended = time.time()
        (search,) = (Path(folder) / "searches").iterdir()
        runs = _found.runs(search)
        if [_found.ended(run) for run in runs] != ["finished"] * trials:
            raise RuntimeError(f"takes {trials} finished trials: {_found.failures(search)}")
        spans = [_spans.of(run) for run in runs]
        up = (search / "recipe.json").stat().st_mtime
    parts = _spans.untrained(spans, SLOTS, started, up, ended)
    training = [span.training for span in spans]
    each = (SLOTS * (ended - started) - sum(training)) / trials
    figures = {
        "recipe": recipe,
        "changes": [*length],
        "trials": trials,
        "slots": SLOTS,
        "limit": LIMIT,
        "least_training": LEAST_TRAINING,
        "wall_seconds": ended - started,
        "training_seconds": training,
        "overhead_seconds": each,
        "parts": {name: seconds / trials for name, seconds in parts.items()},
        "of_a_trial": of_a_trial(spans),
    }
    _common.say(f"{each:.1f} s beside {statistics.fmean(training):.0f} s of training for each trial (limit {LIMIT} s)")
    return {"seeds": [SEED], "figures": figures}


def of_a_trial(spans: list[_spans.Span]) -> dict[str, float]:
    """Medians of what a trial waits for, much of it while others train."""
    stages = {
        "its MLflow run begins": [span.tracked - span.process for span in spans],
        "its controller starts, it waits for a place, the worker's process starts": [
            span.began - span.tracked for span in spans
        ],
        "data and model": [span.loaded - span.began for span in spans],
        "the first step": [span.first_step - span.loaded for span in spans],
        "training": [span.training for span in spans],
        "the last report is kept": [span.told - span.trained for span in spans],
        "the rest, until all is written": [span.finished - span.told for span in spans],
    }
    return {name: statistics.median(seconds) for name, seconds in stages.items()}


if __name__ == "__main__":
    sys.exit(_common.main("overhead", __doc__ or "", measure))
