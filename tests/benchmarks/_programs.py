"""The project's own programs, started by benchmarks; finished runs are taken as they are, shorter ones of a recipe extended.

A run or search of a dataset that is prepared otherwise by now is another's.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

from components import config, storage
from components.config import Recipe
from components.data import manifest
from components.errors import InputError
from ray_jobs import _tracking, _training
from tests.benchmarks import _common

ROOT = Path(__file__).parents[2]


def recipe(name: str) -> Path:
    return ROOT / "pipelines" / "recipes" / f"{name}.yaml"


def start(program: str, path: Path, overrides: list[str], *arguments: str, **environment: str) -> None:
    with begun(program, path, overrides, *arguments, **environment) as process:
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, process.args)


def begun(program: str, path: Path, overrides: list[str], *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    """A program that goes on beside this one, with variables of its own."""
    command = [sys.executable, "-m", f"ray_jobs.{program}", str(path), *arguments, *(f"--set={each}" for each in overrides)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, stdout=sys.stderr)


def cpus(number: int) -> dict[str, str]:
    """The variable that gives a local Ray as many places, whatever the machine has."""
    return {"RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": number})}


def trained(path: Path, overrides: list[str], seeds: list[int]) -> list[Path]:
    """The newest finished run of exactly this recipe of each seed; those that are missing are trained now.

    All seeds have the dataset of the recipe's own, which may draw its validation.
    """
    dataset = manifest.dataset_path(config.load(path, overrides))
    wanted = {seed: config.load(path, [*overrides, f"seed={seed}"]) for seed in seeds}
    missing = []
    for seed, recipe in wanted.items():
        if not _finished(recipe, dataset) and (shorter := _shorter(recipe, dataset)):
            start("train", path, overrides, "--extend", str(shorter))
        elif not _finished(recipe, dataset):
            missing.append(str(seed))
    if missing:
        start("train", path, overrides, "--seeds", *missing)
    runs = [_finished(recipe, dataset)[-1] for recipe in wanted.values()]
    _common.say(f"{path.stem}, seeds {', '.join(map(str, seeds))}: {', '.join(run.name for run in runs)}")
    return runs


def searched(path: Path, overrides: list[str], resume: bool = True, **environment: str) -> Path:
    """The newest finished search of exactly this recipe; else an interrupted one is continued, or a new one started."""
    wanted = config.load(path, overrides)
    folders = sorted((Path(wanted.scale.storage_path) / "searches").glob(f"{wanted.name}-*"))
    known = [folder for folder in folders if _is_on(folder, manifest.dataset_path(wanted)) and _is_search_of(folder, wanted)]
    finished = [folder for folder in known if storage.is_finished(folder)]
    if finished:
        return finished[-1]
    start("prepare", path, overrides)
    start("tune", path, overrides, *(("--resume", str(known[-1])) if known and resume else ()), **environment)
    return searched(path, overrides)


def _is_on(folder: Path, dataset: Path) -> bool:
    links = folder / _tracking.LINKS  # not there yet where a beginning was interrupted
    return links.is_file() and Path(storage.read_json(links)["dataset"]).name == dataset.name


def _is_search_of(folder: Path, wanted: Recipe) -> bool:
    began = Recipe.from_json((folder / "recipe.json").read_text(encoding="utf-8"))
    apart = {"scale", "tracking"}
    return began.model_dump(exclude=apart) == wanted.model_dump(exclude=apart)


def _finished(wanted: Recipe, dataset: Path) -> list[Path]:
    return [run for run, recipe in _runs(wanted, dataset) if recipe.fingerprint() == wanted.fingerprint()]


def _shorter(wanted: Recipe, dataset: Path) -> Path | None:
    """The longest finished run of this recipe with fewer epochs, if there is one that can be extended."""
    for run, recipe in sorted(_runs(wanted, dataset), key=lambda known: -known[1].training.epochs):
        with contextlib.suppress(InputError):
            if recipe.seed == wanted.seed and _training.extend(wanted, run):
                return run
    return None


def _runs(wanted: Recipe, dataset: Path) -> list[tuple[Path, Recipe]]:
    """Finished ones of its name on a dataset, oldest first."""
    folder = Path(wanted.scale.storage_path) / "runs"
    finished = sorted(run for run in folder.glob(f"{wanted.name}-*") if storage.is_finished(run) and _is_on(run, dataset))
    return [(run, Recipe.from_json((run / "recipe.json").read_text(encoding="utf-8"))) for run in finished]
