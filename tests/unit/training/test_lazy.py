"""Lazy Adam moves the rows that a step looked up and no others; what workers say to each other knows no catalogue."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from components.data.interactions import Interactions
from components.encoders import mf
from components.errors import InputError
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.worlds import in_processes, recipe, small_log

SCHEMES: dict[str, dict[str, Any]] = {
    "in_batch": {},
    "mixture": {
        "negatives": [{"name": "in_batch"}, {"name": "uniform", "count": 30}, {"name": "uniform", "count": 5, "per": "row"}],
        "encoder": {"name": "mf", "dim": 8, "dropout": 0.3},
        "optimizer": {"lazy": True, "l2": {"weight": 0.1, "on": "rows"}},
    },
    "sasrec": {
        "data": {"source": "log.csv", "split": {"by": "leave_one_out"}},
        "encoder": {"name": "sasrec", "dim": 8, "inner_dim": 16, "max_length": 7, "init_std": 0.5, "dropout": 0.3},
    },
    "adv_infonce": {
        "objective": {"name": "adv_infonce", "adv_interval": 1, "adv_learning_rate": 0.05},
        "negatives": [{"name": "uniform", "count": 5, "per": "row"}],
    },
}


def trainer_of(train: Interactions | None = None, **sections: Any) -> Trainer:
    given = recipe(**{"optimizer": {"lazy": True, "learning_rate": 0.02}, **sections})
    return Trainer(given, train or small_log().seen, None, Workers(), torch.device("cpu"))


def test_the_rule_in_loops() -> None:
    trainer = trainer_of(training={"batch_size": 12, "precision": "float64"})
    named = dict(trainer.encoder.named_parameters())
    rows = {name: table.tolist() for name, table in named.items()}
    m, v = ({name: [[0.0] * 8 for _ in table] for name, table in rows.items()} for _ in range(2))
    rested = 0
    for t, batch in enumerate(itertools.islice(trainer.batches(), 12), start=1):
        loss = trainer.objective(batch).loss_B.sum() / batch.rows
        gradients = torch.autograd.grad(loss, list(named.values()))
        before = {name: table.detach().clone() for name, table in named.items()}
        trainer.update(batch)
        for name, gradient in zip(named, gradients, strict=True):
            touched = set(gradient._indices()[0].tolist())
            for row, of_row in enumerate(gradient.to_dense().tolist()):
                if row not in touched:
                    assert torch.equal(named[name][row], before[name][row])
                    rested += any(m[name][row])
                    continue
                for d, g in enumerate(of_row):
                    m[name][row][d] = 0.9 * m[name][row][d] + 0.1 * g
                    v[name][row][d] = 0.999 * v[name][row][d] + 0.001 * g * g
                    rate = 0.02 * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
                    rows[name][row][d] -= rate * m[name][row][d] / (math.sqrt(v[name][row][d]) + 1e-8)
            assert (named[name] - torch.tensor(rows[name], dtype=torch.float64)).abs().max() < 1e-9
    assert rested > 100, "rows that moved once lie still in other steps"


def test_the_first_step_is_the_dense_ones() -> None:
    lazy, dense = (trainer_of(optimizer={"learning_rate": 0.02, "lazy": each}) for each in (True, False))
    for trainer in (lazy, dense):
        trainer.update(next(trainer.batches()))
    assert (lazy.encoder.user_table - dense.encoder.user_table).abs().max() < 1e-4


def trained(scheme: str) -> dict[str, Any]:
    trainer = trainer_of(**SCHEMES[scheme])
    losses = [progress.metrics["loss"] for progress in trainer.run() if progress.metrics]
    return {"losses": losses, **{name: table.detach() for name, table in trainer.encoder.named_parameters()}}


def received(items: int, *, lazy: bool = True) -> int:
    """Bytes of three steps on the rows of one log, in catalogues of so many items."""
    log = small_log().seen
    negatives, optimizer = [{"name": "in_batch"}, {"name": "uniform", "count": 30}], {"lazy": lazy}
    train = Interactions.of(log.users, log.items, log.num_users, items)
    trainer = trainer_of(train, negatives=negatives, optimizer=optimizer)
    for batch in itertools.islice(trainer.batches(), 3):
        trainer.update(batch)
        assert all(table.grad.is_sparse == lazy for table in trainer.encoder.parameters())
    return trainer.workers.received


def one_row(num_rows: int, dim: int, *_: Any) -> torch.nn.Parameter:
    """A table whose rows are one in memory."""
    return torch.nn.Parameter(torch.ones(1, dim, dtype=torch.float64).expand(num_rows, dim))


def received_of_large(items: int) -> int:
    """The same, of catalogues too large to hold: tables are one row, and rest."""
    log = small_log().seen
    negatives = [{"name": "uniform", "count": 30}, {"name": "uniform", "count": 5, "per": "row", "exclude": "nothing"}]
    with mock.patch.object(mf, "new_table", one_row):
        trainer = trainer_of(Interactions.of(log.users, log.items, log.num_users, items), negatives=negatives)
    for batch in itertools.islice(trainer.batches(), 3):
        with mock.patch.object(trainer.optimizers["model"], "step"):
            trainer.update(batch)
        assert trainer.encoder.item_table.untyped_storage().nbytes() == 8 * 8
        assert all(table.grad.is_sparse for table in trainer.encoder.parameters())
    return trainer.workers.received


def everything() -> dict[str, Any]:
    counts = {
        "received": {items: received(items) for items in (10**3, 10**5)},
        "received, dense": {items: received(items, lazy=False) for items in (10**3, 10**5)},
        "received of large": {items: received_of_large(items) for items in (10**5, 10**7)},
    }
    return {scheme: trained(scheme) for scheme in SCHEMES} | counts


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return everything()


@pytest.mark.parametrize("workers", [2, 3])
def test_w_workers_are_one_and_bytes_know_no_catalogue(tmp_path: Path, alone: dict[str, Any], workers: int) -> None:
    for worker in in_processes(everything, workers, tmp_path):
        for scheme in SCHEMES:
            assert worker[scheme]["losses"] == pytest.approx(alone[scheme]["losses"], rel=1e-9)
            for name, table in alone[scheme].items():
                if name != "losses":
                    assert (worker[scheme][name] - table).abs().max() < 1e-6, (scheme, name)
        small, large = worker["received"].values()
        assert small == large > 3 * 50 / workers * 8 * 8, "more than the rows of another worker's users"
        assert large < 10**5 * 8 * 8, "less than a table"
        assert worker["received, dense"] == worker["received"], "whole tables move, and none travels"
        large, largest = worker["received of large"].values()
        assert large == pytest.approx(largest, rel=0.02), "but for items that a batch draws twice, which are sent once"
    assert alone["received"] == {10**3: 0, 10**5: 0}


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"l2": {"weight": 0.1, "on": "tables"}}, "optimizer.l2.on: got 'tables', takes rows or positives where"),
        ({"clip_norm": 2.0}, "optimizer.clip_norm: got 2, takes null where optimizer.lazy is true"),
    ],
)
def test_what_needs_whole_tables_is_refused(optimizer: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        recipe(optimizer={"lazy": True, **optimizer})
    assert str(caught.value).startswith(message)
    recipe(optimizer=optimizer)
    recipe(optimizer={"lazy": True, "l2": {"weight": 0.0, "on": "tables"}})


def test_an_encoder_that_reads_whole_tables_is_refused() -> None:
    trainer = trainer_of(encoder={"name": "lightgcn", "dim": 8, "layers": 2})
    with pytest.raises(InputError, match=r"^optimizer\.lazy: got True, takes False where the gradient of encoder's user_table"):
        trainer.update(next(trainer.batches()))
