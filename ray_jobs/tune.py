"""Searches a recipe's space with Ray Tune: every trial a Ray Train run, tracked below one MLflow run.

python -m ray_jobs.tune RECIPE.yaml [--set search.trials=50] [--resume SEARCH]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from components.config import Recipe
from components.errors import InputError
from ray_jobs import _program, _results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--resume", metavar="SEARCH", help="continues the interrupted search of this folder")


def run(recipe: Recipe, arguments: argparse.Namespace) -> None:
    from ray_jobs import _search, _training

    _search.check(recipe)
    if arguments.resume:
        folder = Path(arguments.resume).absolute()
        if not folder.is_dir():
            raise InputError(f"--resume: got {folder}, takes the folder of a search that was started")
        with _program.cluster():
            _search.resume(recipe, folder)
    else:
        dataset = _training.dataset_of(recipe)
        with _program.cluster():
            folder = _search.run(recipe, dataset)
    print(folder)
    _results.tell(_search.result_of(folder))


if __name__ == "__main__":
    sys.exit(_program.main(__doc__ or "", run, add_arguments))
