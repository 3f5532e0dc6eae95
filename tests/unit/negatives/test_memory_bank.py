"""The memory bank: first in, first out, the same for any number of workers, and there again after a checkpoint."""

from __future__ import annotations

import pickle
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from components import catalog
from components.data.interactions import Interactions
from components.errors import InputError
from components.negatives import check_counts, check_memory
from components.training import checkpoint
from components.training.batches import Batch
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.held import Held
from tests.unit.test_serving import Hostile
from tests.worlds import in_processes, recipe, small_log

TASK = small_log()
TRAIN = TASK.seen
DATASET = "0123456789ab"


def bank_of(size: int, train: Interactions = TRAIN, **settings: Any) -> Any:
    return catalog.build("negatives", {"name": "memory_bank", "size": size, **settings}, train, Workers(), "negatives.0")


def batch_of(*items: int, user: int = 0) -> Batch:
    return Batch(torch.full((len(items),), user), torch.tensor(items, dtype=torch.int64), 0, len(items), (0, 0, 0))


def vectors_of(*items: int, step: int = 0) -> Tensor:
    """One that tells its item and its step."""
    return torch.tensor([[float(item), float(step)] for item in items], dtype=torch.float64).view(-1, 2)


def held(bank: Any) -> list[int]:
    return sorted(bank.items_M[bank.in_use()].tolist())


def banks(size: int = 130, **settings: Any) -> Trainer:
    """A fresh bank and one of vectors."""
    negatives = [{"name": "memory_bank", "size": size}, {"name": "memory_bank", "size": size, "stale": True, **settings}]
    training = {"batch_size": 50, "epochs": 3, "precision": "float64", "checkpoint_steps": 2}
    given = recipe(negatives=negatives, training=training, loss={"name": "sampled_softmax", "temperature": 0.2, "logq": True})
    return Trainer(given, TRAIN, TASK, Workers(), torch.device("cpu"))


def test_first_in_first_out() -> None:
    bank = bank_of(5)
    begun = bank.items_M.tolist()
    bank.push(batch_of(7, 8))
    assert held(bank) == sorted([*begun[2:], 7, 8])
    bank.push(batch_of(9, 7, 7))
    assert held(bank) == [7, 7, 7, 8, 9]
    bank.push(batch_of())
    assert held(bank) == [7, 7, 7, 8, 9]
    bank.push(batch_of(1))
    assert held(bank) == [1, 7, 7, 8, 9], "the oldest 7 goes"
    bank.push(batch_of(*range(11, 18)))
    assert held(bank) == [13, 14, 15, 16, 17], "of a batch larger than the bank, its last rows"
    bank.push(batch_of(18, 19))
    assert held(bank) == [15, 16, 17, 18, 19]


def test_it_begins_with_items_of_the_log() -> None:
    everything = bank_of(len(TRAIN))
    assert everything.items_M.tolist() == TRAIN.items.tolist()
    assert set(bank_of(3).items_M.tolist()) <= set(TRAIN.items.tolist())
    assert held(bank_of(3, stale=True)) == [], "of vectors there are none"


def test_rows_count_up_to_an_age_and_after_the_warm_up() -> None:
    bank = bank_of(6, max_age=2, warm_up=2)
    assert held(bank) == []
    bank.push(batch_of(1))
    assert held(bank) == []
    bank.push(batch_of(2, 3))
    assert held(bank) == [1, 2, 3], "what it began with is older than the last two steps"
    bank.push(batch_of(4))
    assert held(bank) == [2, 3, 4]
    assert bank.expected_count(batch_of(0), torch.arange(TRAIN.num_items)).sum() == pytest.approx(3)
    bank.push(batch_of())
    bank.push(batch_of())
    assert held(bank) == []
    assert bank.expected_count(batch_of(0), torch.arange(TRAIN.num_items)).sum() == 0
    assert len(bank(batch_of(1), torch.zeros(1, 2)).items) == 0
    assert held(bank_of(6, max_age=1)) == sorted(bank_of(6).items_M.tolist()), "as if the step before had brought them"


def test_vectors_are_those_of_their_step() -> None:
    bank, queue = bank_of(5, stale=True), deque[tuple[float, float]](maxlen=5)
    for step, items in enumerate([(3, 4), (5,), (), (6, 7, 8), (9, 10)]):
        candidates = bank(batch_of(*items), vectors_of(*items, step=step).requires_grad_())
        assert sorted(map(tuple, candidates.vectors.tolist())) == sorted(queue)
        assert candidates.vectors[:, 0].tolist() == candidates.items.tolist()
        assert not candidates.vectors.requires_grad
        bank.push(batch_of(*items))
        queue += [(float(item), float(step)) for item in items]
    assert bank.told(None if not queue else _Encoder())["age"] == pytest.approx(np.mean([5 - step for _, step in queue]))


class _Encoder:
    """The vector of an item now: that of step 3."""

    def items(self, ids: Tensor) -> Any:
        return type("Embedded", (), {"vectors": vectors_of(*ids.tolist(), step=3)})


def test_staleness_is_told() -> None:
    bank = bank_of(4, stale=True)
    assert bank.told(_Encoder()) == {"rows": 0}
    bank(batch_of(2, 3), vectors_of(2, 3, step=0))
    bank.push(batch_of(2, 3))
    bank(batch_of(4), vectors_of(4, step=3))
    bank.push(batch_of(4))
    told = bank.told(_Encoder())
    drifts = [1 - item / np.hypot(item, 3) for item in (2, 3)]
    assert told == {"rows": 3, "age": pytest.approx(5 / 3), "drift": pytest.approx(sum(drifts) / 3)}
    assert set(bank_of(4).told(_Encoder())) == {"rows", "age"}, "what is fresh does not drift"


def test_a_users_items_are_masked() -> None:
    bank, users = bank_of(200), torch.tensor([3, 17, 3])
    candidates = bank(Batch(users, torch.tensor([0, 1, 2]), 0, 3, (0, 0, 0)), torch.zeros(3, 4))
    masked = torch.zeros(3, 200, dtype=torch.bool)
    masked[candidates.excluded.pairs()] = True
    for row, user in enumerate(users.tolist()):
        assert masked[row].tolist() == np.isin(bank.items_M.numpy(), TRAIN.items_of(user)).tolist()
    assert masked.any()
    assert not masked.all()


def test_an_items_expected_count_is_its_share_of_an_epoch() -> None:
    bank = bank_of(len(TRAIN))
    counts = torch.bincount(torch.from_numpy(TRAIN.items).long(), minlength=TRAIN.num_items).double()
    assert torch.allclose(bank.expected_count(batch_of(0), torch.arange(TRAIN.num_items)), counts)


def by_hand(trainer: Trainer, batch: Batch, queues: list[list[Any]]) -> list[float]:
    """Sampled softmax with logQ at 0.2, row by row; a queue's None is an item that is looked up now."""
    users_UD, items_ID = (table.double() for table in trainer.encoder.scoring_tables())
    degrees = np.bincount(TRAIN.items, minlength=TRAIN.num_items) / len(TRAIN)
    expected = sum(len(queue) for queue in queues) * degrees
    losses = []
    for user, item in zip(batch.users_B.tolist(), batch.items_B.tolist(), strict=True):
        positive = float(users_UD[user] @ items_ID[item]) / 0.2
        total = np.exp(positive)
        for other, vector_D in (row for queue in queues for row in queue):
            if other not in TRAIN.items_of(user):
                score = float(users_UD[user] @ (items_ID[other] if vector_D is None else vector_D)) / 0.2
                total += np.exp(score) / expected[other]
        losses.append(np.log(total) - positive)
    return losses


def test_in_training_they_hold_the_last_rows_of_the_models_steps() -> None:
    """A fresh bank and a stale one of two steps' warm-up and an age of two steps, against queues of rows, loss by loss."""
    whole = banks(max_age=2, warm_up=2)
    fresh: deque[Any] = deque([(item, None) for item in whole.sources[0].items_M.tolist()], maxlen=130)
    stale: list[list[tuple[int, Tensor]]] = []
    for step, batch in enumerate(whole.batches()):
        _, items_ID = whole.encoder.scoring_tables()
        kept = [row for rows in stale[-2:] for row in rows][-130:] if step >= 2 else []
        assert whole.objective(batch).loss_B.tolist() == pytest.approx(by_hand(whole, batch, [[*fresh], kept]), rel=1e-10)
        new = [(item, items_ID[item].clone()) for item in batch.items_B.tolist()]
        whole.update(batch)
        fresh += [(item, None) for item, _ in new]
        stale.append(new)
    assert len(stale) > 5
    told = whole.sources[1].told(whole.encoder)
    assert told["drift"] > 1e-6
    assert told["rows"] == sum(map(len, stale[-2:]))


def test_staleness_is_told_of_vectors_as_they_are_where_they_are_not_looked_up() -> None:
    """LightGCN's layers of the last step are of tables that have moved since."""
    given = recipe(
        encoder={"name": "lightgcn", "dim": 8, "layers": 2, "score_similarity": "cosine"},
        negatives=[{"name": "memory_bank", "size": 130, "stale": True}],
        optimizer={"learning_rate": 0.1},
    )
    trainer, told = Trainer(given, TRAIN, None, Workers(), torch.device("cpu")), 0
    for progress in trainer.run():
        if progress.metrics:
            bank = trainer.sources[0]
            now_MD = trainer.encoder.scoring_tables()[1][bank.items_M]
            drifts = [1 - float(now @ then / then.norm()) for now, then in zip(now_MD, bank.vectors_SD, strict=True)]
            assert progress.metrics["negatives.0_drift"] == pytest.approx(np.mean(drifts), rel=1e-9)
            assert np.mean(drifts) > 1e-4
            told += 1
    assert told == 3


def test_several_banks_gather_the_queries_once(monkeypatch: pytest.MonkeyPatch) -> None:
    gathered: list[torch.Size] = []
    gather = Workers.gather
    monkeypatch.setattr(Workers, "gather", lambda self, each, rows: gathered.append(each.shape) or gather(self, each, rows))
    counts = []
    for banks_ in (1, 3):
        given = recipe(negatives=[{"name": "memory_bank", "size": 20 + n} for n in range(banks_)])
        trainer = Trainer(given, TRAIN, None, Workers(), torch.device("cpu"))
        trainer.objective(next(trainer.batches()))
        counts.append([*gathered])
        gathered.clear()
    assert counts[0] == counts[1]
    assert counts[0].count(torch.Size([50, 8])) == 1


def test_staleness_is_a_metric_of_every_epoch() -> None:
    metrics = [progress.metrics for progress in banks().run() if progress.metrics]
    assert [told["negatives.1_rows"] for told in metrics] == [130] * 3
    assert all(told["negatives.1_drift"] > 1e-6 for told in metrics)
    assert all(1 < told["negatives.0_age"] < 4 for told in metrics)
    assert "negatives.0_drift" not in metrics[0]


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_a_checkpoint_brings_it_back(tmp_path: Path, momentum: float | None) -> None:
    whole, left = banks(max_age=4, warm_up=3, momentum=momentum), []
    for progress in whole.run():
        if progress.checkpoint_due:
            path = tmp_path / f"{len(left)}"
            whole.save(path, DATASET)
            left.append((path, [{**memory.state_dict()} for memory in whole.memories.values()]))
            left[-1] = (path, [{name: value.clone() for name, value in state.items()} for state in left[-1][1]])
    assert len(left) > 6
    for path, states in left[:: len(left) // 4]:
        resumed = banks(max_age=4, warm_up=3, momentum=momentum)
        resumed.restore(path, DATASET)
        for memory, state in zip(resumed.memories.values(), states, strict=True):
            for name, value in memory.state_dict().items():
                assert torch.equal(value, state[name]), name
        for _ in resumed.run():
            pass
        assert torch.equal(resumed.encoder.item_table, whole.encoder.item_table)


SIZES = (130, 2)


def trained(folder: str, from_: str | None = None) -> dict[str, Any]:
    """To the end, or to the first checkpoint inside the second epoch, which the first worker leaves; of each size."""
    told: dict[str, Any] = {}
    for size in SIZES:
        trainer = banks(size, max_age=4, warm_up=1)
        if from_ is not None:
            trainer.restore(Path(from_) / f"{size}", DATASET)
        for progress in trainer.run():
            if from_ is None and progress.checkpoint_due and progress.epoch == 1:
                trainer.save(Path(folder) / f"{size}", DATASET)
                break
        table, bank = trainer.encoder.item_table.detach(), trainer.sources[1]
        told |= {f"{size} table": table, f"{size} share": bank.vectors_SD.clone(), f"{size} steps": bank.steps.clone()}
    return told


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1)])
def test_other_workers_go_on_with_their_shares(tmp_path: Path, before: int, after: int) -> None:
    """W workers leave a checkpoint, others take it: contents and training are those of one worker."""

    def run(workers: int, *arguments: str) -> list[dict[str, Any]]:
        if workers == 1:
            return [trained(*arguments)]
        return in_processes(trained, workers, tmp_path / f"of {workers}", *arguments)

    paths = [str(tmp_path / name) for name in ("alone", "left", "nothing")]
    (alone,), left = run(1, paths[0]), run(before, paths[1])
    (wanted,), (end, *_) = run(1, paths[2], paths[0]), run(after, paths[2], paths[1])
    for size in SIZES:
        whole = torch.empty_like(alone[f"{size} share"])
        assert len(whole) == size
        for rank, worker in enumerate(left):
            own = len(range(rank, size, before))
            whole[rank::before] = worker[f"{size} share"][:own]
            assert len(worker[f"{size} share"]) == max(own, 1), "a worker holds its share and no more"
        assert torch.allclose(whole, alone[f"{size} share"], rtol=1e-9, atol=1e-12)
        assert end[f"{size} steps"] == wanted[f"{size} steps"] > alone[f"{size} steps"]
        assert (end[f"{size} table"] - wanted[f"{size} table"]).abs().max() < 1e-6


class OneOf(Workers):
    """A worker among others, in this process: a checkpoint needs no word from another."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


def shared_out(rows_MD: Tensor, workers: Workers) -> Any:
    """A worker's bank of these vectors."""
    bank = catalog.build(
        "negatives", {"name": "memory_bank", "size": len(rows_MD), "stale": True}, TRAIN, workers, "negatives.0"
    )
    own_SD = rows_MD[workers.rank :: workers.size]
    bank.vectors_SD = own_SD.clone() if len(own_SD) else rows_MD.new_zeros(1, rows_MD.shape[1])
    return bank


@pytest.mark.parametrize("size", [20_000, 2])
@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 3), (5, 4), (3, 3), (3, 7)])
def test_no_worker_ever_holds_more_than_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, before: int, after: int
) -> None:
    """Neither at a checkpoint nor when other workers take it: the bank is the same, and in memory are a share and a block."""
    monkeypatch.setattr(checkpoint, "ROWS_AT_ONCE", 100)
    rows_MD = torch.arange(size * 8, dtype=torch.float32).view(size, 8)
    made_for = recipe(), DATASET
    for rank in range(before):
        workers = OneOf(rank, before)
        bank = shared_out(rows_MD, workers)
        with Held() as held:
            checkpoint.save(tmp_path, {"negatives.0": bank}, {}, {}, *made_for, workers)
        assert held.peak == 0, "it is written from where it is"
    for rank in range(after):
        workers = OneOf(rank, after)
        bank = shared_out(torch.zeros(size, 8), workers)
        share = bank.vectors_SD.nbytes
        bank.vectors_SD = torch.empty(0, 0)
        with Held() as held:
            checkpoint.restore(tmp_path, {"negatives.0": bank}, {}, *made_for, workers)
        own_SD = rows_MD[rank::after]
        assert torch.equal(bank.vectors_SD[: len(own_SD)], own_SD)
        assert len(bank.vectors_SD) == max(len(own_SD), 1)
        state = sum(buffer.nbytes for buffer in bank.buffers())
        assert share < held.peak < share + state + 100 * (3 * 8 * 4 + 5 * 8)


def test_a_share_that_is_missing_is_named(tmp_path: Path) -> None:
    for rank in (0, 2):
        workers = OneOf(rank, 3)
        checkpoint.save(tmp_path, {"negatives.0": shared_out(torch.ones(9, 2), workers)}, {}, {}, recipe(), DATASET, workers)
    alone = OneOf(0, 1)
    with pytest.raises(InputError, match=r"has no negatives\.0\.1of3\.safetensors, takes the shares of all 3 workers that"):
        checkpoint.restore(tmp_path, {"negatives.0": shared_out(torch.ones(9, 2), alone)}, {}, recipe(), DATASET, alone)


def test_a_share_that_is_a_pickle_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    alone, struck = OneOf(0, 1), tmp_path / "struck"
    bank = shared_out(torch.ones(9, 2), alone)
    checkpoint.save(tmp_path, {"negatives.0": bank}, {}, {}, recipe(), DATASET, alone)
    (tmp_path / "negatives.0.0of1.safetensors").write_bytes(pickle.dumps(Hostile(struck)))
    with pytest.raises(InputError, match=r"negatives\.0\.0of1\.safetensors: got no safetensors"):
        checkpoint.restore(tmp_path, {"negatives.0": bank}, {}, recipe(), DATASET, alone)
    assert not struck.exists()


@pytest.mark.parametrize("size", [0, -3])
def test_a_size_is_a_number_of_rows(size: int) -> None:
    with pytest.raises(ValueError, match=rf"^negatives\.size: got {size}, takes"):
        bank_of(size)


def test_a_bank_larger_than_the_log_or_than_memory_is_refused() -> None:
    specs: list[Any] = [{"name": "in_batch"}, {"name": "memory_bank", "size": 701}]
    check_counts(specs, 1, 701)
    with pytest.raises(InputError, match=r"^negatives\.1\.size: got 701, takes at most 700, the number of training rows$"):
        check_counts(specs, 1, 700)
    specs[1] |= {"size": 2**27, "stale": True}
    scale = {"num_workers": 2, "memory_per_worker_gib": 6.0}
    check_memory(recipe(negatives=specs, scale=scale))  # 16 + 64 / 2 bytes a row
    said = rf"^negatives\.1\.size: got {2**27}, which is 6\.0 GiB of each worker, takes at most 1[0-9]{{8}} where .* is 5\.9: "
    with pytest.raises(InputError, match=said):
        check_memory(recipe(negatives=specs, scale={**scale, "memory_per_worker_gib": 5.9}))
    with pytest.raises(InputError, match=r"which is 10\.0 GiB of each worker"):
        check_memory(recipe(negatives=specs, scale={"num_workers": 1, "memory_per_worker_gib": 9.9}))
