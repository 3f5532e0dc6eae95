"""What a worker is to hold and to receive: banks at their size, a sum, and a refusal where it is more than there is."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from components import plan
from components.errors import InputError
from components.negatives.memory_bank import MemoryBank
from tests.held import Held
from tests.unit.test_plan import finished, recipe_of


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
    index = 16 * 20 + 16 * 20 + 16 * 30_000_000 + stale * 30_000_000 * 8 * 4 / 2
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
