"""What a look at processes' memory says."""

from __future__ import annotations

import pytest

from tests.benchmarks import memory
from tests.benchmarks.memory import MIB, Mapped, Process

CACHE = "/cache"


def worker(shared_by: int) -> Process:
    """10 MiB of its own, and the 6 MiB of a file that so many map."""
    own = Mapped("[heap]", 10 * MIB, 10 * MIB, 10 * MIB)
    file = Mapped(f"{CACHE}/key/items.npy", 6 * MIB, 6 * MIB // shared_by, 0 if shared_by > 1 else 6 * MIB)
    beside = Mapped(f"{CACHE}-of-another/items.npy", 0, 0, 0)
    return Process("ray::RayTrainWorker.execute", [own, file, beside])


@pytest.mark.parametrize("trials", [1, 3])
def test_what_all_map_is_there_once(trials: int) -> None:
    found = memory.look([worker(trials)] * trials, CACHE, trials)
    assert found["mapped_mib"] == {"rss": 6.0 * trials, "pss": 6.0, "private": 6.0 * (trials == 1)}
    assert found["mib"] == 10 * trials + 6
    assert found["mib_by_trial"] == found["mib"] / trials


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("ray::ImplicitFunc.train", "the trial's own process"),
        ("ray::TrainController", "Train's controller"),
        ("ray::RayTrainWorker.execute", "the worker"),
        ("python -m ray_jobs._guard /runs/a", "MLflow's guard"),
        ("python -m ray_jobs.tune recipe.yaml", memory.REST),
        ("ray::IDLE", memory.REST),
    ],
)
def test_processes_are_told_apart(command: str, kind: str) -> None:
    assert memory.kind_of(command) == kind


def test_what_belongs_to_no_trial_counts_for_all_and_for_none() -> None:
    raylet = Process("raylet", [Mapped("[heap]", 40 * MIB, 40 * MIB, 40 * MIB)])
    found = memory.look([raylet, worker(1)], CACHE, 1)
    assert (found["mib"], found["mib_by_trial"]) == (56, 16)
    assert found["processes"][memory.REST] == 1
