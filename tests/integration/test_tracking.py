"""MLflow that dies, comes back or stays away while training goes on: nothing is lost and no run stays RUNNING."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components import storage
from components.config import Recipe
from ray_jobs import _dataflow, _mlflow, _reporter, _tracking, _training
from tests.integration import training
from tests.integration.preparing import write_log
from tests.integration.training import MlflowServer, Tracked, has_all_epochs, meanwhile, reported, runs, train_workers, wait_for


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tracking")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[MlflowServer]:
    server = MlflowServer(folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def given(cluster: None, folder: Path, server: MlflowServer) -> Recipe:
    """Many short epochs, each reported: by the checkpoint inside of the next, which does not wait for others."""
    log = write_log(folder / "log.csv", rows=3000)
    epochs = {"batch_size": 512, "epochs": 40, "patience": 100, "checkpoint_steps": 1}
    return training.recipe(log, folder / "store", training=epochs, tracking={"uri": server.uri, "experiment": "tiny"})


@pytest.fixture(scope="module")
def dataset(given: Recipe) -> Path:
    return _dataflow.prepare(given, report=lambda line: None)


def newest(given: Recipe) -> Path:
    return runs(Path(given.scale.storage_path))[-1]


def has_begun(given: Recipe, before: list[Path]) -> bool:
    return len(runs(Path(given.scale.storage_path))) > len(before) and reported(newest(given)) >= 2


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_has_every_epoch(
    given: Recipe, dataset: Path, server: MlflowServer, capfd: Any
) -> None:
    before = runs(Path(given.scale.storage_path))

    def kill_and_restart() -> None:
        wait_for(lambda: has_begun(given, before), "two epochs")
        server.kill()
        wait_for(lambda: _reporter.read_notices(newest(given)), "the controller to miss MLflow")
        workers = train_workers()
        assert len(workers) == 2
        for worker in workers:
            worker.suspend()  # so that training has not ended before the server is back
        at = reported(newest(given))
        server.start()
        for worker in workers:
            worker.resume()
        assert at < 40

    with meanwhile(kill_and_restart):
        run = _training.train(given, dataset)
    assert [entry["step"] for entry in _tracking.read_history(run)] == list(range(1, 41))
    tracked = Tracked(run)
    assert tracked.status == "FINISHED"
    has_all_epochs(run, tracked)
    assert "plots/learning_curves.png" in tracked.artifacts()
    assert capfd.readouterr().err.count(f"MLflow at {server.uri} does not answer") == 1, "said once, while it trained"


@pytest.mark.slow
def test_training_ends_well_without_the_server_and_what_it_lacks_is_sent_later(
    given: Recipe, dataset: Path, server: MlflowServer, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = runs(Path(given.scale.storage_path))

    def kill() -> None:
        wait_for(lambda: has_begun(given, before), "two epochs")
        server.kill()

    monkeypatch.setattr(_mlflow, "PATIENCE_SECONDS", 5.0)  # it does not come back
    with meanwhile(kill):
        run = _training.train(given, dataset)
    history = _tracking.read_history(run)
    assert [entry["step"] for entry in history] == list(range(1, 41))
    assert all({"loss", "valid_recall@20"} <= entry["metrics"].keys() for entry in history)
    assert storage.open_finished(run, "run")["epochs"] == 40
    printed = capfd.readouterr().err
    assert f"MLflow at {server.uri} does not answer" in printed
    assert f"kept in {run / _tracking.HISTORY}" in printed
    server.start()
    assert Tracked(run).status == "RUNNING", "nobody could tell it"
    _training.resume(given, run)
    assert Tracked(run).status == "FINISHED"
    has_all_epochs(run, Tracked(run))


def test_numbers_that_are_not_finite_are_logged(server: MlflowServer, tmp_path: Path) -> None:
    for uri in (server.uri, f"sqlite:///{tmp_path}/mlflow.db"):
        client = _mlflow.client(uri)
        experiment = client.create_experiment("odd numbers")
        tracked = _tracking.TrackedRun(uri, client.create_run(experiment).info.run_id)
        values = {"nan@1": math.nan, "more": math.inf, "less": -math.inf, "one": 1.0}
        for _ in range(2):  # sent twice, there once
            tracked.log([{"time": 1e9, "step": 3, "metrics": values}])
        found = {name: client.get_metric_history(tracked.run_id, name) for name in ("nan_at_1", "more", "less", "one")}
        assert [len(points) for points in found.values()] == [1, 1, 1, 1]
        assert all(math.isnan(found[name][0].value) for name in ("nan_at_1", "more", "less")), "no largest float"
        assert found["one"][0].value == 1.0
        tracked.end("FAILED", "x" * 100_000)
        assert client.get_run(tracked.run_id).info.status == "FAILED"


def test_a_server_that_hangs_holds_no_training_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", training.free_port()))
        deaf.listen()
        tracked = _tracking.TrackedRun(f"http://127.0.0.1:{deaf.getsockname()[1]}", "0" * 32)
        reporter = _reporter.Reporter(tracked, tmp_path, max_failures=0)
        entry = {"time": time.time(), "step": 1, "metrics": {"loss": 1.0}}
        reporter.after_report(None, [{"history": [entry]}, {}], None)  # returns although nobody answers
        assert _reporter.read_notices(tmp_path) == []
        assert _tracking.read_history(tmp_path) == [entry]
        (notice,) = wait_for(lambda: _reporter.read_notices(tmp_path), "the sender to give up")
    assert "does not answer" in notice
