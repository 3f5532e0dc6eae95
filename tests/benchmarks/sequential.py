"""Models on histories: seconds of an epoch of Beauty, what bounds them, and time to a quality against RecBole's SASRec.

python -m tests.benchmarks.sequential [--quick] [--keep] [--threads N] [--recbole PYTHON] [--to-ndcg [R]] [--storage DIR]

Every recipe's own batches, in turns of a few steps that alternate. Then the parts of a step of SASRec, forward and backward,
beside bounds of their own, and the turns of MCLRec's. RecBole 1.2.1's SASRec (_recbole_sasrec.py) has the same widths,
dropout, batch, full softmax on every prefix and Adam, but batches 50 wide. It runs in an environment of its own: --recbole is
its Python; else it is made in the storage path (pip; not with --quick). --to-ndcg trains SASRec, on prefixes and on whole
sequences, and RecBole's, until ndcg@10 on validation, not masked as RecBole has it, is R (.045 unless told), looking after
every epoch, and says after how many seconds of training: hours. Target: a fifth of RecBole's. Needs HARDNEG_DATA.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components import config
from components.data.interactions import Interactions
from components.evaluation import exact, scorers
from components.evaluation.evaluate import Task, validate
from components.training.batches import Batch
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.benchmarks import _common, _environments, _logs, _programs, _recbole_sasrec

SEED, TURN, WARM_UP, MOST_EPOCHS, TARGET = 1, 4, 2, 60, 5.0
MODELS = {
    "SASRec": "beauty_sasrec",
    "SASRec, whole sequences": "beauty_sasrec_sequences",
    "SASRec, two updates": "beauty_sasrec_twice",
    "CL4SRec": "beauty_cl4srec",
    "MCLRec": "beauty_mclrec",
    "mean pooling": "beauty_mean_pool",
    "CCL4Rec-style": "beauty_ccl4rec",
}
TIMED = ("SASRec", "SASRec, whole sequences")  # until a quality


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=1, help="torch threads; 1 (the default) is a worker's own number")
    parser.add_argument("--recbole", metavar="PYTHON", help="the Python of an environment with RecBole 1.2.1")
    parser.add_argument("--to-ndcg", type=float, nargs="?", const=0.045, help="trains until then")
    parser.add_argument("--storage", default="runs", help="where an environment for RecBole is made")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(arguments.threads)
    train, valid = _logs.read("beauty", "train"), _logs.read("beauty", "valid")
    trainers = {label: _trainer(recipe, train) for label, recipe in MODELS.items()}
    steps = _seconds_of_steps(trainers, turns=2 if arguments.quick else 15)
    models = {
        label: {
            "recipe": MODELS[label],
            "parameters": sum(weight.numel() for weight in trainer.encoder.parameters()),
            "steps_per_epoch": trainer.steps,
            "seconds_per_epoch": steps[label] * trainer.steps,
        }
        for label, trainer in trainers.items()
    }
    repeats = 3 if arguments.quick else 15
    figures: dict[str, Any] = {
        "threads": arguments.threads,
        "models": models,
        "parts": _parts(trainers["SASRec"], repeats),
        "turns": _turns(trainers["MCLRec"], repeats),
    }
    peer = _environment(arguments)
    if peer is not None:
        settings = {"batch_size": trainers["SASRec"].recipe.training.batch_size, "threads": arguments.threads, "seed": SEED}
        settings |= {"dropout": trainers["SASRec"].recipe.encoder["dropout"], "steps": 0, "epochs": MOST_EPOCHS}
        figures["recbole"] = _recbole_epoch(peer, settings, 5 if arguments.quick else 30)
        _common.say(f"RecBole: {figures['recbole']}")
        if arguments.to_ndcg:
            task = Task(valid, Interactions.of([], [], train.num_users, train.num_items), train)
            found = {label: _own_until(arguments.to_ndcg, MODELS[label], train, task) for label in TIMED}
            found["RecBole"] = _recbole_until(arguments.to_ndcg, peer, settings)
            figures["to_ndcg"] = {"ndcg@10": arguments.to_ndcg, "target": TARGET, "runs": found}
    return {"variant": f"{arguments.threads}_threads", "seeds": [SEED], "figures": figures}


def _trainer(recipe: str, train: Interactions) -> Trainer:
    settings = config.load(_programs.recipe(recipe), [f"seed={SEED}"])
    return Trainer(settings, train, None, Workers(), torch.device("cpu"))


def _seconds_of_steps(trainers: dict[str, Trainer], turns: int) -> dict[str, float]:
    """Of each, the median turn's: they alternate, so that what slows the machine slows all."""
    seconds: dict[str, list[float]] = {label: [] for label in trainers}
    loops: dict[str, Iterator[Batch]] = {}
    for label, trainer in trainers.items():
        trainer.position.epoch = 100  # where every part of an objective is there
        loops[label] = trainer.batches()
        for _ in range(WARM_UP):
            trainer.update(next(loops[label]))
    for turn in range(turns):
        for label, trainer in trainers.items():
            started = time.perf_counter()
            for _ in range(TURN):
                trainer.update(next(loops[label]))
            seconds[label].append((time.perf_counter() - started) / TURN)
        _common.say(f"turn {turn}: " + ", ".join(f"{label} {times[-1]:.3f} s" for label, times in seconds.items()))
    return {label: statistics.median(times) for label, times in seconds.items()}


def _parts(trainer: Trainer, repeats: int) -> dict[str, dict[str, float | None]]:
    """Milliseconds of each part of SASRec's step, beside those of its bound."""
    encoder: Any = trainer.encoder
    batch, more = next(trainer.batches()), trainer.batches()
    trainer.step(batch)
    query = encoder.queries(batch)
    vectors_BD = query.vectors.detach().requires_grad_()
    table_ID, scores_BI = (
        torch.randn(trainer.train.num_items, vectors_BD.shape[1]),
        torch.rand(batch.rows, trainer.train.num_items),
    )
    streams = [torch.ones(sum(weight.numel() for weight in encoder.parameters())) for _ in range(4)]

    def encode() -> None:
        encoder.queries(batch).vectors.sum().backward()
        encoder.zero_grad()

    def softmax() -> None:
        trainer.objective.of_queries(batch, query._replace(vectors=vectors_BD)).loss_B.sum().backward()
        encoder.zero_grad()

    def products() -> None:
        _ = vectors_BD.detach() @ table_ID.T, scores_BI @ table_ID, scores_BI.T @ vectors_BD.detach(), scores_BI.exp()

    def in_place() -> None:
        for stream in streams[:3]:  # Adam reads and writes weights and both moments, and reads the gradient
            stream.mul_(1.0)
        streams[3].sum()

    runs: dict[str, tuple[Callable[[], Any], Callable[[], Any] | None]] = {
        "gathering a batch and its histories": (lambda: next(more), None),
        "the encoder": (encode, None),
        "softmax over all items (bound: its three bare products, one pass of exp)": (softmax, products),
        "the whole step": (lambda: trainer.step(batch), None),  # before Adam's, for it leaves the gradients that those read
        "of it, Adam (bound: scaling in place what it writes, reading the gradient)": (
            trainer.optimizers["model"].step,
            in_place,
        ),
    }
    found = _common.times({name: run for name, (run, _) in runs.items()}, repeats)
    bounds = _common.times({name: bound for name, (_, bound) in runs.items() if bound is not None}, repeats)
    return {
        name: {"milliseconds": 1000 * found[name], "bound": 1000 * bounds[name] if name in bounds else None} for name in runs
    }


def _turns(trainer: Trainer, repeats: int) -> dict[str, float]:
    """Milliseconds of each update on a batch."""
    batch = next(trainer.batches())

    def turn(n: int, learners: tuple[str, ...]) -> Callable[[], Any]:
        return lambda: trainer.step(replace(batch, turn=n), *learners)

    runs = {f"{n + 1}: {' and '.join(own)}": turn(n, own) for n, own in enumerate(trainer.objective.turns)}
    return {name: 1000 * seconds for name, seconds in _common.times(runs, repeats).items()}


def _own_until(wanted: float, recipe: str, train: Interactions, task: Task) -> dict[str, Any]:
    """Seconds of training, looks at validation left out, and ndcg@10 by epoch."""
    trainer, seconds, values = _trainer(recipe, train), 0.0, list[float]()
    loop = trainer.run()
    while not values or (values[-1] < wanted and len(values) < MOST_EPOCHS):
        started = time.perf_counter()
        next(progress for progress in loop if progress.metrics is not None)
        seconds += time.perf_counter() - started
        scorer = scorers.of(trainer.encoder, task.history)
        values.append(exact.mean(np.asarray(validate(scorer, task, ["ndcg@10"], range(task.num_tiles))["ndcg@10"])))
        _common.say(f"{recipe}: epoch {len(values)}, {seconds:.0f} s, ndcg@10 {values[-1]:.4f}")
    return {"seconds": seconds, "epochs": len(values), "ndcg@10": values}


def _recbole_until(wanted: float, python: Path, settings: dict[str, Any]) -> dict[str, Any]:
    told = [line for line in _recbole(python, {**settings, "wanted": wanted}) if "ndcg" in line]
    return {"seconds": told[-1]["seconds"], "epochs": told[-1]["epoch"], "ndcg@10": [line["ndcg"] for line in told]}


def _recbole_epoch(python: Path, settings: dict[str, Any], steps: int) -> dict[str, Any]:
    about, took = _recbole(python, {**settings, "steps": steps})
    return {**about, "seconds_per_epoch": took["seconds_per_step"] * about["steps_per_epoch"]}


def _recbole(python: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """What it tells, line by line."""
    program, told = Path(_recbole_sasrec.__file__), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        _write_log(Path(folder) / "log" / "log.inter")
        command = [str(python), str(program), folder, json.dumps(settings)]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None, "a pipe"
            for line in process.stdout:
                if line.startswith(_recbole_sasrec.MARK):
                    told.append(json.loads(line.removeprefix(_recbole_sasrec.MARK)))
                    _common.say(f"RecBole: {told[-1]}")
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
    return told


def _write_log(path: Path) -> None:
    """All rows, in RecBole's atomic format; a user's rows have ascending times."""
    parts = [_logs.read("beauty", split) for split in ("train", "valid", "test")]
    rows = [(u, i) for part in parts for u, i in zip(part.users.tolist(), part.items.tolist(), strict=True)]
    path.parent.mkdir()
    lines = [f"{user}\t{item}\t{time}" for time, (user, item) in enumerate(rows)]
    path.write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "\n".join(lines) + "\n", encoding="utf-8")


def _environment(arguments: argparse.Namespace) -> Path | None:
    """The Python that has RecBole; None where a quick look has none."""
    if arguments.recbole:
        return Path(arguments.recbole).absolute()
    return _environments.python(_environments.RECBOLE, arguments.storage, arguments.quick)


if __name__ == "__main__":
    sys.exit(_common.main("sequential", __doc__ or "", measure, add_arguments))
