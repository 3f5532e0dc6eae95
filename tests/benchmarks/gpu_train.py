"""Trains one of the five systems on a GPU until it is as good as published: how long that takes, and how much memory.

python -m tests.benchmarks.gpu_train RECIPE [--quick] [--keep] [--set KEY=VALUE ...]

The recipe's own settings, through components.training and without Ray: one process, one CUDA device. After every validation it
is looked whether the goal is reached; it is looked at on the test by the published protocol, as published logs choose, except
where nothing is published: then on validation, until that no longer improves. Seconds are those of steps, validation apart;
memory is the most that torch's allocator held for tensors. With scale.compile=true what is kept lies beside what was kept
without. Where torch has no CUDA it ends with a line: there is no other way to run it. Needs HARDNEG_DATA.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any, NamedTuple

import torch

from components.config import Recipe, load
from components.data.interactions import Interactions
from components.evaluation import splits
from components.evaluation.evaluate import Task
from components.evaluation.protocols import Protocol
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.benchmarks import _common, _logs, _programs

QUICK_EPOCHS = 2


class Goal(NamedTuple):
    """What `metric` on `split` is to reach, and whose figure that is; None where nobody published one."""

    metric: str
    split: str
    value: float | None
    source: str
    protocol: Protocol = "masked"


GOALS = {
    "gowalla_lightgcn_ssm": Goal("recall@20", "test", 0.99 * 0.1874, "99 % of BSL's log of LightGCN with its softmax loss"),
    "gowalla_mf_mml": Goal("recall@20", "test", 0.173, "SimpleX's log of MF with CCL at this learning rate, before its cut"),
    "coat_mf_adv_infonce": Goal("ndcg@20", "test_ood", 0.1925, "AdvInfoNCE, the same settings in numpy, five seeds"),
    "beauty_mclrec": Goal("hit@10", "test", 0.0871, "MCLRec (2304.07763, table 3)", "not_masked"),
    "beauty_ccl4rec": Goal("mrr@10", "valid", None, "nobody: our design after an abstract"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", choices=sorted(GOALS))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    if not torch.cuda.is_available():
        raise SystemExit(f"gpu_train: torch {torch.__version__} sees no CUDA device, takes a machine with one")
    goal, name = GOALS[arguments.recipe], arguments.recipe
    quick = (f"training.epochs={QUICK_EPOCHS}", "training.min_epochs=0") if arguments.quick else ()
    recipe = recipe_for(goal, load(_programs.recipe(name), [*arguments.set, *quick]))
    log = name.partition("_")[0]
    seen = "train" if goal.split == "valid" else "train+valid"
    task = Task(_logs.read(log, goal.split), _logs.read(log, seen))
    task = task if goal.protocol == "masked" else splits.unmasked(task)
    device = torch.device("cuda")
    torch.cuda.reset_peak_memory_stats(device)
    told = train(recipe, _logs.read(log, "train"), task, device, goal.value)
    torch.cuda.synchronize(device)
    return {
        "variant": f"{name}_compiled" if recipe.scale.compile else name,
        "seeds": [recipe.seed],
        "figures": {
            "recipe": name,
            "changes": arguments.set,
            "device": torch.cuda.get_device_name(device),
            "torch": torch.__version__,
            "precision": recipe.training.precision,
            "goal": goal._asdict(),
            "peak_mib": torch.cuda.max_memory_allocated(device) / 2**20,
            **told,
        },
    }


def recipe_for(goal: Goal, recipe: Recipe) -> Recipe:
    """Validated by the goal's metric, where that is looked at; to its last epoch where a goal may be reached until then."""
    asked: dict[str, Any] = {"metric": goal.metric, "select_on": goal.split.partition("_")[0]}
    if goal.value is not None:
        asked |= {"patience": recipe.training.epochs, "mask_seen": goal.protocol == "masked"}
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=asked)})


def train(recipe: Recipe, log: Interactions, task: Task, device: torch.device, goal: float | None) -> dict[str, Any]:
    """Until validation's metric is `goal`, or training ends by itself."""
    trainer = Trainer(recipe, log, task, Workers(), device)
    logged = recipe.training.logged(recipe.training.metric)
    seconds, validating, rows, curve = [], 0.0, [], {}
    for progress in trainer.run():
        if progress.metrics is None:
            continue
        seconds.append(progress.metrics["step_seconds"] * progress.steps)
        rows.append(progress.metrics["rows_per_second"])
        if logged in progress.metrics:
            curve[progress.epoch + 1] = progress.metrics[logged]
            validating += progress.metrics["validation_seconds"]
            _common.say(f"epoch {progress.epoch + 1}: {recipe.training.metric} {curve[progress.epoch + 1]:.4f}")
            if goal is not None and curve[progress.epoch + 1] >= goal:
                break
    return {
        "parameters": sum(weight.numel() for each in trainer.learners.values() for weight in each.module.parameters()),
        "seconds": sum(seconds),
        "validation_seconds": validating,
        "epochs": len(seconds),
        "seconds_per_epoch": statistics.median(seconds),
        "rows_per_second": statistics.median(rows),
        "best": max(curve.values()),
        "reached": None if goal is None else max(curve.values()) >= goal,
        "curve": curve,
    }


if __name__ == "__main__":
    sys.exit(_common.main("gpu_train", __doc__ or "", measure, add_arguments))
