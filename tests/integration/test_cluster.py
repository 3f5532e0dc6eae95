"""A head and two worker nodes as real processes, a real MLflow server, and every program submitted by `ray job submit`.

Each worker node has one CPU and the head none, so that a training of two workers is on two nodes.
"""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from components.config import Recipe
from ray_jobs import _found, _submission, _tracking
from tests.integration import nodes, searching, training
from tests.integration.preparing import ROOT, write_log
from tests.integration.training import MlflowServer, Tracked, reported, wait_for


class Cluster:
    """Where jobs are submitted, and what they share."""

    def __init__(self, started: nodes.Nodes, folder: Path, server: MlflowServer) -> None:
        self.client, self.nodes = JobSubmissionClient(started.address), started
        self.folder, self.server = folder, server
        log = write_log(folder / "log.csv", rows=3000)
        scale = {"storage_path": str(folder / "store"), "num_workers": 2}
        self.recipe = training.recipe(log, folder / "store", scale=scale)
        self.file = training.recipe_file(folder / "recipe.yaml", self.recipe)

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def submit(self, program: str, *arguments: str, file: Path | None = None, **environment: str) -> str:
        own = {"MLFLOW_TRACKING_URI": self.server.uri, "HARDNEG_CACHE": str(self.folder / "cache"), **environment}
        job = f"{program}-{uuid.uuid4().hex[:8]}"
        runtime_env = json.dumps({"env_vars": {name: value for name, value in own.items() if value}})
        ray_job = [str(nodes.BIN / "ray"), "job", "submit", "--address", self.client.get_address(), "--working-dir", "."]
        command = ["python", "-m", f"ray_jobs.{program}", str(file or self.file), *arguments]
        options = ["--submission-id", job, "--runtime-env-json", runtime_env, "--no-wait"]
        subprocess.run([*ray_job, *options, "--", *command], cwd=ROOT, check=True, capture_output=True)
        return job

    def follow(self, job: str) -> str:
        """The job's log, read until it ends."""
        lines: list[str] = []
        _submission.follow(self.client, job, lines.append)
        return "\n".join(lines)

    def run(self, program: str, *arguments: str) -> tuple[str, str]:
        """(submission id, log) of a job that must succeed."""
        job = self.submit(program, *arguments)
        log = self.follow(job)
        assert self.client.get_job_status(job) == JobStatus.SUCCEEDED, log
        return job, log


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, server: MlflowServer) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with nodes.cluster(folder) as started:
        yield Cluster(started, folder, server)


@pytest.mark.slow
def test_a_training_whose_job_is_stopped_is_killed_in_mlflow_too(cluster: Cluster, tmp_path: Path) -> None:
    cluster.run("prepare")
    long = {
        **cluster.recipe.model_dump(),
        "name": "long",
        "training": {"batch_size": 512, "epochs": 10_000, "patience": 10_000},
    }
    job = cluster.submit("train", file=training.recipe_file(tmp_path / "long.yaml", Recipe.model_validate(long)))
    run = wait_for(lambda: next((cluster.store / "runs").glob("long-*"), None), "a run")
    wait_for(lambda: reported(run) >= 2, "two epochs")
    points = {f"m{n}": 0.5 for n in range(10)}  # of a long run: more than can be sent before Ray kills what it stops
    _tracking.append_history(run, [{"time": time.time(), "step": step, "metrics": points} for step in range(1000)])
    cluster.client.stop_job(job)
    wait_for(lambda: cluster.client.get_job_status(job) == JobStatus.STOPPED, "the job to stop")
    wait_for(lambda: Tracked(run).status == "KILLED", "the MLflow run to end")
    tracked = Tracked(run)
    epochs = [step for step, _ in tracked.history("loss")]
    assert epochs == list(range(1, len(epochs) + 1))
    assert len(epochs) >= 2
    assert tracked.tags["ray_job_id"] == job
    for node in (0, 1):
        assert tracked.history(f"system/node_{node}/memory_gib"), "a worker of each node was heard"


@pytest.mark.slow
def test_a_search_outlives_a_node_that_is_lost(cluster: Cluster, tmp_path: Path) -> None:
    """The last test of this cluster: its second worker node is gone then."""
    cluster.run("prepare")
    searched = {
        **cluster.recipe.model_dump(),
        "name": "searched",
        "search": {"space": {"loss.temperature": {"choice": [0.1, 0.2, 0.3]}}, "searcher": "grid"},
        "training": {**cluster.recipe.model_dump()["training"], **searching.SLOW, "epochs": 40},
        "scale": {**cluster.recipe.model_dump()["scale"], "num_workers": 1},
    }
    job = cluster.submit("tune", file=training.recipe_file(tmp_path / "searched.yaml", Recipe.model_validate(searched)))
    folder: Path = wait_for(lambda: searching.newest(cluster.store), "a trial")

    def under_way() -> list[Path]:
        return [run for run in _found.runs(folder) if _tracking.read_history(run) and not _found.ended(run)]

    both = wait_for(lambda: going if len(going := under_way()) == 2 else None, "a trial on each node")
    before = {run: _tracking.read_history(run)[:1] for run in both}
    cluster.nodes.nodes[-1].stop()
    log = cluster.follow(job)
    assert cluster.client.get_job_status(job) == JobStatus.SUCCEEDED, log
    assert {how: len(found) for how, found in searching.ended(folder).items()} == {"finished": 3}
    for run in _found.runs(folder):
        history = _tracking.read_history(run)
        assert [entry["step"] for entry in history] == list(range(1, 41))
        assert history[:1] == before.get(run, history[:1]), "it went on from where it was"
    assert {run.info.status for run in searching.children(folder).values()} == {"FINISHED"}
    assert len(searching.children(folder)) == 3
