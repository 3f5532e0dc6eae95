"""What a worker is to hold and to receive: banks at their size, a sum, and a refusal where it is more than there is."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components import plan
from components.data.interactions import Interactions
from components.errors import InputError
from components.negatives.memory_bank import MemoryBank
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.held import Held
from tests.unit.test_plan import finished, recipe_of
from tests.worlds import recipe


@pytest.mark.parametrize("stale", [True, False])
def test_a_large_bank_is_tried_small_and_told_of_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stale: bool) -> None:
    """Its candidates are met, whatever the warm-up; a bank's memory is what it says, and not what to say it takes."""
    monkeypatch.setattr(plan, "check_counts", lambda *_: None)  # the log has fewer rows
    met: list[int] = []
    asked = MemoryBank.forward

    def forward(self: Any, *arguments: Any) -> Any:
        met.append(len((candidates := asked(self, *arguments)).items))
        return candidates

    monkeypatch.setattr(MemoryBank, "forward", forward)
    bank = {"name": "memory_bank", "size": 30_000_000, "stale": stale, "warm_up": 7, "max_age": 2}
    list(plan.of(recipe_of(tmp_path, negatives=[{"name": "in_batch"}, bank])))  # what is imported once is not counted
    tracemalloc.start()
    with Held() as held:
        memory = dict(plan.of(recipe_of(tmp_path, negatives=[{"name": "in_batch"}, bank])))["memory"]
    _, arrays = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held.peak + arrays < 2**25 < 16 * 30_000_000
    index = 8 * 20 + 8 * 20 + 16 * 30_000_000 + stale * 30_000_000 * 8 * 4 / 2
    assert f"at most {index / 2**20:,.1f} MiB of indices" in memory
    assert max(met) > 0


def test_what_does_not_fit_is_refused_with_the_figure(tmp_path: Path) -> None:
    """Where users and items are exact; those of a log that is not cleaned yet are a bound, which refuses nothing."""
    encoder = {"name": "mf", "dim": 2**14}  # 60 rows of it, and what Adam keeps: 15 MiB
    scale = {"storage_path": str(tmp_path / "runs"), "num_workers": 2}
    large = recipe_of(tmp_path, encoder=encoder, scale={**scale, "memory_per_worker_gib": 0.1})
    small = large.model_copy(update={"scale": large.scale.model_copy(update={"memory_per_worker_gib": 0.01})})
    assert dict(plan.of(small))["sizes"].endswith("k-core and splits)")
    finished(large, train=90, valid=5, test=0)
    assert "15.0 MiB of tables and Adam" in dict(plan.of(large))["memory"]
    said = r"^scale\.memory_per_worker_gib: got 0\.01, takes at least 0\.0\d+ for .* 15\.0 MiB of tables and Adam"
    with pytest.raises(InputError, match=said):
        list(plan.of(small))


def test_on_a_gpu_it_is_not_the_pods_memory_that_tables_take(tmp_path: Path) -> None:
    scale = {"storage_path": str(tmp_path / "runs"), "use_gpu": True, "memory_per_worker_gib": 0.01}
    given = recipe_of(tmp_path, encoder={"name": "mf", "dim": 2**14}, scale=scale)
    finished(given, train=90, valid=5, test=0)
    told = dict(plan.of(given))
    assert "15.0 MiB of tables and Adam" in told["memory"]
    bank = [{"name": "memory_bank", "size": 90}]
    narrow = given.model_copy(
        update={"scale": given.scale.model_copy(update={"memory_per_worker_gib": 2e-6}), "negatives": bank}
    )
    with pytest.raises(InputError, match=r"^scale\.memory_per_worker_gib: got 2e-06, takes at least"):
        list(plan.of(narrow))


@pytest.mark.parametrize(
    "encoder",
    [
        {"name": "lightgcn", "layers": 2},
        {"name": "lightgcn", "layers": 4},
        {"name": "lightgcn", "layers": 3, "side": "users"},
        {"name": "simplex", "pool": "user_attention"},
        {"name": "simplex", "pool": "mean", "shared_items": True},
    ],
)
def test_what_encoders_read_of_a_graph_or_of_histories_is_told(encoder: dict[str, Any]) -> None:
    """No less than a step holds beyond one of MF, tables and their gradients apart, and not many times more."""
    random = np.random.default_rng(0)
    log = Interactions.of(random.integers(0, 500, 20_000), random.integers(0, 2_000, 20_000), 500, 2_000)
    held = {}
    for name, spec in (("own", encoder), ("mf", {"name": "mf"})):
        training = {"batch_size": 200, "precision": "float32", "select_on": "none"}
        given = recipe(encoder={**spec, "dim": 64}, training=training, negatives=[{"name": "uniform", "count": 5}])
        trainer = Trainer(given, log, None, Workers(), torch.device("cpu"))
        batch = next(trainer.batches())
        with Held() as holding:
            trainer.objective(batch).loss_B.sum().backward()
        held[name] = holding.peak
    gradients = sum(table.nbytes for table in trainer.encoder.parameters())
    told = plan.needs_of(given.model_copy(update={"encoder": {**encoder, "dim": 64}}), log).histories
    more = held["own"] - held["mf"]
    assert more - 2 * gradients < told < 4 * more


@pytest.mark.parametrize("objective", [{"name": "supervised"}, {"name": "adv_infonce", "adv_interval": 1, "dim": 32}])
def test_masks_are_told_of_and_what_an_adversary_meets_twice(objective: dict[str, Any]) -> None:
    """No less than a step holds, arrays of numpy among it, and not many times more; without masks it would be less."""
    random = np.random.default_rng(0)
    log = Interactions.of(random.integers(0, 300, 60_000), random.integers(0, 2_000, 60_000), 300, 2_000)
    negatives = [{"name": "in_batch"}, {"name": "memory_bank", "size": 3_000}, {"name": "popularity", "count": 1_500}]
    training = {"batch_size": 2_000, "precision": "float32", "select_on": "none"}
    given = recipe(encoder={"name": "mf", "dim": 32}, training=training, negatives=negatives, objective=objective)
    trainer = Trainer(given, log, None, Workers(), torch.device("cpu"))
    trainer.position.epoch = 3
    for learner in trainer.learners.values():
        learner.module.requires_grad_(learner is trainer.learners["model"])
    batch = next(trainer.batches())
    trainer.objective(batch)  # what is imported once is not counted
    tracemalloc.start()
    with Held() as held:
        trainer.objective(batch).loss_B.sum().backward()
    _, arrays = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    needs = plan.needs_of(given, log)
    told = needs.computed_on - needs.tables
    assert max(held.peak, arrays) < told < 2.5 * (held.peak + arrays)
    assert told - needs.masks < held.peak


@pytest.mark.parametrize(
    "draw", [{"count": 8_000, "hardest": 100}, {"count": 200, "per": "row", "hardest": 20}], ids=["of a pool", "of each row's"]
)
def test_the_hardest_of_a_draw_are_told_of_beside_it(draw: dict[str, Any]) -> None:
    """No less than a step holds, and not many times more; each row has its own, which the whole draw's tiles are not."""
    random = np.random.default_rng(0)
    log = Interactions.of(random.integers(0, 300, 60_000), random.integers(0, 20_000, 60_000), 300, 20_000)
    training = {"batch_size": 2_000, "precision": "float32", "select_on": "none"}
    negatives = [{"name": "uniform", "exclude": "nothing", **draw}]
    given = recipe(encoder={"name": "mf", "dim": 32}, training=training, negatives=negatives)
    trainer = Trainer(given, log, None, Workers(), torch.device("cpu"))
    batch = next(trainer.batches())
    with Held() as held:
        trainer.objective(batch).loss_B.sum().backward()
    needs = plan.needs_of(given, log)
    assert held.peak < needs.computed_on - needs.tables < 2.5 * held.peak


def test_what_is_held_in_all_is_the_sum(tmp_path: Path) -> None:
    told = dict(plan.of(finished(recipe_of(tmp_path, encoder={"name": "mf", "dim": 2**16}), train=90, valid=5, test=0)))
    *parts, in_all = [float(found) for found in re.findall(r"([\d.]+) MiB", told["memory"].partition(" in all")[0])]
    assert in_all == pytest.approx(sum(parts), abs=0.3)
    assert in_all > 60


def test_bytes_between_workers_are_told_where_there_are_several(tmp_path: Path) -> None:
    told = dict(plan.of(recipe_of(tmp_path)))
    assert re.fullmatch(r"at most 0\.0 MiB a step, received by each worker", told["exchange"])
    wide = dict(plan.of(recipe_of(tmp_path, encoder={"name": "mf", "dim": 2**13})))["exchange"]
    rows = 20 * 2**13 * 4  # of users; of positives, and around the ring as vectors and as gradient; and those of the pool
    assert f"at most {(rows * 2 + 10 * 2**13 * 4 + rows + 2 * 2 * rows / 2) / 2**20:.1f} MiB" in wide
    alone = recipe_of(tmp_path, scale={"storage_path": str(tmp_path / "runs")})
    assert "exchange" not in dict(plan.of(alone))
