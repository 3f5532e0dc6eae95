"""Passes over histories: every positive once, the same whoever has it; prefixes and whole sequences, where they agree."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.config import Recipe
from components.data.histories import Window, with_positives
from components.data.interactions import Interactions
from components.evaluation.evaluate import Task
from components.negatives.in_batch import InBatch
from components.training.batches import Batch, batches, steps_per_epoch, units
from components.training.collectives import Workers
from components.training.loop import Trainer
from components.training.optimizer import penalty
from tests.benchmarks import _logs
from tests.logs import log
from tests.worlds import Share, recipe, small_log

TASK = small_log()
LONGEST = int(np.diff(TASK.seen.offsets).max())


@pytest.mark.parametrize("name", ["sasrec", "mean_pool"])
@pytest.mark.parametrize("on", ["rows", "positives"])
def test_l2_leaves_the_tables_gradient_sparse(name: str, on: str) -> None:
    """Workers exchange the rows that a batch touched, not the table."""
    encoder = {"name": name, "dim": 8, "inner_dim": 16, "max_length": LONGEST}
    few = {"batch_size": 16, "epochs": 3, "precision": "float64"}
    l2 = {"l2": {"weight": 0.1, "on": on}}
    made = trainer(sequential(encoder=encoder, negatives=[{"name": "in_batch"}], optimizer=l2, training=few))
    batch = next(made.batches())
    outcome = made.objective(batch)
    (outcome.loss_B.sum() + penalty(made.recipe.optimizer.l2, outcome, batch.rows, 1)).backward()
    assert made.encoder.item_table.grad.is_sparse


def sequential(positives: str = "rows", dropout: float = 0.0, length: int = LONGEST, **sections: Any) -> Recipe:
    """SASRec with full softmax."""
    base: dict[str, Any] = {
        "data": {"source": "log.csv", "split": {"by": "leave_one_out"}},
        "encoder": {"name": "sasrec", "dim": 8, "inner_dim": 16, "max_length": length, "dropout": dropout, "init_std": 0.4},
        "objective": {"name": "supervised", "positives": positives},
        "negatives": [{"name": "all_items"}],
        "training": {"batch_size": 10_000, "epochs": 3, "precision": "float64"},
    }
    return recipe(**{**base, **sections})


def trainer(given: Recipe, task: Task = TASK) -> Trainer:
    return Trainer(given, task.seen, task, Workers(), torch.device("cpu"))


def read_by_row(batch: Batch) -> list[tuple[int, int, list[int]]]:
    """(user, positive, what is read for it) of each row."""
    read = batch.histories
    assert read is not None
    count = len(batch.users_B)
    sequence_B = torch.arange(count) if read.sequence_B is None else read.sequence_B
    place_B = read.lengths_S - 1 if read.place_B is None else read.place_B
    rows = zip(batch.users_B.tolist(), batch.items_B.tolist(), sequence_B.tolist(), place_B.tolist(), strict=True)
    return [(user, item, read.items_SL[s, : p + 1].tolist()) for user, item, s, p in rows]


def rows_of(given: Recipe, workers: Workers | None = None, epoch: int = 0, seed: int = 0) -> list[list[Any]]:
    """What each batch of an epoch reads."""
    t = trainer(given)
    form: Any = t.objective.positives
    where = {"workers": workers or Workers(), "device": torch.device("cpu"), "window": t.encoder.window, "positives": form}
    stream = batches(t.train, batch_size=given.training.batch_size, seed=seed, epoch=epoch, **where)
    return [read_by_row(batch) for batch in stream]


def flat(parts: Iterable[list[Any]]) -> list[Any]:
    return list(itertools.chain.from_iterable(parts))


def small_batches(positives: str, size: int, **settings: Any) -> Recipe:
    return sequential(positives, training={"batch_size": size, "epochs": 3, "precision": "float64"}, **settings)


@pytest.mark.parametrize(("positives", "size"), [("rows", 50), ("sequences", 7)])
def test_every_positive_once_an_epoch_with_what_was_before_it(positives: str, size: int) -> None:
    first, second = (flat(rows_of(small_batches(positives, size), epoch=epoch)) for epoch in (0, 1))
    wanted = []
    for user in range(TASK.seen.num_users):
        own = TASK.seen.items_of(user).tolist()
        wanted += [(user, item, own[:place]) for place, item in enumerate(own) if place]
    assert sorted(first) == sorted(second) == sorted(wanted)
    assert first != second
    assert first == flat(rows_of(small_batches(positives, size)))
    assert first != flat(rows_of(small_batches(positives, size), seed=1))


@pytest.mark.parametrize(("positives", "size"), [("rows", 50), ("sequences", 7), ("sequences", 2)])
@pytest.mark.parametrize("workers", [2, 3])
def test_workers_read_what_one_reads(positives: str, size: int, workers: int) -> None:
    given = small_batches(positives, size)
    whole = rows_of(given)
    parts = [rows_of(given, Share(rank, workers)) for rank in range(workers)]
    assert [flat(own) for own in zip(*parts, strict=True)] == whole
    assert max(len(batch) for batch in parts[0]) < max(len(batch) for batch in whole)


def whole_epoch(given: Recipe) -> tuple[dict[tuple[int, int], float], dict[str, torch.Tensor]]:
    """The loss of each (user, positive), and the gradient of their sum, of an epoch in one batch."""
    t = trainer(given)
    (batch,) = t.batches()
    loss_B = t.objective(batch).loss_B
    loss_B.sum().backward()
    found = {name: p.grad.to_dense() for name, p in t.encoder.named_parameters()}
    return dict(zip(zip(batch.users_B.tolist(), batch.items_B.tolist(), strict=True), loss_B.tolist(), strict=True)), found


def test_whole_sequences_are_their_prefixes_where_the_window_holds_them() -> None:
    losses, gradients = whole_epoch(sequential("rows"))
    at_once, gradients_at_once = whole_epoch(sequential("sequences"))
    assert set(at_once) == set(losses)
    assert all(at_once[row] == pytest.approx(losses[row], rel=1e-10) for row in losses)
    for name, gradient in gradients.items():
        assert torch.allclose(gradients_at_once[name], gradient, rtol=1e-9, atol=1e-11), name


def test_where_the_window_is_shorter_they_differ() -> None:
    """A sequence has its last positives alone, and of them all but the last are read from fewer items than a prefix has."""
    length = 4
    losses, _ = whole_epoch(sequential("rows", length=length))
    at_once, _ = whole_epoch(sequential("sequences", length=length))
    assert set(at_once) < set(losses)
    longer = [user for user in range(TASK.seen.num_users) if len(TASK.seen.items_of(user)) > length + 1]
    assert len(longer) > 10
    for user in longer:
        own = TASK.seen.items_of(user).tolist()
        assert [item for who, item in at_once if who == user] == own[-length:]
        assert at_once[user, own[-1]] == pytest.approx(losses[user, own[-1]], rel=1e-10)
        assert all(abs(at_once[user, item] - losses[user, item]) > 1e-9 for item in own[-length:-1])


def test_a_loss_is_the_mean_over_all_positives() -> None:
    for positives, size in (("rows", 50), ("sequences", 7)):
        still = small_batches(positives, size, optimizer={"learning_rate": 1e-300})
        t = trainer(still)
        told = next(progress.metrics for progress in t.run() if progress.metrics)
        losses, _ = whole_epoch(sequential(positives))
        assert told["loss"] == pytest.approx(np.mean(list(losses.values())), rel=1e-10)
        assert units(t.train, t.objective.positives) == (len(losses) if positives == "rows" else len({u for u, _ in losses}))


def test_in_batch_counts_draws_among_positives_alone() -> None:
    """A user's first item is never a row of a batch, so that it is never drawn as one."""
    t = trainer(sequential(negatives=[{"name": "in_batch"}]))
    counts = np.zeros(TASK.seen.num_items)
    for user in range(TASK.seen.num_users):
        for item in TASK.seen.items_of(user)[1:]:
            counts[item] += 1
    (source,) = t.sources
    assert isinstance(source, InBatch)
    (batch,) = t.batches()
    found = source.expected_count(batch, torch.arange(TASK.seen.num_items))
    assert found.numpy() == pytest.approx((batch.rows - 1) * counts / counts.sum(), rel=1e-12)


@pytest.mark.parametrize("positives", ["rows", "users", "sequences"])
def test_from_every_checkpoint_on_the_future_is_the_same_bits(tmp_path: Path, positives: str) -> None:
    training = {"batch_size": 20, "epochs": 2, "precision": "float64", "checkpoint_steps": 2}
    negatives = [{"name": "uniform", "count": 10}, {"name": "uniform", "count": 2, "per": "row"}]
    given = sequential(positives, dropout=0.3, length=6, training=training, negatives=negatives)
    whole, left, told = trainer(given), [], []
    for progress in whole.run():
        if progress.metrics:
            told.append(progress.metrics["valid_recall@20"])
        if progress.checkpoint_due:
            left.append((tmp_path / f"{len(left)}", len(told)))
            whole.save(left[-1][0], "0123456789ab")
    assert len(left) > 3
    for path, before in left:
        resumed = trainer(given)
        resumed.restore(path, "0123456789ab")
        assert [p.metrics["valid_recall@20"] for p in resumed.run() if p.metrics] == told[before:]
        for name, value in whole.encoder.state_dict().items():
            assert torch.equal(resumed.encoder.state_dict()[name], value)


def test_a_refit_is_the_other_run_at_that_epoch_bit_for_bit() -> None:
    def after(epochs: int, looks: bool) -> dict[str, torch.Tensor]:
        training = {"batch_size": 50, "epochs": epochs, "fit_on": "train+valid", "select_on": "test" if looks else "none"}
        given = sequential(dropout=0.3, training=training)
        t = Trainer(given, TASK.seen, TASK if looks else None, Workers(), torch.device("cpu"))
        for progress in t.run():
            if progress.metrics is not None and progress.epoch == 1:
                break
        return t.encoder.state_dict()

    refit, looked = after(2, looks=False), after(4, looks=True)
    assert all(torch.equal(refit[name], looked[name]) for name in refit)


@pytest.mark.parametrize(
    ("encoder", "positives", "loss"),
    [
        ("sasrec", "rows", "full"),
        ("sasrec", "sequences", "sampled"),
        ("sasrec", "sequences", "bce"),
        ("mean_pool", "rows", "sampled"),
        ("mean_pool", "sequences", "full"),
    ],
)
def test_it_learns_what_comes_next(encoder: str, positives: str, loss: str) -> None:
    """Users walk around a circle of items from where they please; the next one is known from the last alone.

    A mean does not tell the last from the first: of five unseen items it is to find the one on the right side of a run.
    """
    items, rows = 12, 8
    walks = [[(3 * user + step) % items for step in range(rows)] for user in range(36)]
    parts = ([walk[:-1] for walk in walks], [walk[-1:] for walk in walks])
    seen, truth = (
        Interactions.of([u for u, own in enumerate(part) for _ in own], [i for own in part for i in own], 36, items)
        for part in parts
    )
    settings: dict[str, Any] = {
        "full": {"loss": {"name": "sampled_softmax", "temperature": 1.0}, "negatives": [{"name": "all_items"}]},
        "sampled": {
            "loss": {"name": "sampled_softmax", "temperature": 1.0, "logq": True},
            "negatives": [{"name": "in_batch", "exclude": "nothing"}, {"name": "uniform", "count": 6, "exclude": "nothing"}],
        },
        "bce": {"loss": {"name": "bce"}, "negatives": [{"name": "uniform", "count": 1, "per": "row", "exclude": "nothing"}]},
    }[loss]
    base = {"name": encoder, "dim": 16, "inner_dim": 32, "max_length": 7}
    given = sequential(
        positives,
        encoder={**base, **({"dropout": 0.0} if encoder == "sasrec" else {"init_std": 0.1})},
        optimizer={"learning_rate": 0.01},
        training={"batch_size": 6 if positives == "sequences" else 36, "epochs": 30, "metric": "hit@1", "patience": 30},
        **settings,
    )
    told = [progress.metrics["valid_hit@1"] for progress in trainer(given, Task(truth, seen)).run() if progress.metrics]
    assert max(told) > (0.9 if encoder == "sasrec" else 0.6)


@pytest.mark.parametrize(("name", "rows", "steps"), [("beauty", 131_413, 514), ("sports", 189_543, 741)])
def test_published_logs_have_as_many_prefixes(name: str, rows: int, steps: int) -> None:
    """A user of n rows has n - 3: the last two are held out, and the first has nothing before it."""
    log(Path(_logs.SEQUENCES[name]).stem)
    train = with_positives(_logs.read(name, "train"), Window(50), "rows")
    assert units(train, "rows") == rows
    assert steps_per_epoch(rows, 256) == steps
