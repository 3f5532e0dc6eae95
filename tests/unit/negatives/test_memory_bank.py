"""The memory bank: first in, first out, the same for any number of workers, and there again after a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components import catalog
from components.data.interactions import Interactions
from components.training.batches import Batch
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.worlds import recipe, small_log

TRAIN = small_log().seen


def bank_of(size: int, train: Interactions = TRAIN) -> Any:
    return catalog.build("negatives", {"name": "memory_bank", "size": size}, train, Workers(), "negatives.0")


def batch_of(*items: int) -> Batch:
    return Batch(torch.zeros(len(items), dtype=torch.int64), torch.tensor(items), 0, len(items), (0, 0, 0))


def trainer() -> Trainer:
    task, negatives = small_log(), [{"name": "uniform", "count": 5}, {"name": "memory_bank", "size": 130}]
    training = {"batch_size": 50, "epochs": 3, "precision": "float64", "checkpoint_steps": 2}
    return Trainer(recipe(negatives=negatives, training=training), task.seen, task, Workers(), torch.device("cpu"))


def test_first_in_first_out() -> None:
    bank = bank_of(5)
    begun = bank.items_M.tolist()
    bank.push(batch_of(7, 8))
    assert bank.items_M.tolist() == [*begun[2:], 7, 8]
    bank.push(batch_of(9, 7, 7))
    assert bank.items_M.tolist() == [7, 8, 9, 7, 7]
    bank.push(batch_of())
    assert bank.items_M.tolist() == [7, 8, 9, 7, 7]
    bank.push(batch_of(*range(11, 18)))
    assert bank.items_M.tolist() == [13, 14, 15, 16, 17], "of a batch larger than the bank, its last rows"


def test_it_begins_with_items_of_the_log() -> None:
    everything = bank_of(len(TRAIN))
    assert everything.items_M.tolist() == TRAIN.items.tolist()
    assert len(bank_of(3 * len(TRAIN)).items_M) == 3 * len(TRAIN)
    assert set(bank_of(3).items_M.tolist()) <= set(TRAIN.items.tolist())


def test_a_users_items_are_masked() -> None:
    bank, users = bank_of(200), torch.tensor([3, 17, 3])
    candidates = bank(Batch(users, torch.tensor([0, 1, 2]), 0, 3, (0, 0, 0)), torch.zeros(3, 4))
    masked = torch.zeros(3, 200, dtype=torch.bool)
    masked[candidates.excluded] = True
    for row, user in enumerate(users.tolist()):
        assert masked[row].tolist() == np.isin(bank.items_M.numpy(), TRAIN.items_of(user)).tolist()
    assert masked.any()
    assert not masked.all()


def test_an_items_expected_count_is_its_share_of_an_epoch() -> None:
    bank = bank_of(len(TRAIN))
    counts = torch.bincount(torch.from_numpy(TRAIN.items).long(), minlength=TRAIN.num_items).double()
    assert torch.allclose(bank.expected_count(batch_of(0), torch.arange(TRAIN.num_items)), counts)


def test_in_training_it_holds_the_last_rows_of_the_models_steps() -> None:
    whole = trainer()
    bank: Any = whole.memories["negatives.1"]
    seen: list[int] = []
    for batch in whole.batches():
        seen += batch.items_B.tolist()
        before = bank.items_M.tolist()
        whole.update(batch)
        assert bank.items_M.tolist() == [*before, *batch.items_B.tolist()][-130:]
    assert bank.items_M.tolist() == seen[-130:]


def test_a_checkpoint_brings_it_back(tmp_path: Path) -> None:
    whole, left = trainer(), []
    banks: Any = whole.memories
    for progress in whole.run():
        if progress.checkpoint_due:
            path = tmp_path / f"{len(left)}"
            whole.save(path, "0123456789ab")
            left.append((path, banks["negatives.1"].items_M.clone()))
    assert len(left) > 6
    for path, items_M in left:
        resumed = trainer()
        bank: Any = resumed.memories["negatives.1"]
        assert not torch.equal(bank.items_M, items_M)
        resumed.restore(path, "0123456789ab")
        assert torch.equal(bank.items_M, items_M)
        assert resumed.sources[1] is bank
        for _ in resumed.run():
            pass
        assert torch.equal(bank.items_M, left[-1][1])
        assert torch.equal(resumed.encoder.item_table, whole.encoder.item_table)


@pytest.mark.parametrize("size", [0, -3])
def test_a_size_is_a_number_of_rows(size: int) -> None:
    with pytest.raises(ValueError, match=rf"^negatives\.size: got {size}, takes"):
        bank_of(size)
