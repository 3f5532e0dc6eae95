"""Many writers at once through our tracker: whatever becomes of the server, nothing is lost and nothing doubled."""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Connection, text

from ray_jobs import _mlflow, _tracking
from tests.integration import postgres, writing
from tests.integration.training import MlflowServer, meanwhile, wait_for
from tests.integration.writing import EPOCHS, Job, name_of

pytestmark = pytest.mark.slow
PARENT = "mlflow.parentRunId"


@dataclass
class World:
    """A server of several workers, what it writes to, and where its artifacts lie."""

    server: MlflowServer
    database: postgres.Database
    folder: Path

    def engine(self) -> sqlalchemy.Engine:
        return sqlalchemy.create_engine(self.database.uri, connect_args={"password": self.database.password})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("writers")
    with postgres.database() as database:
        pool = {"MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": f"{postgres.CONNECTIONS // 4}"}  # of each of the workers
        server = MlflowServer(folder, database.uri, workers=3, PGPASSWORD=database.password, **pool)
        server.start()
        try:
            yield World(server, database, folder)
        finally:
            server.kill()


def by_run(connection: Connection, columns: str, table: str) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = defaultdict(list)
    for run_id, *row in connection.execute(text(f"SELECT run_uuid, {columns} FROM {table}")):
        found[run_id].append(tuple(row))
    return found


def has_everything(connection: Connection, job: Job, numbers: range, tags: dict[str, str], artifacts: Path) -> None:
    """Read past MLflow: each writer's run is there once, ended, with each metric once, its parameters, tags and files."""
    runs = text(
        "SELECT runs.name, run_uuid, status FROM runs JOIN experiments USING (experiment_id) "
        "WHERE experiments.name = :name AND runs.lifecycle_stage = 'active'"
    )
    found: dict[str, list[Any]] = defaultdict(list)
    for name, *row in connection.execute(runs, {"name": job.experiment}):
        found[name].append(row)
    assert found.keys() - {"parent"} == {name_of(number) for number in numbers}
    told = {table: by_run(connection, "key, value", table) for table in ("params", "tags")}
    metrics = by_run(connection, "key, step, value, timestamp", "metrics")
    files = [path.as_posix() for path in artifacts.rglob("*.json")]
    for number in numbers:
        ((run_id, status),) = found[name_of(number)]
        folder = job.run(name_of(number))
        assert status == "FINISHED"
        assert _tracking.attach(folder).run_id == run_id
        history = _tracking.read_history(folder)
        trained, tested = writing.measured(number)
        assert [entry["metrics"] for entry in history] == trained
        values = [
            (_mlflow.metric_name(name), n, value) for n, own in enumerate([*trained, tested], 1) for name, value in own.items()
        ]
        assert sorted((key, step, value) for key, step, value, _ in metrics[run_id]) == sorted(values)
        times = {(entry["step"], round(entry["time"] * 1000)) for entry in history}
        assert {(step, timestamp) for _, step, _, timestamp in metrics[run_id] if step <= EPOCHS} == times
        params = dict(told["params"][run_id])
        assert len(params) == len(told["params"][run_id]) == 3
        assert (params["writer"], params["dataset"], params["long"][:100]) == (name_of(number), "d" * 12, "x" * 100)
        own = {**tags, "writer": name_of(number), "folder": str(folder), "reason": "as it was to be"}
        assert own.items() <= dict(told["tags"][run_id]).items()
        for file in ("notes/recipe.json", "recipe.json", "dataset/manifest.json"):
            assert sum(path.endswith(f"/{run_id}/artifacts/{file}") for path in files) == 1
    datasets = text("SELECT count(*) FROM datasets JOIN experiments USING (experiment_id) WHERE experiments.name = :name")
    assert connection.execute(datasets, {"name": job.experiment}).scalar() == 1, "entered by one of them"


def test_200_writers_lose_nothing_on_postgresql(world: World) -> None:
    job = Job(world.folder / "many", world.server.uri)
    job.prepare()
    tags = {PARENT: writing.begin(job, "parent", {}).run_id}
    writing.write_all(job, tags, processes=4, threads=50)
    with world.engine().connect() as connection:
        has_everything(connection, job, range(200), tags, world.folder / "artifacts")


def test_a_server_that_is_killed_among_writers_has_everything_in_the_end(world: World) -> None:
    """It dies while a third of them send, and is away while another third begin."""
    job, numbers = Job(world.folder / "outage", world.server.uri, has_outage=True), range(24)
    job.prepare()
    tags = {PARENT: writing.begin(job, "parent", {}).run_id}

    def kill_and_restart() -> None:
        wait_for(lambda: job.is_halfway(numbers), "half of the epochs")
        world.server.kill()
        job.outage.touch()
        waiting = [name_of(number) for number in numbers if number % 3 == writing.BEFORE]
        wait_for(lambda: all(job.run(name).exists() for name in waiting), "others to begin")
        assert not any((job.run(name) / _tracking.LINKS).exists() for name in waiting)
        world.server.start()

    with meanwhile(kill_and_restart):
        writing.write_all(job, tags, processes=3, threads=8)
    with world.engine().connect() as connection:
        has_everything(connection, job, numbers, tags, world.folder / "artifacts")


def test_16_writers_that_begin_with_nothing_share_a_sqlite_file(tmp_path: Path) -> None:
    job = Job(tmp_path / "file")
    job.prepare()
    writing.write_all(job, {}, processes=4, threads=4)
    with sqlalchemy.create_engine(_tracking.uri(job.recipe)).connect() as connection:
        has_everything(connection, job, range(16), {}, job.folder / "mlflow-artifacts")


def test_what_is_not_finite_is_not_a_number_in_postgresql_either(world: World) -> None:
    """And stays so when it is sent twice."""
    mlflow = _mlflow.client(world.server.uri)
    run_id = mlflow.create_run(mlflow.create_experiment("odd numbers")).info.run_id
    tracked = _tracking.TrackedRun(world.server.uri, run_id)
    values = {"nan@1": math.nan, "more": math.inf, "less": -math.inf, "largest": sys.float_info.max, "least": 5e-324}
    for _ in range(2):
        tracked.log([{"time": 1e9, "step": 3, "metrics": values}])
    found = {name: mlflow.get_metric_history(run_id, _mlflow.metric_name(name)) for name in values}
    assert [len(points) for points in found.values()] == [1] * len(values)
    assert all(math.isnan(found[name][0].value) for name in ("nan@1", "more", "less"))
    assert all(found[name][0].value == values[name] for name in ("largest", "least"))
    tracked.end("FAILED", "\0 \ud800" * 10_000)
    ended = mlflow.get_run(run_id)
    assert ended.info.status == "FAILED"
    assert len(ended.data.tags["reason"]) == _mlflow.LONGEST_VALUE
