"""LightGCN with sampled softmax on Gowalla against a strong torch script written out here: seconds per epoch, time to .183.

python -m tests.benchmarks.lightgcn [--quick] [--keep] [--threads N] [--to-recall R] [--ray-train]

d 64, one layer, batch 2048, temperature .12, in-batch negatives, L2 1e-5, Adam 1e-3. The script multiplies the whole graph as a
CSR matrix with a transposed copy for the backward pass, and has fused Adam and a dense softmax. Both have the same tables and
batches at first, hence the same losses: they are compared. Turns of 30 steps alternate. Then each part of a step beside a bound
of its own. --to-recall trains each until recall@20 on test is R (.183 unless told), or for 60 epochs, looking after every one,
and says after how many seconds of training. --ray-train has ray_jobs.train take two epochs on one worker, by the recipe
gowalla_lightgcn_ssm, which has the same settings, and tells the second beside the script's. Limit of all: 0.9. Needs
HARDNEG_DATA.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sparse
import torch
import torch.nn.functional as F
from torch import Tensor

from components import config
from components.data.interactions import Interactions
from components.encoders._graph import incidence, normalised
from components.evaluation import exact
from components.evaluation.evaluate import Task, validate
from components.evaluation.scorers import Factors
from components.objectives import _fold
from components.objectives._mixture import Mixture
from components.training.batches import Batch, batches, steps_per_epoch
from components.training.collectives import Workers
from components.training.loop import Trainer
from ray_jobs import _tracking
from tests.benchmarks import _common, _logs, _programs

BATCH, WIDTH, TEMPERATURE, LEARNING_RATE, L2, SEED, TURN, LIMIT, MOST_EPOCHS = 2048, 64, 0.12, 1e-3, 1e-5, 1, 30, 0.9, 60
RECIPE = "gowalla_lightgcn_ssm"
CPU = torch.device("cpu")


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table_ND: Tensor, graph: Tensor, transposed: Tensor) -> Tensor:  # pyright: ignore
        ctx.transposed = transposed
        return graph @ table_ND

    @staticmethod
    def backward(ctx: Any, gradient_ND: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore
        return ctx.transposed @ gradient_ND, None, None


class Script:
    """What a good engineer would write by hand."""

    def __init__(self, train: Interactions, users_UD: Tensor, items_ID: Tensor) -> None:
        self.users = train.num_users
        self.table = torch.nn.Parameter(torch.cat([users_UD, items_ID]).clone())
        self.optimizer = torch.optim.Adam([self.table], lr=LEARNING_RATE, fused=True)
        ones = np.ones(len(train), np.float32)
        edges = sparse.csr_array((ones, (train.users, train.items)), shape=(train.num_users, train.num_items))
        whole = sparse.block_array([[None, edges], [edges.T, None]], format="csr")
        scale = 1 / np.sqrt(np.maximum(np.asarray(whole.sum(axis=1)), 1.0))
        whole = (sparse.diags_array(scale) @ whole @ sparse.diags_array(scale)).tocsr().astype(np.float32)
        self.graph, self.transposed = (_torch_csr(matrix) for matrix in (whole, whole.T.tocsr()))

    def vectors(self) -> Tensor:
        return (self.table + _Propagate.apply(self.table, self.graph, self.transposed)) / 2  # pyright: ignore

    def step(self, users_B: Tensor, items_B: Tensor) -> float:
        vectors_ND = self.vectors()
        queries_BD = F.normalize(F.embedding(users_B, vectors_ND), dim=1)
        positives_BD = F.normalize(F.embedding(items_B + self.users, vectors_ND), dim=1)
        loss = F.cross_entropy(queries_BD @ positives_BD.T / TEMPERATURE, torch.arange(len(users_B)))
        squares = sum(F.embedding(ids, self.table).square().sum() for ids in (users_B, items_B + self.users))
        self.optimizer.zero_grad()
        (loss + L2 / 2 * squares / len(users_B)).backward()
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def scoring_tables(self) -> tuple[Tensor, Tensor]:
        vectors_ND = self.vectors()
        return vectors_ND[: self.users], vectors_ND[self.users :]


def _torch_csr(matrix: Any) -> Tensor:
    starts, columns, values = (torch.from_numpy(part) for part in (matrix.indptr, matrix.indices, matrix.data))
    return torch.sparse_csr_tensor(starts, columns, values, matrix.shape, check_invariants=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=1, help="torch threads; 1 (the default) is a worker's own number")
    parser.add_argument("--to-recall", type=float, nargs="?", const=0.183, help="trains both until then (a quarter of an hour)")
    parser.add_argument("--ray-train", action="store_true", help="an epoch of a Ray Train worker, too (two minutes)")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(arguments.threads)
    train, test = _logs.read("gowalla", "train"), _logs.read("gowalla", "test")
    started = time.perf_counter()
    edges = incidence(train)
    _ = normalised(edges, 0.5, 0.5), normalised(edges.T.tocsr(), 0.5, 0.5)
    graph_seconds = time.perf_counter() - started
    trainer = _trainer(train)
    tables = [table.detach().clone() for table in trainer.encoder.parameters()]  # as they begin
    script = Script(train, *tables)
    order = list(itertools.islice(_batches(train, 0), steps_per_epoch(len(train), BATCH)))
    apart = _largest_difference(Script(train, *tables), _trainer(train), order[:TURN])
    loop, seconds = trainer.run(), {"script": [], "hardneg": []}
    turns = 3 if arguments.quick else len(order) // TURN - 1  # not the epoch's end
    for turn in range(turns):
        started = time.perf_counter()
        for batch in order[turn * TURN : (turn + 1) * TURN]:
            script.step(batch.users_B, batch.items_B)
        seconds["script"].append(time.perf_counter() - started)
        started = time.perf_counter()
        for _ in range(TURN):
            next(loop)
        seconds["hardneg"].append(time.perf_counter() - started)
        _common.say(f"turn {turn}: " + ", ".join(f"{what} {times[-1]:.2f} s" for what, times in seconds.items()))
    ratio = statistics.median(h / s for h, s in zip(seconds["hardneg"], seconds["script"], strict=True))
    _common.say(f"ratio {ratio:.2f} (limit {LIMIT}), losses within {apart:.1e}")
    figures: dict[str, Any] = {
        "threads": arguments.threads,
        "steps_per_epoch": len(order),
        "seconds_per_epoch": {what: statistics.median(times) / TURN * len(order) for what, times in seconds.items()},
        "ratio": ratio,
        "limit": LIMIT,
        "largest_difference_of_losses": apart,
        "graph_seconds": graph_seconds,
        "parts": _parts(train, order[0]),
    }
    if arguments.to_recall:
        figures["to_recall"] = {
            "recall@20": arguments.to_recall,
            **_to_recall(train, Task(test, train), tables, arguments.to_recall),
        }
    if arguments.ray_train:
        with tempfile.TemporaryDirectory() as folder:
            figures["seconds_per_epoch"]["ray_train"] = _in_ray_train(Path(folder), arguments.threads) * len(order)
    return {"variant": f"{arguments.threads}_threads", "seeds": [SEED], "figures": figures}


def _trainer(train: Interactions) -> Trainer:
    tree = {
        "name": "lightgcn",
        "seed": SEED,
        "data": {"source": "unused"},
        "encoder": {"name": "lightgcn", "dim": WIDTH, "layers": 1},
        "loss": {"name": "sampled_softmax", "temperature": TEMPERATURE},
        "negatives": [{"name": "in_batch", "exclude": "nothing"}],
        "optimizer": {"learning_rate": LEARNING_RATE, "l2": {"weight": L2}},
        "training": {"batch_size": BATCH, "epochs": MOST_EPOCHS},
    }
    return Trainer(config.parse(tree), train, None, Workers(), CPU)


def _batches(train: Interactions, epoch: int) -> Any:
    return batches(train, batch_size=BATCH, seed=SEED, epoch=epoch, workers=Workers(), device=CPU)


def _largest_difference(script: Script, trainer: Trainer, order: list[Batch]) -> float:
    """Of the losses of both loops' first steps: they compute the same."""
    losses = [(script.step(batch.users_B, batch.items_B), float(trainer.step(batch)) / BATCH) for batch in order]
    apart = max(abs(a - b) for a, b in losses)
    assert apart < 1e-3, f"the losses differ by {apart}: not the same computation"
    return apart


def _to_recall(train: Interactions, task: Task, tables: list[Tensor], wanted: float) -> dict[str, Any]:
    """Seconds of training, looks at the test split left out, and recall@20 by epoch."""
    script, trainer, found = Script(train, *tables), _trainer(train), {}

    def script_epoch(epoch: int) -> None:
        for batch in _batches(train, epoch):
            script.step(batch.users_B, batch.items_B)

    loop = trainer.run()

    def own_epoch(_: int) -> None:
        next(progress for progress in loop if progress.metrics is not None)

    for what, run, model in (("script", script_epoch, script), ("hardneg", own_epoch, trainer.encoder)):
        seconds, recalls = 0.0, []
        while not recalls or (recalls[-1] < wanted and len(recalls) < MOST_EPOCHS):
            started = time.perf_counter()
            run(len(recalls))
            seconds += time.perf_counter() - started
            scorer = Factors(*model.scoring_tables())  # pyright: ignore
            recalls.append(exact.mean(validate(scorer, task, ["recall@20"], range(task.num_tiles))["recall@20"]))
            _common.say(f"{what}: epoch {len(recalls)}, {seconds:.0f} s, recall@20 {recalls[-1]:.4f}")
        found[what] = {"seconds": seconds, "epochs": len(recalls), "recalls": recalls}
    return {**found, "ratio": found["hardneg"]["seconds"] / found["script"]["seconds"]}


def _in_ray_train(storage_path: Path, threads: int) -> float:
    """Seconds of a step in the second epoch of a new training by the project's own programs, on the same rows."""
    fitted = ("fit_on=train+valid", "select_on=none", "epochs=2")
    scale = (f"storage_path={storage_path}", f"cpus_per_worker={threads}")
    changes = [f"seed={SEED}", *(f"scale.{each}" for each in scale), *(f"training.{each}" for each in fitted)]
    _programs.start("prepare", _programs.recipe(RECIPE), changes)
    (run,) = _programs.trained(_programs.recipe(RECIPE), changes, [SEED])
    return _tracking.read_history(run)[-1]["metrics"]["step_seconds"]


def _parts(train: Interactions, batch: Batch) -> dict[str, dict[str, float]]:
    """Milliseconds of each part of a step, forward and backward, beside those of its bound."""
    trainer = _trainer(train)
    encoder: Any = trainer.encoder
    queries, positives = (torch.randn(BATCH, WIDTH).requires_grad_() for _ in range(2))
    table = torch.randn(train.num_users + train.num_items, WIDTH)
    weights = torch.randn(BATCH, BATCH)

    def product() -> None:
        vectors = encoder.queries(batch).vectors.sum() + encoder.items(batch.items_B).vectors.sum()
        encoder.zero_grad()
        vectors.backward()

    def softmax() -> None:
        _losses(trainer, batch, queries, positives).sum().backward()

    def bare_products() -> None:
        _ = queries.detach() @ positives.detach().T, weights @ queries.detach(), weights.T @ queries.detach()

    trainer.step(batch)
    optimizer = trainer.optimizers["model"]
    streams = [torch.ones_like(table) for _ in range(4)]

    def in_place() -> None:
        for stream in streams[:3]:  # Adam reads and writes weights and both moments, and reads the gradient
            stream.mul_(1.0)
        streams[3].sum()

    ids = torch.cat([batch.users_B, batch.items_B])
    edges = sum(graph.matrix[each].nnz for graph, each in zip(encoder._graphs, _distinct(batch), strict=True))

    def reading() -> None:
        """As many rows as the product reads, twice (backward), from where they lie together."""
        for first in range(0, 2 * edges, len(table)):
            streams[0][: min(len(table), 2 * edges - first)].copy_(table[: min(len(table), 2 * edges - first)])

    parts: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "vectors of the batch (sparse products, gathers; bound: copying the rows read)": (product, reading),
        "softmax of 2,048 x 2,048 (bound: its three bare matrix products)": (softmax, bare_products),
        "Adam (bound: scaling in place what it writes, reading the gradient)": (optimizer.step, in_place),
    }
    found = _milliseconds({**{name: run for name, (run, _) in parts.items()}, "step": lambda: trainer.step(batch)})
    bounds = _milliseconds({name: bound for name, (_, bound) in parts.items()})
    told = {name: {"milliseconds": found[name], "bound": bounds[name]} for name in parts}
    told["the whole step (bound: the sum of theirs)"] = {"milliseconds": found["step"], "bound": sum(bounds.values())}
    gathering = {"own": lambda: F.embedding(ids, table), "bound": lambda: streams[0][:4096].copy_(table[:4096])}
    gathered = _milliseconds(gathering)
    told["of it, gathering 4,096 rows (bound: copying as many)"] = {
        "milliseconds": gathered["own"],
        "bound": gathered["bound"],
    }
    return told


def _losses(trainer: Trainer, batch: Batch, queries_BD: Tensor, positives_BD: Tensor) -> Tensor:
    """[B] as the objective folds them once it has the vectors; of queries that are divided by the temperature."""
    loss = trainer.objective.loss
    mixture = Mixture(trainer.encoder, trainer.sources, batch, queries_BD, positives_BD, trainer.workers)
    return loss.finish(mixture.fold(loss, _fold.start(loss, queries_BD, positives_BD), queries_BD))


def _distinct(batch: Batch) -> list[np.ndarray]:
    return [torch.unique(ids).numpy() for ids in (batch.users_B, batch.items_B)]


def _milliseconds(runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    return {name: 1000 * seconds for name, seconds in _common.times(runs).items()}


if __name__ == "__main__":
    sys.exit(_common.main("lightgcn", __doc__ or "", measure, add_arguments))
