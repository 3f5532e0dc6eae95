"""The project's own programs, started by benchmarks; runs that are finished are taken as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from components import config, storage
from components.config import Recipe
from tests.benchmarks import _common

ROOT = Path(__file__).parents[2]


def recipe(name: str) -> Path:
    return ROOT / "pipelines" / "recipes" / f"{name}.yaml"


def start(program: str, path: Path, overrides: list[str], *arguments: str) -> None:
    command = [sys.executable, "-m", f"ray_jobs.{program}", str(path), *arguments, *(f"--set={each}" for each in overrides)]
    subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=True)


def trained(path: Path, overrides: list[str], seeds: list[int]) -> list[Path]:
    """The newest finished run of exactly this recipe of each seed; those that are missing are trained now."""
    wanted = {seed: config.load(path, [*overrides, f"seed={seed}"]) for seed in seeds}
    missing = [str(seed) for seed, recipe in wanted.items() if not _finished(recipe)]
    if missing:
        start("train", path, overrides, "--seeds", *missing)
    runs = [_finished(recipe)[-1] for recipe in wanted.values()]
    _common.say(f"{path.stem}, seeds {', '.join(map(str, seeds))}: {', '.join(run.name for run in runs)}")
    return runs


def _finished(wanted: Recipe) -> list[Path]:
    folder = Path(wanted.scale.storage_path) / "runs"
    finished = sorted(run for run in folder.glob(f"{wanted.name}-*") if storage.is_finished(run))
    return [
        run
        for run in finished
        if Recipe.from_json((run / "recipe.json").read_text(encoding="utf-8")).fingerprint() == wanted.fingerprint()
    ]
