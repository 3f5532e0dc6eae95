"""Searches a recipe's space with Ray Tune: every trial a Ray Train run, tracked below one MLflow run.

python -m ray_jobs.tune RECIPE.yaml [--set search.trials=50] [--resume SEARCH] [--refit N]
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
    parser.add_argument("--refit", type=int, metavar="N", help="then fits the best on train and valid, N seeds, and tests it")


def run(recipe: Recipe, arguments: argparse.Namespace) -> None:
    if arguments.refit is not None and arguments.refit < 1:
        raise InputError(f"--refit: got {arguments.refit}, takes a number of seeds >= 1")
    from ray_jobs import _refits, _search, _training

    _search.check(recipe)
    if arguments.refit:
        for _, tried in _search.corners(recipe):
            _training.refuse_plateau(tried)
    if arguments.resume:
        folder = Path(arguments.resume).absolute()
        if arguments.refit:
            _refits.check(folder, arguments.refit)
        with _program.cluster(trains=True):
            _search.resume(recipe, folder)
    else:
        dataset = _training.dataset_of(recipe)
        if arguments.refit:
            _refits.tests_of(dataset)
        with _program.cluster(trains=True):
            folder = _search.run(recipe, dataset)
    if arguments.refit:
        _refits.refit(recipe, folder, arguments.refit)
    print(folder)
    _results.tell(_search.result_of(folder))


if __name__ == "__main__":
    sys.exit(_program.main(__doc__ or "", run, add_arguments))
