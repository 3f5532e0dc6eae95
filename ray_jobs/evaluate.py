"""Ranks a split over the whole catalogue, the model beside its baselines: metrics, per-user values, groups and plots.

python -m ray_jobs.evaluate RECIPE.yaml [--set KEY=VALUE ...] [--run RUN] [--split NAME]
"""

from __future__ import annotations

import argparse
import sys

from components.config import Recipe
from ray_jobs import _program, _results, _runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", metavar="RUN", help="a run's folder or MLflow id; by default the recipe's newest finished one")
    parser.add_argument("--split", help="a held-out split of the dataset; by default the recipe's evaluation.split")


def run(recipe: Recipe, arguments: argparse.Namespace) -> None:
    from ray_jobs import _evaluation, _training

    found, dataset = _runs.find(recipe, arguments.run), _training.dataset_of(recipe)
    done = _evaluation.evaluate(recipe, found, dataset, arguments.split or recipe.evaluation.split)
    _results.tell(done)


if __name__ == "__main__":
    sys.exit(_program.main(__doc__ or "", run, add_arguments))
