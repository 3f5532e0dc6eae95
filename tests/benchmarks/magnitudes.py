"""The magnitude study: what norms do to rankings after training on cosine and on inner products, on Gowalla.

python -m tests.benchmarks.magnitudes [--quick] [--keep] [--epochs 12] [--seeds 1]

Sampled softmax on in-batch negatives as in gowalla_lightgcn_ssm, for a fixed number of epochs and so without a choice, with no
layer (MF), one to three on both sides, one on users or items alone, and other exponents of the degrees; MF and one layer are
trained on inner products too. Each ranks the test split twice, by inner product and by cosine. Beside recall and ndcg: the
correlation (Spearman) of items' norms with their degree, the mean popularity of what is recommended, and the share of recall
from the five less popular groups. Needs HARDNEG_DATA.
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

from components import config
from components.data.interactions import Interactions
from components.encoders._common import Similarity, compared
from components.evaluation.evaluate import Summary, Task, evaluate_tile
from components.evaluation.ranking import Ranker
from components.evaluation.scorers import Factors
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.benchmarks import _common, _logs

RECIPE = Path(__file__).parents[2] / "pipelines" / "recipes" / "gowalla_lightgcn_ssm.yaml"
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


def changes(model: str) -> tuple[str, ...]:
    """Of the recipe: one of MODELS, trained for as many epochs, without a choice."""
    return (*(f"encoder.{key}={value}" for key, value in MODELS[model].items()), f"training.epochs={EPOCHS}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    train, test = _logs.read("gowalla", "train"), _logs.read("gowalla", "test")
    epochs = 1 if arguments.quick else arguments.epochs
    found: dict[str, list[dict[str, Any]]] = {}
    for model in list(MODELS)[:2] if arguments.quick else MODELS:
        found[model] = []
        for seed in arguments.seeds:
            encoder = _trained(train, MODELS[model], epochs, seed)
            tables = [table.detach() for table in encoder.scoring_tables()]
            told = {by: _ranked(tables, by, train, test) for by in ("dot", "cosine")}
            norms = tables[1].norm(dim=1).numpy()
            correlation = float(scipy.stats.spearmanr(norms, train.item_degrees())[0])  # pyright: ignore
            found[model].append({"seed": seed, "norm_degree_correlation": correlation, **told})
            _common.say(f"{model}, seed {seed}: {found[model][-1]}")
    return {"seeds": arguments.seeds, "figures": {"epochs": epochs, "k": K, "models": found}}


def _trained(train: Interactions, model: dict[str, Any], epochs: int, seed: int) -> Any:
    tree = config.load(RECIPE).model_dump()
    tree["encoder"] |= {**model, "score_similarity": "dot"}
    tree |= {"seed": seed, "training": {**tree["training"], "epochs": epochs, "select_on": "none"}}
    trainer = Trainer(config.parse(tree), train, None, Workers(), torch.device("cpu"))
    for progress in trainer.run():
        if progress.metrics is not None:
            _common.say(f"epoch {progress.epoch + 1}: loss {progress.metrics['loss']:.4f}")
    return trainer.encoder


def _ranked(tables: list[torch.Tensor], by: Similarity, train: Interactions, test: Interactions) -> dict[str, float]:
    task = Task(test, train)
    ranker = Ranker(Factors(*(compared(by, table) for table in tables)), train, K)
    summary = Summary([K], train.item_degrees())
    summary.add(pa.concat_tables(evaluate_tile(ranker, task, tile, [K]) for tile in range(task.num_tiles)))
    values, groups = summary.metrics(), summary.group_recall(K)
    names = ("recall", "ndcg", "mean_popularity", "coverage", "gini")
    return {**{name: values[f"{name}@{K}"] for name in names}, "less_popular_half": float(np.sum(groups[:5]) / np.sum(groups))}


if __name__ == "__main__":
    sys.exit(_common.main("magnitudes", __doc__ or "", measure, add_arguments))
