"""What a recipe will do, before it does anything: rows, users, items, parameters, memory, steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from components import catalog, storage
from components.config import Recipe
from components.data import cleaning, sources
from components.data.arrow import pc
from components.data.interactions import Interactions
from components.data.manifest import dataset_path
from components.evaluation.evaluate import Task
from components.evaluation.ranking import check_k
from components.training.batches import steps_per_epoch
from components.training.collectives import Workers
from components.training.loop import Trainer

SAMPLE_BYTES = 32 * 2**20
COPIES = 4  # of every parameter: weight, gradient and Adam's two moments


@dataclass(frozen=True)
class Sizes:
    """`source` says how they are known."""

    rows: int
    users: int
    items: int
    source: str
    at_least: bool = False


def of(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Checks the source, builds every part and takes one step on a small log; then yields the plan, line by line.

    Raises:
        InputError: the source, a column or a part's argument is wrong; nothing was written.
    """
    source = sources.inspect(recipe.data)
    trainer = _try_parts(recipe)
    sizes = _sizes(recipe, source)
    if not sizes.at_least:
        cut_offs = {
            "training.metric": int(recipe.training.metric.partition("@")[2]),
            "evaluation.ks": max(recipe.evaluation.ks),
        }
        for name, k in {**cut_offs, "evaluation.recommend_k": recipe.evaluation.recommend_k}.items():
            check_k(k, sizes.items, name)
    parameters = _parameters(recipe, sizes)
    scale, batch_size = recipe.scale, recipe.training.batch_size
    width = 8 if recipe.training.precision == "float64" else 4
    candidates = sum(source.candidates_of_a_row(batch_size) for source in trainer.sources)
    scores = math.ceil(batch_size / scale.num_workers) * candidates * width * 2  # and as much for the backward pass
    yield "source", f"{len(source.files)} files, {_mib(source.bytes)}"
    yield "sizes", f"{sizes.rows:,} training rows, {sizes.users:,} users, {sizes.items:,} items ({sizes.source})"
    yield "parameters", f"{parameters:,}"
    yield (
        "memory",
        (
            f"{_mib(parameters * width * COPIES)} of tables and Adam, {_mib(scores)} of scores, {_mib(sizes.rows * 8)} "
            f"of order, each of {scale.num_workers} workers; {_mib(sizes.rows * 8)} of rows mapped once per node"
        ),
    )
    yield "steps", f"{steps_per_epoch(sizes.rows, batch_size):,} per epoch of global batch {batch_size:,}"
    yield "epochs", f"at most {recipe.training.epochs}, fit on {recipe.training.fit_on}, chosen on {recipe.training.select_on}"


def _mib(count: float) -> str:
    return f"{count / 2**20:,.1f} MiB"


def stand_in(users: int, items: int) -> Interactions:
    """A log in which user u has items u and u + 1, turning around."""
    u = np.repeat(np.arange(users), 2)
    return Interactions.of(u.astype(np.int32), ((u + np.tile([0, 1], users)) % items).astype(np.int32), users, items)


def _try_parts(recipe: Recipe) -> Trainer:
    """One step of every part together, on CPU, on a log of 40 rows."""
    log = stand_in(20, 64)
    small = recipe.model_copy(update={"training": recipe.training.model_copy(update={"batch_size": 8})})
    trainer = Trainer(small, log, Task(log, log), Workers(), torch.device("cpu"))
    loss = float(trainer.step(next(trainer.batches())))
    assert math.isfinite(loss), f"one step on a small log gave the loss {loss}"
    return trainer


def _sizes(recipe: Recipe, source: sources.SourcePlan) -> Sizes:
    folder = dataset_path(recipe)
    if storage.is_finished(folder):
        found = storage.open_finished(folder, "dataset")
        rows = sum(found["rows"][split] for split in recipe.training.fit_on.split("+"))
        return Sizes(rows, found["num_users"], found["num_items"], f"prepared: {folder}")
    users, items, read, taken = [], [], 0, 0
    for part in source.parts():
        for block in cleaning.clean_part(part, recipe.data, source):
            users.append(pc.unique(block.kept["user"]))
            items.append(pc.unique(block.kept["item"]))
            read += block.counts.kept
            taken += block.kept.nbytes
            if taken > SAMPLE_BYTES:
                return Sizes(read, _distinct(users), _distinct(items), "not prepared: at least, in the first part", True)
    return Sizes(read, _distinct(users), _distinct(items), "not prepared: at most, before repeats, k-core and splits")


def _distinct(parts: list[pa.Array]) -> int:
    return len(pc.unique(pa.chunked_array(parts)))


def _parameters(recipe: Recipe, sizes: Sizes) -> int:
    """Exact where they grow linearly in users and items, as tables do: extrapolated from three small encoders."""

    def count(users: int, items: int) -> int:
        generator = torch.Generator().manual_seed(0)
        return sum(p.numel() for p in catalog.build("encoder", recipe.encoder, stand_in(users, items), generator).parameters())

    base, more_users, more_items = count(4, 4), count(5, 4), count(4, 5)
    return base + (sizes.users - 4) * (more_users - base) + (sizes.items - 4) * (more_items - base)
