"""An MLflow run is created once: whoever else creates its experiment, and whatever becomes of the answers."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from components import storage
from components.config import Recipe
from components.errors import InputError
from ray_jobs import _found, _mlflow, _tracking, _trials
from tests import worlds


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that MLflow has made its tables in, which takes seconds."""
    file = tmp_path_factory.mktemp("empty") / "mlflow.db"
    _mlflow.client(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def given(empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe that is tracked into a file; pauses take no time, but patience ends."""
    shutil.copyfile(empty, tmp_path / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    clock = itertools.count(1000.0, 1.0)
    monkeypatch.setattr(_mlflow, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda seconds: None))
    about = {"fingerprint": "d" * 12, "num_users": 3, "num_items": 5, "rows": {"train": 9}}
    (tmp_path / "dataset").mkdir()
    storage.write_json(tmp_path / "dataset" / storage.MANIFEST, about)
    return worlds.recipe(scale={"storage_path": str(tmp_path)})


def create(given: Recipe, name: str = "run", params: dict[str, Any] | None = None) -> _tracking.TrackedRun:
    run = Path(given.scale.storage_path, "runs", name)
    run.mkdir(parents=True)
    storage.write_text(run / "recipe.json", given.to_json())
    return _tracking.create(given, run, run.parents[1] / "dataset", params=params)


def lose_answers(monkeypatch: pytest.MonkeyPatch, method: str, number: int) -> list[Any]:
    """What `method` did while its first `number` answers were lost."""
    real: Callable[..., Any] = getattr(MlflowClient, method)
    done: list[Any] = []

    def lost(self: MlflowClient, *arguments: Any, **options: Any) -> Any:
        answer = real(self, *arguments, **options)
        done.append(answer)
        if len(done) <= number:
            raise MlflowException("connection reset")
        return answer

    monkeypatch.setattr(MlflowClient, method, lost)
    return done


def there(tracked: _tracking.TrackedRun) -> dict[str, str]:
    """Every run by its status."""
    mlflow = _mlflow.client(tracked.tracking_uri)
    experiments = [experiment.experiment_id for experiment in mlflow.search_experiments()]
    return {run.info.run_id: run.info.status for run in mlflow.search_runs(experiments)}


METHODS = ["create_run", "create_experiment", "get_experiment_by_name", "log_batch", "log_inputs", "log_artifact"]


@pytest.mark.parametrize("method", METHODS)
def test_a_lost_answer_is_asked_for_again_and_nothing_is_there_twice(
    method: str, given: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = lose_answers(monkeypatch, method, 2)
    tracked = create(given)
    assert len(done) >= (1 if method.startswith("create_") else 3), "the answer was lost"
    assert there(tracked) == {tracked.run_id: "RUNNING"}
    run = _mlflow.client(tracked.tracking_uri).get_run(tracked.run_id)
    assert run.data.params["loss.temperature"] == "0.2"
    assert run.data.tags["recipe"] == "small"
    assert len(run.inputs.dataset_inputs) == 1
    assert _tracking.attach(Path(given.scale.storage_path, "runs", "run")) == tracked


def test_a_try_that_comes_to_something_after_all_leaves_no_twin(given: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first request times out, and the server carries it out while the second is under way."""
    real, late = MlflowClient.create_run, []

    def create_run(self: MlflowClient, *arguments: Any, **options: Any) -> Any:
        late.append(lambda: real(self, *arguments, **options))
        if len(late) == 1:
            raise MlflowException("timed out")
        return [request() for request in late][-1]

    monkeypatch.setattr(MlflowClient, "create_run", create_run)
    tracked = create(given)
    assert len(late) == 2
    assert there(tracked) == {tracked.run_id: "RUNNING"}


def test_an_experiment_that_another_run_has_just_created_will_do(given: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    first = create(given, "first")
    real, asked = MlflowClient.get_experiment_by_name, []

    def get_experiment_by_name(self: MlflowClient, name: str) -> Any:
        asked.append(name)
        return None if len(asked) == 1 else real(self, name)

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", get_experiment_by_name)
    second = create(given, "second")
    assert len(asked) == 2
    assert there(second) == {first.run_id: "RUNNING", second.run_id: "RUNNING"}


def test_what_stays_away_is_said_and_leaves_no_run_open(given: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    lose_answers(monkeypatch, "log_inputs", 10_000)
    with pytest.raises(InputError, match=r"^tracking.uri: got sqlite:///.*, where no run could be begun: .*connection reset$"):
        create(given)
    tracked = _tracking.attach(Path(given.scale.storage_path, "runs", "run"))
    assert there(tracked) == {tracked.run_id: "FAILED"}


def test_a_run_shows_the_report_of_its_dataset_and_a_trial_leaves_it_to_its_search(given: Recipe) -> None:
    report = Path(given.scale.storage_path, "dataset", storage.REPORT)
    report.mkdir()
    names = ("report.html", "splits.png")
    for name in names:
        (report / name).write_text(name)
    kept = {"dataset/manifest.json", "dataset/report"}
    whole = create(given, "whole")
    listed = _mlflow.client(whole.tracking_uri).list_artifacts
    assert {entry.path for entry in listed(whole.run_id, "dataset")} == kept
    assert {entry.path for entry in listed(whole.run_id, "dataset/report")} == {f"dataset/report/{name}" for name in names}
    trial = create(given, "trial", {"loss.temperature": 0.2})
    assert {entry.path for entry in listed(trial.run_id, "dataset")} == {"dataset/manifest.json"}


@pytest.mark.parametrize(
    ("left", "status"),
    [({}, "KILLED"), ({storage.MANIFEST: {}}, "FINISHED"), ({_tracking.STOPPED: {"by": "asha", "epoch": 2}}, "FINISHED")],
    ids=["in the middle", "finished", "stopped"],
)
def test_who_was_killed_before_mlflow_heard_of_its_end_has_the_end_of_its_folder(
    left: dict[str, Any], status: str, given: Recipe
) -> None:
    tracked = create(given)
    run = Path(given.scale.storage_path, "runs", "run")
    for name, about in left.items():
        storage.write_json(run / name, about)
    _tracking.end_left(run)
    assert there(tracked) == {tracked.run_id: status}


def test_no_trials_run_stays_running_whether_its_folder_knows_of_it(given: Recipe) -> None:
    """A kill may come between the creation of a run in MLflow and the note of it; other searches' runs are theirs."""
    folder, uri = Path(given.scale.storage_path, "search"), _tracking.uri(given)
    mlflow = _mlflow.client(uri)
    experiment = mlflow.create_experiment("search")
    ids = {name: mlflow.create_run(experiment).info.run_id for name in ("search", "other search")}
    for name in ("failed", "lost", "over", "unknown", "another's"):
        parent = ids["other search" if name == "another's" else "search"]
        ids[name] = mlflow.create_run(experiment, tags={"mlflow.parentRunId": parent}).info.run_id
    mlflow.set_terminated(ids["over"], "FINISHED")
    for name, run in {"search": folder, **{name: folder / "trials" / name for name in ("failed", "lost", "over")}}.items():
        run.mkdir(parents=True)
        storage.write_json(run / _tracking.LINKS, {"tracking_uri": uri, "run_id": ids[name]})
        storage.write_json(run / _trials.POINT, {})
    storage.write_json(folder / "trials" / "failed" / _trials.FAILED, {"kind": "error", "reason": "as it was to be"})
    (folder / "trials" / "over" / storage.MANIFEST).touch()
    _found.close(folder)
    ended = {"failed": "FAILED", "lost": "KILLED", "unknown": "KILLED", "over": "FINISHED"}
    running = dict.fromkeys(("search", "other search", "another's"), "RUNNING")
    assert {name: mlflow.get_run(run_id).info.status for name, run_id in ids.items()} == {**ended, **running}
