"""Registers an evaluated run's model in MLflow, as challenger; as champion, too, if there is none or it beats it on the test.

python -m ray_jobs.register RECIPE.yaml [--set KEY=VALUE ...] [--run DIR or MLflow id] [--name NAME]
"""

from __future__ import annotations

import argparse
import sys

from components.config import Recipe
from ray_jobs import _program, _results, _runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", metavar="RUN", help="a run's folder or MLflow id; by default the recipe's newest finished one")
    parser.add_argument("--name", metavar="NAME", help="of the registered model; by default the recipe's")


def run(recipe: Recipe, arguments: argparse.Namespace) -> None:
    from ray_jobs import _registration, _training

    name = recipe.name if arguments.name is None else arguments.name
    found = _runs.find(recipe, arguments.run)
    _results.tell(_registration.register(recipe, found, _training.dataset_of(recipe), name))


if __name__ == "__main__":
    sys.exit(_program.main(__doc__ or "", run, add_arguments))
