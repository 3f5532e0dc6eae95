"""Noise: what quality each model on histories loses where behaviours are replaced in the test's histories, or in train.

python -m tests.benchmarks.noise {test,train} [LOG] [--seeds 1 ...] [--quick] [--keep] [--storage DIR] [--set KEY=VALUE ...]

5, 10, 20 and 30 % of the behaviours are replaced by random or popular items (_noise.py). In test: models are trained once, on
the log as it is, and read histories with noise, 5 draws of it. In train: they are trained anew for each noise, on a source
with it, and read histories without. Trained by the project's own programs; finished runs of the same recipe and seed on the
storage path are taken as they are. LOG is beauty (the default), beauty_sampled, a smaller form, with the models of that
comparison (systems.py), or kuairec, micro-videos in the order of time; their folder is HARDNEG_DATA. --quick makes a small log
of walks on a circle, and needs none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from components import config
from components.data.interactions import Interactions
from components.evaluation import exact, splits
from components.evaluation.evaluate import Task, evaluate_protocols
from components.evaluation.protocols import PROTOCOLS
from components.evaluation.ranking import Ranker
from components.training import checkpoint
from ray_jobs import _training
from tests.benchmarks import _common, _logs, _noise, _programs
from tests.benchmarks.systems import SAMPLED

SHARES, DRAWS = (0.05, 0.1, 0.2, 0.3), 5


class Log(NamedTuple):
    """Recipes by the names of the figures; the metrics that are told, of which the report shows the first."""

    title: str
    models: dict[str, str]
    metrics: tuple[str, ...]


LOGS = {
    "beauty": Log(
        "Beauty",
        {
            "SASRec": "beauty_sasrec",
            "CL4SRec": "beauty_cl4srec",
            "MCLRec": "beauty_mclrec",
            "mean pooling": "beauty_mean_pool",
            "CCL4Rec-style": "beauty_ccl4rec",
        },
        ("ndcg@10", "ndcg@20", "hit@10", "hit@20"),
    ),
    "beauty_sampled": Log(
        "Beauty, with sampled candidates",
        {system.label: system.recipe for system in SAMPLED},
        ("ndcg@10", "ndcg@20", "hit@10", "hit@20"),
    ),
    "kuairec": Log(
        "KuaiRec",
        {"SASRec": "kuairec_sasrec", "mean pooling": "kuairec_mean_pool", "CCL4Rec-style": "kuairec_ccl4rec"},
        ("recall@50", "precision@50", "ndcg@50"),
    ),
}
FIRST = "beauty"
QUICK_MODELS = ("mean pooling", "CCL4Rec-style")
QUICK = ("training.epochs=4", "training.batch_size=128", "encoder.dim=16", "scale.num_workers=1")
Quality = dict[str, dict[str, float]]  # protocol -> metric -> mean over users


class Plan(NamedTuple):
    """What is measured: models, metrics, shares of noise, and draws of a test's."""

    models: tuple[str, ...]
    metrics: tuple[str, ...]
    shares: tuple[float, ...]
    draws: int


def variant(where: str, log: str) -> str:
    """What a result is called."""
    return where if log == FIRST else f"{where}_{log}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("where", choices=("test", "train"), help="whose behaviours are replaced")
    parser.add_argument("log", nargs="?", default=FIRST, choices=sorted(LOGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--storage", default="runs", help="storage path, where finished runs are looked for")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    storage_path = Path(arguments.storage).absolute()
    log = LOGS[arguments.log]
    plan, changes = _plan(arguments.log, storage_path, quick=arguments.quick)
    changes = [f"scale.storage_path={storage_path}", *changes, *arguments.set]
    study = _in_test if arguments.where == "test" else _in_train
    models = []
    for label in plan.models:
        recipe = _programs.recipe(log.models[label])
        clean, found = study(plan, recipe, changes, arguments.seeds)
        models.append({"label": label, "recipe": recipe.stem, "clean": clean, "noise": found})
        _common.say(f"{label}: {models[-1]}")
    return {
        "variant": variant(arguments.where, arguments.log),
        "seeds": arguments.seeds,
        "figures": {
            "where": arguments.where,
            "log": arguments.log,
            "changes": arguments.set,
            "shares": list(plan.shares),
            "models": models,
        },
    }


def _plan(name: str, storage_path: Path, *, quick: bool) -> tuple[Plan, tuple[str, ...]]:
    if quick:
        source = storage_path / "sources" / "timed_walks.parquet"
        _write_walks(source)
        return Plan(QUICK_MODELS, LOGS[name].metrics, (0.3,), 1), (f"data.source={source}", *QUICK)
    _logs.path(name.partition("_")[0])  # is there
    return Plan((*LOGS[name].models,), LOGS[name].metrics, SHARES, DRAWS), ()


def _in_test(
    plan: Plan, recipe: Path, changes: list[str], seeds: list[int]
) -> tuple[list[Quality], dict[str, dict[str, list[Quality]]]]:
    """(of each seed without noise, of each kind and share: of each seed and draw)."""
    clean: list[Quality] = []
    found: dict[str, dict[str, list[Quality]]] = {kind: {str(share): [] for share in plan.shares} for kind in _noise.KINDS}
    for trained, task in _trained(recipe, changes, seeds):
        clean.append(quality(trained, task, task.history, plan.metrics))
        for kind in _noise.KINDS:
            for share in plan.shares:
                for draw in range(plan.draws):
                    noisy = _noise.replaced(task.history, task.truth, share, kind, draw)
                    found[kind][str(share)].append(quality(trained, task, noisy, plan.metrics))
    return clean, found


def _in_train(
    plan: Plan, recipe: Path, changes: list[str], seeds: list[int]
) -> tuple[list[Quality], dict[str, dict[str, list[Quality]]]]:
    """(of each seed without noise, of each kind and share: of each seed)."""
    clean = [quality(trained, task, task.history, plan.metrics) for trained, task in _trained(recipe, changes, seeds)]
    found: dict[str, dict[str, list[Quality]]] = {kind: {} for kind in _noise.KINDS}
    given = config.load(recipe, changes)
    dataset, folder = _training.dataset_of(given), Path(given.scale.storage_path) / "sources"
    for kind in _noise.KINDS:
        for share in plan.shares:
            source = folder / f"{dataset.name}_{kind}_{round(100 * share)}.parquet"
            if not source.is_file():
                _noise.write_source(dataset, given.data.columns, share, kind, 0, source)
            own = found[kind][str(share)] = []
            for trained, task in _trained(recipe, [*changes, f"data.source={source}"], seeds):
                read = _noise.histories(dataset, trained.dataset)
                own.append(quality(trained, Task(task.truth, read), read, plan.metrics))
    return clean, found


def _trained(recipe: Path, changes: list[str], seeds: list[int]) -> Iterator[tuple[checkpoint.TrainedRun, Task]]:
    """A finished run of each seed, and its test."""
    _programs.start("prepare", recipe, changes)
    dataset = _training.dataset_of(config.load(recipe, changes))
    for run in _programs.trained(recipe, changes, seeds):
        yield checkpoint.open_run(run, dataset), splits.task_of(dataset, "test")


@torch.no_grad()
def quality(trained: checkpoint.TrainedRun, task: Task, read: Interactions, metrics: tuple[str, ...]) -> Quality:
    """Of the lists that a model makes from the histories `read`; what is masked is what truly was seen."""
    ks = sorted({int(name.partition("@")[2]) for name in metrics})
    ranker = Ranker(trained.scorer(read), task.seen, ks[-1])
    tiles = [evaluate_protocols(ranker, task, number, ks, tuple(PROTOCOLS)) for number in range(task.num_tiles)]
    return {
        protocol: {name: exact.mean(np.concatenate([tile[protocol][name].to_numpy() for tile in tiles])) for name in metrics}
        for protocol in PROTOCOLS
    }


def _write_walks(path: Path, users: int = 800, items: int = 600) -> None:
    """Users walk around a circle of items, from where they please, now and then in longer steps."""
    random = np.random.default_rng(0)
    lengths = random.integers(6, 16, users)
    walks = [(random.integers(items) + np.cumsum(random.choice([1, 1, 1, 2], n))) % items for n in lengths]
    columns = {
        "user_id": np.repeat(np.arange(users), lengths),
        "item_id": np.concatenate(walks),
        "timestamp": np.concatenate([np.arange(n) for n in lengths]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():  # its time is part of the dataset's fingerprint
        pq.write_table(pa.table(columns), path)


if __name__ == "__main__":
    sys.exit(_common.main("noise", __doc__ or "", measure, add_arguments))
