"""The magnitude study: what norms do to rankings after training on cosine and on inner products, on Gowalla.

python -m tests.benchmarks.magnitudes [--seeds 1 2 3] [--quick] [--keep] [--storage DIR]

Sampled softmax on in-batch negatives as in gowalla_lightgcn_ssm, by the project's own program for a fixed number of epochs and
so without a choice, with no layer (MF), one to three on both sides, one on users or items alone, and other exponents of the
degrees; MF and one layer are trained on inner products too. Each ranks the test split twice, by inner product and by cosine.
Beside recall and ndcg: the correlation (Spearman) of items' norms with their degree, the mean popularity of what is
recommended, and the share of recall from the five less popular groups. Finished runs of the same recipe and seed on the storage
path are taken as they are. Needs HARDNEG_DATA.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.stats
import torch
from numpy.typing import NDArray

from components import config
from components.data import interactions, manifest
from components.encoders._common import Similarity, compared
from components.evaluation import splits
from components.evaluation.evaluate import Summary, Task, evaluate_tile
from components.evaluation.ranking import Ranker
from components.evaluation.scorers import Factors
from components.training import checkpoint
from tests.benchmarks import _common, _programs

RECIPE = _programs.recipe("gowalla_lightgcn_ssm")
K = 20
MODELS: dict[str, dict[str, Any]] = {
    "MF (no layer)": {"layers": 0},
    "LightGCN, 1 layer": {"layers": 1},
    "users alone (SVD++-like)": {"layers": 1, "side": "users"},
    "items alone": {"layers": 1, "side": "items"},
    "exponents 0, 1 (popular neighbours less)": {"layers": 1, "left": 0.0, "right": 1.0},
    "exponents 1, 0 (mean of neighbours)": {"layers": 1, "left": 1.0, "right": 0.0},
    "LightGCN, 2 layers": {"layers": 2},
    "LightGCN, 3 layers": {"layers": 3},
    "MF, trained on inner products": {"layers": 0, "train_similarity": "dot"},
    "LightGCN, 1 layer, trained on inner products": {"layers": 1, "train_similarity": "dot"},
}


EPOCHS = 12
FIT = ("training.fit_on=train+valid", "training.select_on=none", "encoder.score_similarity=dot")


def changes(model: str) -> tuple[str, ...]:
    """Of the recipe: one of MODELS, trained for as many epochs, without a choice."""
    return (*(f"encoder.{key}={value}" for key, value in MODELS[model].items()), *FIT, f"training.epochs={EPOCHS}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--storage", default="runs", help="storage path, where finished runs are looked for")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    where = f"scale.storage_path={Path(arguments.storage).absolute()}"
    _programs.start("prepare", RECIPE, [where])
    dataset = manifest.dataset_path(config.load(RECIPE, [where]))
    found: dict[str, list[dict[str, Any]]] = {}
    for model in list(MODELS)[:2] if arguments.quick else MODELS:
        asked = [where, *changes(model), *(["training.epochs=1"] if arguments.quick else [])]
        runs = _programs.trained(RECIPE, asked, arguments.seeds)
        found[model] = [{"seed": seed, **_told(run, dataset)} for seed, run in zip(arguments.seeds, runs, strict=True)]
        _common.say(f"{model}: {found[model]}")
    return {"seeds": arguments.seeds, "figures": {"epochs": 1 if arguments.quick else EPOCHS, "k": K, "models": found}}


def _told(run: Path, dataset: Path) -> dict[str, Any]:
    trained, task = checkpoint.open_run(run, dataset), splits.task_of(dataset, "test", "split")
    degrees_I = interactions.load(dataset, *trained.recipe.training.fit_on.split("+")).item_degrees()
    tables = [table.detach() for table in trained.encoder.scoring_tables()]
    correlation = float(scipy.stats.spearmanr(tables[1].norm(dim=1).numpy(), degrees_I)[0])  # pyright: ignore
    return {"norm_degree_correlation": correlation, **{by: _ranked(tables, by, task, degrees_I) for by in ("dot", "cosine")}}


def _ranked(tables: list[torch.Tensor], by: Similarity, task: Task, degrees_I: NDArray[np.int64]) -> dict[str, float]:
    ranker = Ranker(Factors(*(compared(by, table) for table in tables)), task.seen, K)
    summary = Summary([K], degrees_I)
    summary.add(pa.concat_tables(evaluate_tile(ranker, task, tile, [K]) for tile in range(task.num_tiles)))
    values, groups = summary.metrics(), summary.group_recall(K)
    names = ("recall", "ndcg", "mean_popularity", "coverage", "gini")
    return {**{name: values[f"{name}@{K}"] for name in names}, "less_popular_half": float(np.sum(groups[:5]) / np.sum(groups))}


if __name__ == "__main__":
    sys.exit(_common.main("magnitudes", __doc__ or "", measure, add_arguments))
