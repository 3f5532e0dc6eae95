"""Trains a recipe on its prepared dataset: Ray Train, gloo or nccl, tracked in MLflow.

python -m ray_jobs.train RECIPE.yaml [--set KEY=VALUE ...] [--seeds 1 2 3] [--resume RUN | --refit RUN | --extend RUN]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from components.config import Recipe, parse
from components.errors import InputError
from ray_jobs import _program, _results, _runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, nargs="+", help="trains one run for each seed, instead of the recipe's")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--resume", metavar="RUN", help="continues the unfinished run of this folder")
    other.add_argument("--refit", metavar="RUN", help="fits on train and valid for as many epochs as RUN chose on valid")
    other.add_argument("--extend", metavar="RUN", help="goes on where the finished RUN ended, up to --set training.epochs=N")


def run(recipe: Recipe, arguments: argparse.Namespace) -> None:
    if arguments.resume and (arguments.seeds or arguments.set):
        raise InputError("--resume: continues one run as it was, takes neither --seeds nor --set")
    if arguments.seeds and (arguments.refit or arguments.extend):
        raise InputError("--refit, --extend: take their run's own seed, not --seeds")
    from ray_jobs import _training

    if arguments.resume:
        folder = Path(arguments.resume).absolute()
        with _program.cluster(trains=True):
            _training.resume(recipe, folder)
        _results.tell(_results.Trained(runs=[_training.result_of(folder)]))
        return
    extended = _runs.find(recipe, arguments.extend) if arguments.extend else None
    if arguments.refit:
        recipe, dataset = _training.refit(recipe, _runs.find(recipe, arguments.refit))
    elif extended is not None:
        recipe, dataset = _training.extend(recipe, extended)
    else:
        dataset = _training.dataset_of(recipe)
    seeds = arguments.seeds or [recipe.seed]
    recipes = [parse({**recipe.model_dump(), "seed": seed}) for seed in seeds]
    with _program.cluster(trains=True):
        folders = [_training.train(each, dataset, extended) for each in recipes]
    _results.tell(_results.Trained(runs=[_training.result_of(folder) for folder in folders]))


if __name__ == "__main__":
    sys.exit(_program.main(__doc__ or "", run, add_arguments))
