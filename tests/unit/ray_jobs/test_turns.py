"""The one trial more than a search has room for: it lets the others start before its own processes do."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import tune

from components import storage
from components.config import parse
from ray_jobs import _searchers, _tracking, _trials, _workers

BEGAN = {
    "training": {_workers.PROGRESS: {"epoch": 0}},
    "failed": {_trials.FAILED: {"kind": "diverged", "reason": "loss is nan"}},
    "stopped": {_tracking.STOPPED: {"by": "asha", "epoch": 1}},
    "forgotten": {_trials.LEFT: {}},
}


@pytest.fixture
def plan(tmp_path: Path) -> _trials.Plan:
    recipe = parse(
        {
            "name": "tiny",
            "data": {"source": "/logs/log.csv"},
            "encoder": {"name": "mf", "dim": 8},
            "loss": {"name": "sampled_softmax"},
            "negatives": [{"name": "in_batch"}],
            "scale": {"num_workers": 2, "cpus_per_worker": 2},
        }
    )
    for name, files in BEGAN.items():
        begin(tmp_path, name, files)
    return _trials.Plan(recipe.to_json(), "dataset", str(tmp_path), "")


def begin(folder: Path, name: str, files: dict[str, Any]) -> Path:
    run = folder / _trials.TRIALS / name
    run.mkdir(parents=True)
    for file, value in {_trials.POINT: {}, **files}.items():
        storage.write_json(run / file, value)
    return run


class Clock:
    """Time passes in sleep alone; `at` has what happens then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: float) -> None:
        self.now, self.free, self.at, self.began_at = 0.0, free, {}, -1.0
        monkeypatch.setattr(_searchers, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep))
        monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": self.free})
        monkeypatch.setattr(tune, "get_context", lambda: SimpleNamespace(get_trial_id=lambda: "own"))
        monkeypatch.setattr(_trials, "run", self.run)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.at.pop(self.now, lambda: None)()

    def run(self, config: dict[str, Any], plan: _trials.Plan) -> None:
        self.began_at = self.now


def test_it_begins_at_once_where_nobody_starts(plan: _trials.Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own folder, which a retry finds, is not another's."""
    begin(Path(plan.folder), "own", {})
    clock = Clock(monkeypatch, free=0.0)
    _searchers.trainable(plan)({})
    assert clock.began_at == 0


def test_it_begins_after_the_first_step_of_the_one_before(plan: _trials.Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    starting = begin(Path(plan.folder), "starting", {})
    clock = Clock(monkeypatch, free=0.0)
    clock.at[4.0] = lambda: storage.write_json(starting / _workers.PROGRESS, {"epoch": 0})
    _searchers.trainable(plan)({})
    assert clock.began_at == 4


@pytest.mark.parametrize("free", [3.0, 4.0])
def test_it_begins_where_there_is_a_place_for_all_its_workers(
    free: float, plan: _trials.Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(Path(plan.folder), "starting", {})
    clock = Clock(monkeypatch, free)
    clock.at[2.0] = lambda: setattr(clock, "free", 4.0)
    _searchers.trainable(plan)({})
    assert clock.began_at == (0 if free == 4 else 2)


def test_it_waits_for_nobody_for_long(plan: _trials.Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one before may be gone without a word."""
    begin(Path(plan.folder), "gone", {})
    clock = Clock(monkeypatch, free=0.0)
    _searchers.trainable(plan)({})
    assert clock.began_at == _searchers.TURN_SECONDS
