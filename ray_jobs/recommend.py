"""Writes the best items that users have not met yet, as Parquet: user, item (the source's ids), rank, score.

python -m ray_jobs.recommend RECIPE.yaml [--set KEY=VALUE ...] [--run DIR or MLflow id] [--users FILE or ID,ID,...] [--k K]
"""

from __future__ import annotations

import argparse
import sys

from components.config import Recipe
from ray_jobs import _program, _results, _runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", metavar="RUN", help="a run's folder or MLflow id; by default the recipe's newest finished one")
    parser.add_argument("--users", metavar="FILE or ID,ID,...", help="the source's ids, one per line of a file; all by default")
    parser.add_argument("--k", type=int, metavar="K", help="length of a list; by default evaluation.recommend_k")


def run(recipe: Recipe, arguments: argparse.Namespace) -> None:
    from ray_jobs import _recommendation, _training

    k = recipe.evaluation.recommend_k if arguments.k is None else arguments.k
    name = "evaluation.recommend_k" if arguments.k is None else "--k"
    found = _runs.find(recipe, arguments.run)
    done = _recommendation.recommend(recipe, found, _training.dataset_of(recipe), arguments.users, k, name)
    _results.tell(done)


if __name__ == "__main__":
    sys.exit(_program.main(__doc__ or "", run, add_arguments))
