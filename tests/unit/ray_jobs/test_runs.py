"""A named attempt: a program that is started again goes on with its run or search, and takes a finished one as done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components import storage
from components.config import Recipe
from components.errors import InputError, TrackingError
from ray_jobs import _checkpoints, _runs, _search, _tracking, _training
from tests import worlds

JOB = "hardneg-train"


class Lost(BaseException):
    """The head is gone: nothing of the program runs any more."""


class World:
    """Trainings and searches that compute nothing. `dies` says where a program ends, `did` what it came to."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.dies, self.did = folder, "", list[str]()

    def recipe(self, **sections: Any) -> Recipe:
        return worlds.recipe(scale={"storage_path": str(self.folder)}, **sections)

    def dataset_of(self, recipe: Recipe) -> Path:
        return self.folder / "dataset"

    def create(self, recipe: Recipe, folder: Path, dataset: Path, tags: Any = None) -> _tracking.TrackedRun:
        self.at("before its MLflow run")
        links = {"kind": (tags or {}).get("kind", "run"), "tracking_uri": "http://mlflow:5000", "run_id": "0"}
        storage.write_json(folder / _tracking.LINKS, {**links, "dataset": str(dataset)})
        self.at("began")
        return _tracking.attach(folder)

    def fit(self, recipe: Recipe, dataset: Path, folder: Path, *_: Any) -> None:
        self.at("under way")
        storage.finish(folder, {"kind": "run"}, only=["recipe.json"])

    def at(self, point: str) -> None:
        self.did.append(point)
        if self.dies == point:
            raise Lost

    def folders(self, kind: str) -> list[str]:
        return [path.name for path in sorted((self.folder / kind).iterdir()) if not path.name.startswith(".")]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path)
    (tmp_path / "dataset").mkdir()
    storage.write_json(tmp_path / "dataset" / storage.MANIFEST, {"rows": {"train": 9, "valid": 0, "valid_late": 3}})
    monkeypatch.setenv(_runs.ATTEMPT, JOB)
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    for module in (_training, _search):
        checks = {name: lambda *_: None for name in ("require_server", "require_slots")}
        monkeypatch.setattr(module, "_program", SimpleNamespace(**checks))
    monkeypatch.setattr(_training._workers, "open_data", lambda *_: (None, None))
    monkeypatch.setattr(_training, "plan", SimpleNamespace(needs_of=lambda *_: None, check_fits=lambda *_: None))
    monkeypatch.setattr(_tracking, "create", made.create)
    monkeypatch.setattr(_tracking, "end", lambda *_: made.did.append("told MLflow again"))
    monkeypatch.setattr(_training, "_fit", made.fit)
    monkeypatch.setattr(_search, "check", lambda recipe: None)
    monkeypatch.setattr(_search, "_check_data", lambda *_: None)
    monkeypatch.setattr(_search, "_search", made.fit)
    yield made


def train(world: World, **sections: Any) -> Path:
    recipe = world.recipe(**sections)
    return _training.train(recipe, world.dataset_of(recipe))


def search(world: World, **sections: Any) -> Path:
    recipe = world.recipe(**sections)
    return _search.run(recipe, world.dataset_of(recipe))


@pytest.mark.parametrize(("start", "kind"), [(train, "runs"), (search, "searches")])
@pytest.mark.parametrize("point", ["before its MLflow run", "began", "under way"])
def test_what_was_lost_goes_on_under_its_name(world: World, start: Callable[[World], Path], kind: str, point: str) -> None:
    world.dies = point
    with pytest.raises(Lost):
        start(world)
    world.dies, world.did = "", []
    found = start(world)
    assert world.folders(kind) == [found.name] == [f"small-{world.recipe().fingerprint()}-{JOB}"]
    assert storage.is_finished(found)
    anew = ["before its MLflow run", "began"] if point == "before its MLflow run" else []
    assert world.did == [*anew, "under way"], "one MLflow run"


@pytest.mark.parametrize(("start", "kind"), [(train, "runs"), (search, "searches")])
def test_what_is_finished_is_done(
    world: World, start: Callable[[World], Path], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = start(world)
    before, world.did = storage.digest(first / storage.MANIFEST), []
    assert start(world) == first
    assert "under way" not in world.did
    assert storage.digest(first / storage.MANIFEST) == before
    assert f"{first}: begun by an earlier try of HARDNEG_ATTEMPT={JOB}\n{first}: finished already" in capsys.readouterr().out


def test_what_computes_something_else_is_another_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    train(world)
    train(world, seed=7)
    train(world, training={"epochs": 3})
    monkeypatch.setenv(_runs.ATTEMPT, "another-job")
    train(world)
    assert len(world.folders("runs")) == 4
    monkeypatch.delenv(_runs.ATTEMPT)
    assert train(world) != train(world), "without a name each start is new"
    assert len(world.folders("runs")) == 6


def test_a_search_of_another_space_is_said_to_be_one(world: World) -> None:
    search(world, search={"space": {"loss.temperature": {"uniform": [0.1, 0.9]}}, "trials": 3})
    with pytest.raises(InputError, match=r"^HARDNEG_ATTEMPT: .* was started from another recipe: search.trials was 3, is 4$"):
        search(world, search={"space": {"loss.temperature": {"uniform": [0.1, 0.9]}}, "trials": 4})


@pytest.mark.parametrize(("start", "other", "kind"), [(train, _search, "search"), (search, _training, "run")])
def test_what_is_of_another_kind_is_not_gone_on_with(
    world: World, start: Callable[[World], Path], other: Any, kind: str
) -> None:
    world.dies = "under way"
    with pytest.raises(Lost):
        start(world)
    (folder,) = (path for of in ("runs", "searches") for path in (world.folder / of).glob("small-*"))
    with pytest.raises(InputError, match=rf"^--resume: got {folder}, takes the folder of a {kind} that was started$"):
        other.resume(world.recipe(), folder)


def test_an_empty_split_is_not_told_as_fitted_on(world: World) -> None:
    both = {"fit_on": "train+valid", "select_on": "none"}
    with pytest.raises(
        InputError, match=r"^training\.fit_on: got train\+valid, and .*dataset has no row in valid, takes splits"
    ):
        train(world, training=both)
    assert not (world.folder / "runs").exists(), "nothing has begun"


def test_mlflow_that_is_away_as_a_search_begins_leaves_no_folder(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> None:
        raise TrackingError("tracking.uri: got http://mlflow:5000, where no run could be begun")

    monkeypatch.setattr(_tracking, "create", away)
    for start in (train, search):
        with pytest.raises(TrackingError):
            start(world)
    assert [path for kind in ("runs", "searches") for path in (world.folder / kind).iterdir()] == []


def test_who_holds_it_is_left_alone(world: World) -> None:
    """As where a cluster that was taken for lost still trains."""
    world.dies = "under way"
    with pytest.raises(Lost):
        train(world)
    (name,) = world.folders("runs")
    with storage.lock(world.folder / "runs" / name), pytest.raises(InputError, match=rf"{name}: locked by "):
        train(world)


@pytest.mark.parametrize("wrong", ["a/b", "..", "-x", "a b"])
def test_an_attempt_has_a_name(world: World, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    monkeypatch.setenv(_runs.ATTEMPT, wrong)
    with pytest.raises(InputError, match=rf"^HARDNEG_ATTEMPT: got '{wrong}', takes letters, digits"):
        train(world)
    assert not (world.folder / "runs").exists()


def test_a_copy_that_was_cut_short_is_made_whole(tmp_path: Path) -> None:
    ended, run = tmp_path / "ended", tmp_path / "run"
    for name in ("checkpoint_2_1/position.json", "model/model.safetensors", "recipe.json"):
        (ended / name).parent.mkdir(parents=True, exist_ok=True)
        (ended / name).write_text(name)
    (run / _checkpoints.BEGUN).mkdir(parents=True)
    (run / "model").mkdir()
    _checkpoints.copy_last(ended, run)
    assert (run / _checkpoints.BEGUN / "position.json").read_text() == "checkpoint_2_1/position.json"
    assert (run / "model" / "model.safetensors").read_text() == "model/model.safetensors"
