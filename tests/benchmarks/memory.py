"""What a search's trials hold in memory, and that the prepared data are there once: 8 trials at a time on Gowalla against 1.

python -m tests.benchmarks.memory [--quick] [--keep] [--trials 8]

gowalla_mf_ssm by the program, on a Ray with as many places as trials, whatever cores there are. While all of them train, every
process below the program is looked at a few times, and the look with the most is kept: its proportional set size (PSS: a page
that n processes map counts 1/n for each), and of it the files of the dataset's cache. A page that each trial had loaded for
itself would count once for each; one that all map counts once. `--quick`: 2 trials against 1. Needs HARDNEG_DATA and Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from components import storage
from ray_jobs import _found, _workers
from tests.benchmarks import _common, _programs
from tests.benchmarks.overhead import RECIPE, SPACE

TRIALS, SEED, EPOCHS, LOOK_SECONDS, MIB = 8, 1, 2, 4.0, 2**20
OF_A_TRIAL = {  # by what its command line has
    "the trial's own process": "ImplicitFunc",
    "Train's controller": "TrainController",
    "the worker": "RayTrainWorker",
    "MLflow's guard": "ray_jobs._guard",
}
REST = "the program and Ray"


class Mapped(NamedTuple):
    """One file in the memory of one process, bytes: of `rss`, `private` is its own, `pss` its share."""

    path: str
    rss: int
    pss: int
    private: int


class Process(NamedTuple):
    command: str
    files: list[Mapped]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trials", type=int, default=TRIALS)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    most = 2 if arguments.quick else arguments.trials
    looks = {number: _searched(number, 1 if arguments.quick else EPOCHS) for number in (1, most)}
    (one, cached), (many, _) = looks[1], looks[most]
    figures = {
        "recipe": RECIPE,
        "trials": most,
        "cache_mib": cached / MIB,
        "looks": {str(number): look for number, (look, _) in looks.items()},
        "mib_for_each_further_trial": (many["mib"] - one["mib"]) / (most - 1),
    }
    _common.say(json.dumps(figures))
    return {"seeds": [SEED], "figures": figures}


def _searched(trials: int, epochs: int) -> tuple[dict[str, Any], int]:
    """What was in memory while so many trials trained, and the bytes of the dataset's cache."""
    with tempfile.TemporaryDirectory(prefix="hardneg-memory-") as folder:
        path, cache = _programs.recipe(RECIPE), str(Path(folder) / "cache")
        length = (f"training.epochs={epochs}", f"training.validate_every={epochs}", f"seed={SEED}")
        how = (f"search.space={json.dumps(SPACE)}", "search.searcher=random", f"search.trials={trials}")
        changes = [f"scale.storage_path={folder}", *length, *how]
        _programs.start("prepare", path, changes)
        own = {"HARDNEG_CACHE": cache, **_programs.cpus(trials)}
        looks = []
        with _programs.begun("tune", path, changes, **own) as program:
            while not _ended(program):
                if _training(Path(folder) / "searches") == trials:
                    looks.append(look(_processes(psutil.Process(program.pid)), cache, trials))
                    _common.say(f"{trials} trials at once: {looks[-1]['mib']:.0f} MiB")
        if program.returncode or not looks:
            raise RuntimeError(f"tune ended with {program.returncode}; {len(looks)} looks at {trials} trials at once")
        cached = sum(file.stat().st_size for file in Path(cache).rglob("*.npy"))
    return max(looks, key=lambda each: each["mib"]), cached


def _ended(program: subprocess.Popen[bytes]) -> bool:
    """After a while."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        program.wait(LOOK_SECONDS)
    return program.returncode is not None


def _training(searches: Path) -> int:
    """Trials that have done a step and not all."""
    runs = [run for search in searches.glob("*") for run in _found.runs(search)]
    seen = [storage.read_json(run / _workers.PROGRESS) for run in runs if (run / _workers.PROGRESS).exists()]
    return sum(not each["finished"] for each in seen)


def _processes(program: psutil.Process) -> list[Process]:
    """It and all below it."""
    found = []
    for process in [program, *program.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            maps: list[Any] = process.memory_maps(grouped=True)
            files = [Mapped(each.path, each.rss, each.pss, each.private_clean + each.private_dirty) for each in maps]
            found.append(Process(" ".join(process.cmdline()), files))
    return found


def look(processes: Iterable[Process], cache: str, trials: int) -> dict[str, Any]:
    """MiB of all processes; for each trial by kind of process, and how many these are; and of the files below `cache`.

    Of these, `rss` is what the processes see, all added up, `pss` what it takes, and `private` what a single one sees.
    """
    kinds = dict.fromkeys([*OF_A_TRIAL, REST], 0.0)
    numbers = dict.fromkeys(kinds, 0)
    mapped = dict.fromkeys(("rss", "pss", "private"), 0.0)
    for process in processes:
        kind = kind_of(process.command)
        kinds[kind] += sum(file.pss for file in process.files) / MIB
        numbers[kind] += 1
        for file in process.files:
            if file.path.startswith(f"{cache}/"):
                for what in mapped:
                    mapped[what] += getattr(file, what) / MIB
    return {
        "trials": trials,
        "mib": sum(kinds.values()),
        "mib_by_trial": sum(kinds[kind] for kind in OF_A_TRIAL) / trials,
        "kinds": kinds,
        "processes": numbers,
        "mapped_mib": mapped,
    }


def kind_of(command: str) -> str:
    """What a process of a search is, by its command line."""
    return next((kind for kind, has in OF_A_TRIAL.items() if has in command), REST)


if __name__ == "__main__":
    sys.exit(_common.main("memory", __doc__ or "", measure, add_arguments))
