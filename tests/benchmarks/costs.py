"""What the recipes cost: measured seconds per epoch, times epochs, times seeds; and each loss as its negatives grow.

python -m tests.benchmarks.costs [--quick] [--keep] [--threads N]

Every recipe on a real log takes 15 steps of its own batch in this process (of each learner, where there are two), validation
not counted; then what is planned (_plan.py) is priced by its own changes. Then a step of each loss for 2,048 rows against a
pool of 64 to 8,192 items, d 64: its time, and the most memory that a process of its own took beyond what it had before. Needs
HARDNEG_DATA.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components import config
from components.data.interactions import Interactions
from components.training.batches import batches
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.benchmarks import _common, _logs
from tests.benchmarks._plan import PLANNED

RECIPES = Path(__file__).parents[2] / "pipelines" / "recipes"
LOSSES = ("sampled_softmax", "bsl", "bpr", "bce", "ccl", "multi_margin")
COUNTS = (64, 256, 1024, 2048, 4096, 8192)
WARM_UP, STEPS = 3, 15
OF_A_STEP = ("training.batch_size", "training.precision")  # what else is changed of training leaves a step as it is


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=1, help="torch threads; 1 (the default) is a worker's own number")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(arguments.threads)
    logs = {name: _logs.read(name, "train") for name in (("coat", "gowalla") if arguments.quick else _logs.NAMES)}
    known: dict[tuple[str, ...], dict[str, float]] = {}

    def priced(recipe: str, changes: tuple[str, ...] = ()) -> dict[str, Any]:
        """What a training takes at most; steps are measured once for all lengths of it."""
        settings = config.load(RECIPES / f"{recipe}.yaml", changes)
        trainer = Trainer(settings, logs[_log(recipe)], None, Workers(), torch.device("cpu"))
        what = (recipe, *(change for change in changes if change.startswith(OF_A_STEP) or not change.startswith("training.")))
        if what not in known:
            known[what] = _seconds_per_pass(trainer)
            _common.say(f"{' '.join(what)}: {known[what]['model']:.2f} s an epoch")
        epochs, seconds = settings.training.epochs, known[what]
        passes = sum(len(trainer.objective.passes(epoch)) - 1 for epoch in range(epochs))
        return {
            "seconds_per_epoch": seconds["model"],
            "seconds_per_adversarial_pass": seconds.get("hardness"),
            "epochs": epochs,
            "hours": (seconds["model"] * epochs + seconds.get("hardness", 0.0) * passes) / 3600,
        }

    recipes = {path.stem: priced(path.stem) for path in sorted(RECIPES.glob("*.yaml")) if _log(path.stem) in logs}
    plan = {
        name: {
            "trainings": planned.seeds * len(planned.trainings),
            "hours": planned.seeds * sum(priced(*training)["hours"] for training in planned.trainings),
        }
        for name, planned in PLANNED.items()
        if planned.trainings and _log(planned.trainings[0][0]) in logs
    }
    losses = {}
    for loss in LOSSES:
        losses[loss] = {count: _apart(loss, count, arguments.threads) for count in (COUNTS[::5] if arguments.quick else COUNTS)}
        _common.say(f"{loss}: {losses[loss]}")
    return {
        "variant": f"{arguments.threads}_threads",
        "seeds": [1],
        "figures": {"threads": arguments.threads, "recipes": recipes, "plan": plan, "losses": losses},
    }


def _log(recipe: str) -> str:
    return recipe.partition("_")[0]


def _seconds_per_pass(trainer: Trainer) -> dict[str, float]:
    """Of each learner that has a pass, over all rows."""
    training = trainer.recipe.training
    active = {learner for epoch in range(training.epochs) for learner in trainer.objective.passes(epoch)}
    trainer.position.epoch = 100  # where an adversary has begun
    return {learner: _seconds(trainer, learner) * trainer.steps for learner in active}


def _seconds(trainer: Trainer, learner: str) -> float:
    """Of a step: the median."""
    found: list[float] = []
    while len(found) < WARM_UP + STEPS:
        for batch in trainer.batches():
            started = time.perf_counter()
            trainer.update(batch, learner)
            found.append(time.perf_counter() - started)
            if len(found) == WARM_UP + STEPS:
                break
    return statistics.median(found[WARM_UP:])


def _apart(loss: str, count: int, threads: int) -> dict[str, float]:
    """In a new process, since the most memory that one has taken never falls."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_of_loss, (loss, count, threads))


def _of_loss(loss: str, count: int, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    random = np.random.default_rng(0)
    users, items = (random.integers(0, 20_000, 4096, dtype=np.int32) for _ in range(2))
    tree = {
        "name": "losses",
        "data": {"source": "unused"},
        "encoder": {"name": "mf", "dim": 64},
        "loss": {"name": loss},
        "negatives": [{"name": "uniform", "count": count}],
        "training": {"batch_size": 2048},
    }
    trainer = Trainer(config.parse(tree), Interactions.of(users, items, 20_000, 20_000), None, Workers(), torch.device("cpu"))
    batch = next(trainer.batches())
    few = next(batches(trainer.train, batch_size=16, seed=0, epoch=0, workers=Workers(), device=torch.device("cpu")))
    trainer.objective(few).loss_B.sum().backward()  # what is there before: code, tables, threads
    trainer.encoder.zero_grad()
    before = _peak()
    seconds = []
    for _ in range(8):
        started = time.perf_counter()
        trainer.objective(batch).loss_B.sum().backward()
        seconds.append(time.perf_counter() - started)
        trainer.encoder.zero_grad()
    return {
        "milliseconds": 1000 * statistics.median(seconds[1:]),
        "mib": (_peak() - before) / 1024,
        "scores_mib": count * 2048 * 4 / 2**20,
    }


def _peak() -> int:
    """KiB. Not getrusage's, which begins at the parent's."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    sys.exit(_common.main("costs", __doc__ or "", measure, add_arguments))
