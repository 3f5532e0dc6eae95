"""What a recipe will do, before it does anything: rows, users, items, parameters, memory, steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from components import exchange
from components.config import Recipe
from components.data import cleaning, manifest, remote, sources
from components.data.arrow import pc
from components.data.cleaning import Counts
from components.data.interactions import Interactions
from components.errors import InputError
from components.evaluation import splits
from components.evaluation.evaluate import Task
from components.evaluation.ranking import check_k
from components.masks import MAKING_BYTES, Mask
from components.negatives import Memory, check_counts, check_memory
from components.objectives import _drawn, _fold, _shared
from components.objectives._drawn import is_dense
from components.split_rules import GivenSplit, tested
from components.training.batches import steps_per_epoch
from components.training.collectives import Workers
from components.training.loop import Trainer
from components.views import check_neighbours, most_neighbours

SAMPLE_BYTES = 32 * 2**20
SMALL_BANK, SMALL_RATE = 240, 1e-3  # rows of a bank and learning rate of a model that are tried
COPIES = 4  # of every parameter: weight, gradient and Adam's two moments
VECTOR_COPIES = 3  # of looked-up rows, and of what is made of them, at the peak of the backward pass (measured)
APPENDED_COPIES = 2  # of vectors with others beside them, and of these: they and their gradients
AT_LEAST, AT_MOST = "at least ", "at most "


@dataclass(frozen=True)
class Sizes:
    """`source` says how they are known; `rows_are` and `ids_are` (users and items), whether exactly or as a bound."""

    rows: int
    users: int
    items: int
    source: str
    rows_are: str = ""
    ids_are: str = ""
    history: float | None = None  # rows of the log that the user of a row has on average, where the log was read

    @property
    def rows_of_a_user(self) -> float:
        """As many; else the mean of users, which is less: those with more rows are met more often."""
        return self.rows / max(self.users, 1) if self.history is None else self.history


def of(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Checks the source, builds every part and takes one step on a small log; then yields the plan, line by line.

    Raises:
        InputError: the source, a column or a part's argument is wrong, or no row is left to train or to choose an epoch on;
            nothing was written.
    """
    check_memory(recipe)
    source = sources.inspect(recipe.data)
    sizes = _sizes(recipe, source)
    if sizes.ids_are != AT_LEAST:
        cut_offs = {
            "training.metric": int(recipe.training.metric.partition("@")[2]),
            "evaluation.ks": max(recipe.evaluation.ks),
        }
        for name, k in {**cut_offs, "evaluation.recommend_k": recipe.evaluation.recommend_k}.items():
            check_k(k, sizes.items, name)
        check_counts(recipe.negatives, sizes.items, sizes.rows)  # before a part is tried with them
        check_neighbours(recipe.views, sizes.items)
    trainer = try_parts(recipe)
    needs = _needs(recipe, trainer, sizes)
    rows_are, ids_are, batch_size = sizes.rows_are, sizes.ids_are, recipe.training.batch_size
    index_is = rows_are if rows_are == ids_are else "about "
    files = len(source.files)
    yield "source", f"{files:,} file{'s' * (files > 1)}, {_mib(source.bytes)}"
    ids = f"{ids_are}{sizes.users:,} users, {ids_are}{sizes.items:,} items"
    yield "sizes", f"{rows_are}{sizes.rows:,} training rows, {ids} ({sizes.source})"
    yield "parameters", f"{ids_are}{needs.parameters:,}"
    window = trainer.encoder.window
    if window is None:
        of_histories = f"about {_mib(needs.histories)} of what is read beside rows, " if needs.histories else ""
    else:
        of_histories = f"{AT_MOST}{_mib(needs.histories)} of histories of {window.length} and their views, "
    in_all_are = sizes.ids_are or ("about " if window is None else AT_MOST)
    yield (
        "memory",
        f"{ids_are}{_mib(needs.tables)} of tables and Adam, {needs.scores_are}{_mib(needs.scores)} of scores, "
        f"about {_mib(needs.vectors)} of candidates' vectors, about {_mib(needs.masks)} of masks, {of_histories}"
        f"{rows_are}{_mib(needs.order)} of order, {index_is}{_mib(needs.index)} of indices: "
        f"{in_all_are}{_mib(needs.total)} in all, each of {recipe.scale.num_workers} workers; "
        f"{rows_are}{_mib(sizes.rows * 8)} of rows mapped once per node{_of_similar(recipe, sizes)}",
    )
    check_fits(recipe, needs)
    units, units_are, what = _units(trainer, sizes)
    steps = steps_per_epoch(units, batch_size, trainer.objective.positives)
    yield "steps", f"{units_are}{steps:,} per epoch of global batch {batch_size:,}{what}"
    if recipe.scale.num_workers > 1:
        yield "exchange", f"{AT_MOST}{_mib(needs.received)} a step, received by each worker"
    yield "epochs", f"at most {recipe.training.epochs}, {recipe.training.fitted}"


@dataclass(frozen=True)
class Needs:
    """Bytes that each worker holds in a step of the model, and that it receives in one from the others; at most, or about."""

    sizes: Sizes
    parameters: int  # their number
    tables: int  # with gradients and Adam's moments
    scores: int
    scores_are: str
    vectors: int  # of candidates
    masks: int  # of what rows have seen among them, were it all there: those of all sources, and one while it is made
    histories: int  # what encoders that read them make of them, and views; or what is read of a graph
    order: int
    index: int
    received: int

    @property
    def computed_on(self) -> int:
        """What is on the GPU, where there is one."""
        return self.tables + self.scores + self.vectors + self.masks + self.histories

    @property
    def total(self) -> int:
        return self.computed_on + self.order + self.index


def needs_of(recipe: Recipe, train: Interactions) -> Needs:
    """For a prepared log."""
    counts = np.diff(train.offsets).astype(np.float64)
    history = float((counts**2).sum() / max(counts.sum(), 1))
    sizes = Sizes(len(train), train.num_users, train.num_items, "prepared", history=history)
    return _needs(recipe, try_parts(recipe), sizes)


def _needs(recipe: Recipe, trainer: Trainer, sizes: Sizes) -> Needs:
    workers, small = recipe.scale.num_workers, _tame(recipe)
    parameters = _parameters(small, sizes)
    indexed: list[Any] = [trainer.encoder, *trainer.sources]
    index = sum(each.index_bytes(sizes.rows, sizes.users, sizes.items) for each in indexed)
    index += math.ceil(sum(each.vectors_bytes() for each in trainer.memories.values()) / workers)
    step = _of_a_step(recipe, trainer, sizes)
    of_a_worker, objective = math.ceil(step.rows / workers), trainer.objective
    turns = sum("model" in turn for turn in objective.turns)
    looked_up = turns * (of_a_worker + step.looked_up) + objective.encodes * trainer.encoder.looked_up(of_a_worker, sizes.items)
    log = stand_in(32 * workers + 4, 64, rows=12)
    copies = COPIES + sum(each.copies for each in trainer.memories.values()) + (trainer.best is not None)
    return Needs(
        sizes=sizes,
        parameters=parameters,
        tables=parameters * _width(recipe) * copies,
        scores=step.scores * _width(recipe),
        scores_are=step.scores_are,
        vectors=step.vectors * _width(recipe),
        masks=step.masks,
        histories=_of_histories(recipe, trainer, sizes),
        order=sizes.rows * 8,
        index=index,
        received=exchange.received(small, log, step.rows, looked_up, sizes.users, sizes.items),
    )


def check_fits(recipe: Recipe, needs: Needs) -> None:
    """Raises an InputError where what is certain is more than a worker has.

    Bounds from above, as of histories that are all as long as may be, or of masks, are not certain. How much a GPU has is not
    known here.
    """
    limit = recipe.scale.memory_per_worker_gib
    certain = 0 if needs.sizes.rows_are == AT_MOST else needs.order + needs.index
    if not recipe.scale.use_gpu:
        certain += needs.computed_on - needs.histories - needs.masks
    if needs.sizes.ids_are != AT_MOST and certain > limit * 2**30:
        raise InputError(
            f"scale.memory_per_worker_gib: got {limit:g}, takes at least {certain / 2**30:,.3g} for what each of "
            f"{recipe.scale.num_workers} workers holds: {_mib(needs.tables)} of tables and Adam, "
            f"{_mib(needs.scores)} of scores, {_mib(needs.vectors)} of candidates' vectors, "
            f"{_mib(needs.order + needs.index)} of order and indices"
        )


def _units(trainer: Trainer, sizes: Sizes) -> tuple[int, str, str]:
    """What `batch_size` counts, how that is known, and its name where it is not rows."""
    if trainer.objective.positives == "sequences":
        return sizes.users, sizes.ids_are or AT_MOST, " sequences"
    if trainer.encoder.window is not None:  # a user's first row has no history
        return max(sizes.rows - sizes.users, 1), "about ", ""
    return sizes.rows, sizes.rows_are, ""


def _width(recipe: Recipe) -> int:
    return 8 if recipe.training.precision == "float64" else 4


class _Step(NamedTuple):
    rows: int  # of a batch
    scores: int  # numbers, of a worker's rows
    scores_are: str
    vectors: int  # numbers, of their candidates, of each row or of a pool that all rows share
    looked_up: int  # rows of tables, for these
    masks: int  # bytes


def _of_a_step(recipe: Recipe, trainer: Trainer, sizes: Sizes) -> _Step:
    """What a worker meets."""
    batch_size = recipe.training.batch_size
    if trainer.objective.positives == "sequences":  # a row for each place but the first
        batch_size = math.ceil(batch_size * max(sizes.rows / sizes.users - 1, 1))
    rows = math.ceil(batch_size / recipe.scale.num_workers)
    batch = next(trainer.batches())
    positive = trainer.encoder.items(batch.items_B)
    width, kinds = positive.vectors.shape[1], 1 if positive.vectors is positive.rows else 2
    scores = vectors = looked_up = masks = made = 0
    scores_are, appended = "", getattr(trainer.objective, "appended", 0)
    for source in trainer.objective.sources:
        found = source(batch, positive.vectors)
        per_row = found.items.dim() == 2
        candidates = source.candidates_of_a_row(batch_size, sizes.items)
        if source.candidates_of_a_row(batch_size, sizes.items + 1) != candidates:
            scores_are = sizes.ids_are
        is_shared = isinstance(source, Memory) or getattr(source, "exchange", "gather") == "ring"
        shares = recipe.scale.num_workers if is_shared else 1  # of candidates, that all rows meet
        distinct = min(rows * candidates, sizes.items) if per_row else math.ceil(candidates / shares)
        if found.excluded is not None:
            met, of_each = (batch_size, shares) if isinstance(source, Memory) else (rows, 1)
            pairs = math.ceil(met * (sizes.rows_of_a_user if source.exclude == "seen" else 1))
            masks += Mask.kept_bytes(pairs, math.ceil(candidates / of_each))
            made = max(made, pairs * MAKING_BYTES)
        pools = [(per_row, candidates, distinct)]
        if hardest := getattr(source, "hardest", None):  # each row has its own of them then, found without a gradient
            vectors += distinct * width * kinds
            pools.append((True, hardest, min(rows * hardest, distinct)))
        per_row, candidates, distinct = pools[-1]
        vectors += distinct * (width * kinds * VECTOR_COPIES + (APPENDED_COPIES * (width + 2 * appended) if appended else 0))
        looked_up += distinct if found.vectors is None else 0
        for per_row, candidates, distinct in pools:
            gathered = per_row and not is_dense(distinct, candidates)
            numbers = rows * (candidates * width if gathered else distinct * shares)
            if numbers > _fold.NUMBERS_AT_ONCE:
                scores += 2 * (_drawn.NUMBERS_AT_ONCE if per_row else _shared.numbers_of_a_tile(use_gpu=recipe.scale.use_gpu))
                continue
            scores += rows * candidates * 2 * (2 if appended else 1)  # and as much for the backward pass
            if gathered:
                vectors += rows * candidates * width * 2  # a row's own, gathered, and their gradient
            elif per_row:
                scores += rows * distinct * 2
    return _Step(batch_size, scores, scores_are, vectors, looked_up, masks + made)


def _of_histories(recipe: Recipe, trainer: Trainer, sizes: Sizes) -> int:
    """What encoders that read histories hold for a worker's, all as long as may be, their views, and what is made of both."""
    if trainer.encoder.window is None:
        if not hasattr(trainer.encoder, "read_bytes"):
            return 0
        rows = math.ceil(recipe.training.batch_size / recipe.scale.num_workers)
        return trainer.encoder.read_bytes(rows, sizes.rows_of_a_user, sizes.users, sizes.items, _width(recipe))
    batch_size, items = recipe.training.batch_size, None if sizes.ids_are == AT_LEAST else sizes.items
    rows = math.ceil(batch_size / recipe.scale.num_workers)
    return trainer.objective.step_bytes(rows, batch_size, items, _width(recipe), recipe.scale.use_gpu)


def _of_similar(recipe: Recipe, sizes: Sizes) -> str:
    """The table that views draw from, computed by one process of each node."""
    held = 4 * sizes.items * most_neighbours(recipe.views)
    return f", {sizes.ids_are}{_mib(held)} of similar items too" if held else ""


def _mib(count: float) -> str:
    return f"{count / 2**20:,.1f} MiB"


def stand_in(users: int, items: int, rows: int = 2) -> Interactions:
    """A log in which user u has items u, u + 1, .. u + rows - 1, turning around."""
    u = np.repeat(np.arange(users), rows)
    return Interactions.of(u.astype(np.int32), ((u + np.tile(np.arange(rows), users)) % items).astype(np.int32), users, items)


def try_parts(recipe: Recipe) -> Trainer:
    """One step of every learner with every part, on CPU, on a log of 240 rows.

    Of 16 rows nearly all have a history of which views leave something and change something; the epoch is one without warm-up.
    Where there are banks the second step meets what the first has left; they are small, and tell of the recipe's size then.
    """
    log = stand_in(20, 64, rows=12)
    small = _tame(recipe)
    small = small.model_copy(update={"training": recipe.training.model_copy(update={"batch_size": 16})})
    trainer = Trainer(small, log, Task(log, log), Workers(), torch.device("cpu"))
    trainer.position.epoch = trainer.objective.first_whole_epoch
    for memory in trainer.memories.values():
        memory.skip_warm_up()
    for number, learner in enumerate(trainer.objective.passes(trainer.position.epoch)):
        trainer.position.pass_ = number
        for batch in itertools.islice(trainer.batches(), 2 if trainer.memories else 1):
            for loss in trainer.update(batch, learner).tolist():
                if not math.isfinite(loss):
                    raise InputError(f"loss: got {loss} from one step on a small log, takes parts whose loss is finite")
    for source, spec in zip(trainer.sources, recipe.negatives, strict=True):
        if isinstance(source, Memory):
            source.size = spec["size"]
    return trainer


def _tame(recipe: Recipe) -> Recipe:
    """With small banks and small steps: it is the parts that are tried."""
    rate = min(recipe.optimizer.learning_rate, SMALL_RATE)
    sizes = [{"size": min(spec["size"], SMALL_BANK)} if "size" in spec else {} for spec in recipe.negatives]
    negatives = [spec | size for spec, size in zip(recipe.negatives, sizes, strict=True)]
    optimizer = recipe.optimizer.model_copy(update={"learning_rate": rate})
    scale = recipe.scale.model_copy(update={"compile": False})  # this machine may have no compiler
    return recipe.model_copy(update={"negatives": negatives, "optimizer": optimizer, "scale": scale})


def _sizes(recipe: Recipe, source: sources.SourcePlan) -> Sizes:
    folder, fit_on = manifest.dataset_path(recipe, source), recipe.training.fit_on.split("+")
    _check_test(recipe, tested(recipe.data.split) or ())
    if prepared := remote.prepared(recipe.scale, folder):
        at, found = prepared
        _check_test(recipe, (name for name, rows in found["rows"].items() if rows))
        if recipe.training.select_on != "none":
            splits.require(at, found, recipe.training.select_on, "training.select_on")
        rows = sum(found["rows"][split] for split in fit_on)
        return Sizes(rows, found["num_users"], found["num_items"], f"prepared: {at}")
    places = {sources.file_split(recipe.data, file) for file in source.files}
    if None not in places:
        _check_selection(recipe, places)
        _check_test(recipe, {name for name in places if name})
    users, items, counts, taken = [], [], Counts(), 0
    for part in source.parts():
        for block in cleaning.clean_part(part, recipe.data, source):
            users.append(pc.unique(block.kept["user"]))
            items.append(pc.unique(block.kept["item"]))
            counts += block.counts
            taken += block.kept.nbytes
            if taken > SAMPLE_BYTES:
                rows, rows_are = (counts.kept, AT_LEAST) if source.rows is None else (source.rows, AT_MOST)
                known = "not prepared: of its first rows, before repeats, k-core and splits"
                return Sizes(rows, _distinct(users), _distinct(items), known, rows_are, AT_LEAST)
    manifest.refuse_if_empty(counts.kept, counts, "cleaning")
    rows = counts.kept
    if recipe.data.split.by == "given":
        manifest.refuse_if_empty(counts.splits["train"], counts, "cleaning that is in train")
        _check_selection(recipe, set(counts.splits))
        _check_test(recipe, counts.splits)
        rows = sum(counts.splits[split] for split in fit_on)
    known = "not prepared: before repeats, k-core and splits"
    return Sizes(rows, _distinct(users), _distinct(items), known, AT_MOST, AT_MOST)


def _check_selection(recipe: Recipe, given: set[str | None]) -> None:
    """Refuses to choose on a split that a source, which gives its splits, does not have."""
    chosen, split = recipe.training.select_on, recipe.data.split
    assert isinstance(split, GivenSplit), "other splits are cut from any source"
    cut = {"valid"} if split.valid_fraction else set()
    held_out = {name for name in given | cut if name and (name == "test" or name.partition("_")[0] == "valid")}
    takes = [*sorted(held_out, key=lambda name: (name == "test", name)), "none"]
    if chosen not in takes:
        more = ", and data.split.valid_fraction is 0" if chosen == "valid" else ""
        raise InputError(
            f"training.select_on: got {chosen!r}, takes {' or '.join(takes)}: data.source has no rows of {chosen}{more}"
        )


def _check_test(recipe: Recipe, given: Iterable[str]) -> None:
    """Refuses to test on a split that is not there where other tests are. A log without any is one to train on alone."""
    asked, takes = recipe.evaluation.split, sorted(name for name in given if name.partition("_")[0] == "test")
    if takes and asked not in takes:
        raise InputError(f"evaluation.split: got {asked!r}, takes {' or '.join(takes)}, which data.split and data.source give")


def _distinct(parts: list[pa.Array]) -> int:
    return len(pc.unique(pa.chunked_array(parts)))


def _parameters(recipe: Recipe, sizes: Sizes) -> int:
    """Every learner's; exact where they grow linearly in users and items, as tables do: extrapolated from three small logs."""

    def count(users: int, items: int) -> int:
        trainer = Trainer(recipe, stand_in(users, items), None, Workers(), torch.device("cpu"))
        return sum(weight.numel() for learner in trainer.learners.values() for weight in learner.module.parameters())

    base, more_users, more_items = count(4, 4), count(5, 4), count(4, 5)
    return base + (sizes.users - 4) * (more_users - base) + (sizes.items - 4) * (more_items - base)
