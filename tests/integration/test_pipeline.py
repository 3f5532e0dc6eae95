"""The Kubeflow pipeline, run by kfp here: on a real Ray cluster of three node processes, tracked by a real MLflow server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pyarrow.parquet as pq
import pytest
from kfp import local
from kfp.local.orchestrator import task_spec_utils
from ray.job_submission import JobSubmissionClient

from components import storage
from components.config import Recipe
from components.steps import targets
from pipelines import training as pipeline
from ray_jobs import _mlflow
from ray_jobs._results import Prepared
from tests.integration import nodes, training
from tests.integration.fake_kubernetes import NAMESPACE, FakeKubernetes
from tests.integration.preparing import ROOT, write_log
from tests.integration.steps import Step, made, name, new_run
from tests.integration.training import MlflowServer, Tracked, wait_for

SEEDS = [1, 2]


@dataclass
class World:
    """A head without CPUs, two workers of one each, MLflow, and a recipe."""

    folder: Path
    address: str
    client: JobSubmissionClient
    server: MlflowServer
    recipe: Recipe

    def jobs(self, run_id: str) -> dict[str, str]:
        """The jobs of a run of the pipeline, with what has become of them."""
        found = {job.submission_id or "": str(job.status) for job in self.client.list_jobs()}
        return {job.removeprefix(name(run_id, "")): status for job, status in found.items() if job.startswith(name(run_id, ""))}

    def longer(self, run_name: str) -> str:
        """A recipe whose training goes on for longer than any test."""
        training_section = {"batch_size": 512, "epochs": 100_000, "patience": 100_000}
        return Recipe.model_validate({**self.recipe.model_dump(), "name": run_name, "training": training_section}).to_json()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("pipeline")
    server = MlflowServer(folder)
    before = dict(os.environ)
    server.start()
    os.environ |= {"MLFLOW_TRACKING_URI": server.uri, "RAY_AUTH_MODE": "disabled"}
    log = write_log(folder / "log.csv", rows=3000)
    scale = {"storage_path": str(folder / "store"), "num_workers": 1}
    short = {"batch_size": 256, "epochs": 3, "checkpoint_steps": None}
    recipe = training.recipe(log, folder / "store", scale=scale, training=short)
    try:
        with nodes.cluster(folder, (1, 1), HARDNEG_CACHE=str(folder / "cache")) as cluster:
            yield World(folder, cluster.address, JobSubmissionClient(cluster.address), server, recipe)
    finally:
        server.kill()
        os.environ.clear()
        os.environ.update(before)


def in_a_loop(spec: Any, item: Any, loop: str, made: Any = task_spec_utils.create_parameter_loop_iteration_task_spec) -> Any:
    """kfp 2.17's local runner alone would give the loop's tasks its item in place of every value made before the loop."""
    own = made(spec, item, loop)
    for key, each in spec.inputs.parameters.items():
        if each.HasField("task_output_parameter"):
            own.inputs.parameters[key].CopyFrom(each)
    return own


def run_here(world: World, folder: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> str:
    """Runs the pipeline by kfp's SubprocessRunner, its outputs in `folder`; the run's id."""
    run_id = new_run()
    monkeypatch.setenv("KFP_RUN_ID", run_id)
    monkeypatch.setattr(task_spec_utils, "create_parameter_loop_iteration_task_spec", in_a_loop)
    monkeypatch.chdir(ROOT)  # as the image has it
    monkeypatch.setattr("kfp.local.config.LocalExecutionConfig.instance", None)
    runner = local.SubprocessRunner(use_venv=False)
    local.init(runner, pipeline_root=str(folder), enable_caching=True, cache_root=str(folder.parent / "kfp_cache"))
    pipeline.build()(recipe=recipe.to_json(), target=world.address, seeds=SEEDS)
    return run_id


def outputs(folder: Path, step: str) -> list[dict[str, Any]]:
    """What a step told kfp, for each time it ran."""
    return [json.loads(path.read_text()) for path in sorted(folder.rglob(f"{step}/executor_output.json"))]


def artifacts(folder: Path, step: str, artifact: str) -> list[dict[str, Any]]:
    """An artifact's metadata, which is also what lies at its own URI."""
    found = [output["artifacts"][artifact]["artifacts"][0] for output in outputs(folder, step)]
    for each in found:
        assert json.loads(Path(each["uri"]).read_text()) == each["metadata"]
    return [each["metadata"] for each in found]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You may be attemping to run a task that uses custom")  # an image; it runs here, without one
def test_the_pipeline_from_a_raw_log_to_a_page_and_from_the_cache(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a search; its best is trained from each seed."""
    space = {"optimizer.learning_rate": {"choice": [1e-6, 0.05]}}
    search = {"space": space, "searcher": "grid", "metric": "ndcg@20"}
    asked = Recipe.model_validate({**world.recipe.model_dump(), "search": search})
    first = tmp_path / "first"
    run_id = run_here(world, first, monkeypatch, asked)
    ran = ["check", "prepare", "tune", "train-1", "train-2", "evaluate-1", "evaluate-2", "register", "recommend"]
    assert world.jobs(run_id) == dict.fromkeys(ran, "SUCCEEDED")

    (dataset,) = artifacts(first, "prepare", "dataset")
    (folder,) = (world.folder / "store" / "datasets").iterdir()
    manifest = storage.open_finished(folder, "dataset")
    assert dataset["uri"] == folder.as_uri()
    assert (dataset["fingerprint"], dataset["users"]) == (folder.name, manifest["num_users"])
    assert dataset["rows_train"] == manifest["rows"]["train"]
    (fingerprints,) = outputs(first, "check")
    assert fingerprints["parameterValues"] == {
        "recipe_fingerprint": asked.fingerprint(),
        "data_fingerprint": folder.name,
    }

    (found,) = artifacts(first, "tune", "search")
    searched = Path(found["uri"].removeprefix("file://"))
    assert searched.parent == world.folder / "store" / "searches"
    trials = {each["name"]: each for each in storage.read_json(searched / "trials.json")}
    assert [each["ended"] for each in trials.values()] == ["finished", "finished"]
    best = trials[found["trial"]]
    assert best["score"] == found["best_value"] == max(each["score"] for each in trials.values())
    tracked = Tracked(searched)
    assert (tracked.status, tracked.run_id) == ("FINISHED", found["mlflow_run_id"])
    assert tracked.tags["ray_job_id"] == name(run_id, "tune")

    models = {model["seed"]: model for model in artifacts(first, "train", "run")}
    assert set(models) == set(SEEDS)
    page = Path(outputs(first, "summary")[0]["artifacts"]["page"]["artifacts"][0]["uri"]).read_text()
    for seed, model in models.items():
        run = Path(model["uri"].removeprefix("file://"))
        trained = Recipe.from_json((run / "recipe.json").read_text())
        assert trained.optimizer.learning_rate == best["values"]["optimizer.learning_rate"]
        assert trained == Recipe.model_validate(
            {**asked.model_dump(exclude={"search"}), "seed": seed, "optimizer": trained.optimizer.model_dump()}
        )
        assert storage.open_finished(run, "run")["best_value"] == model["best_value"]
        tracked = Tracked(run)
        assert (tracked.status, tracked.run_id) == ("FINISHED", model["mlflow_run_id"])
        assert tracked.tags["seed"] == str(seed)
        assert tracked.tags["ray_job_id"] == name(run_id, f"train-{seed}")
        assert f"/runs/{model['mlflow_run_id']}" in page
        recall = storage.read_json(run / "evaluation" / "test" / "metrics.json")["metrics"]["model"]["recall@20"]
        assert f"{recall:.4f}" in page
        assert tracked.history("test_recall@20")[0][1] == recall
    shown = artifacts(first, "evaluate", "metrics")
    assert len(shown) == 2
    assert {"recall_at_5", "recall_at_20", "ndcg_at_20"} <= set(shown[0])
    assert "2 seeds: mean ± standard deviation" in page
    assert "| recall@20 |" in page
    assert f"| {found['trial']} | {found['best_value']:.4f} | 2 finished | [open](" in page
    assert f"/runs/{found['mlflow_run_id']}" in page

    (recommended,) = artifacts(first, "recommend", "recommendations")
    chosen = max(models.values(), key=lambda model: model["best_value"])
    (registered,) = artifacts(first, "register", "registered")
    assert registered["uri"] == f"models:/{world.recipe.name}/1"
    version = _mlflow.client(world.server.uri).get_model_version_by_alias(world.recipe.name, "champion")
    assert (str(version.version), version.run_id) == (registered["version"], chosen["mlflow_run_id"])
    assert recommended["uri"].startswith(chosen["uri"])
    lists = Path(recommended["uri"].removeprefix("file://")).glob("*.parquet")
    assert sum(pq.read_table(part).num_rows for part in lists) == recommended["rows"] == 5 * dataset["users"]
    experiment = _mlflow.client(world.server.uri).get_experiment_by_name("hardneg")
    assert experiment is not None
    assert len(mlflow.MlflowClient(world.server.uri).search_runs([experiment.experiment_id])) == 5, (
        "a search, two trials, two runs"
    )

    again = run_here(world, tmp_path / "second", monkeypatch, asked)
    assert world.jobs(again) == {"check": "SUCCEEDED", "register": "SUCCEEDED"}, "all else is in the cache"
    assert artifacts(tmp_path / "second", "register", "registered")[0]["version"] == "1", "a run has one version"


@pytest.mark.slow
def test_a_step_that_was_lost_finds_its_job_and_the_exit_handler_stops_what_is_left(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = new_run()
    monkeypatch.setenv("KFP_RUN_ID", run_id)
    targets.run(world.address, "prepare", world.recipe.to_json(), Prepared)
    arguments = ["train", world.longer("lost"), world.address, "7", "a", "b", "no dataset", "no run"]
    first = Step(tmp_path / "first", run_id, *arguments)
    run = wait_for(lambda: next((world.folder / "store" / "runs").glob("lost-*"), None), "a run")
    wait_for(lambda: training.reported(run) >= 1, "an epoch")
    first.kill()
    again = Step(tmp_path / "again", run_id, *arguments)
    again.says("found, submitted by an earlier attempt")
    again.says("epoch ")
    again.kill()
    assert world.jobs(run_id) == {"prepare": "SUCCEEDED", "train-7": "RUNNING"}

    targets.stop_all(world.address)
    assert f"stopped, left running: {name(run_id, 'train-7')}\n" in capsys.readouterr().out
    assert world.jobs(run_id)["train-7"] == "STOPPED"
    wait_for(lambda: Tracked(run).status == "KILLED", "the MLflow run to end")
    assert len(list((world.folder / "store" / "runs").glob("lost-*"))) == 1


@pytest.mark.slow
def test_a_step_that_is_told_to_stop_stops_its_job_and_a_retry_goes_on(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = new_run()
    monkeypatch.setenv("KFP_RUN_ID", run_id)
    targets.run(world.address, "prepare", world.recipe.to_json(), Prepared)
    arguments = ["train", world.longer("cancelled"), world.address, "7", "a", "b", "no dataset", "no run"]
    runs, epochs = world.folder / "store" / "runs", 0
    for attempt, job in ((1, "train-7"), (2, "train-7-2")):
        step = Step(tmp_path / str(attempt), run_id, *arguments)
        step.says(f"{job}: submitted")
        run = wait_for(lambda: next(runs.glob("cancelled-*"), None), "a run", step.process)
        wait_for(lambda run=run, before=epochs: training.reported(run) > before, "another epoch", step.process)
        if attempt == 2:
            step.says("begun by an earlier try of HARDNEG_ATTEMPT=")
        assert step.tell_to_stop() == 143
        assert "Traceback" not in step.text
        assert world.jobs(run_id)[job] == "STOPPED"
        epochs = training.reported(run)
    assert [path.name.endswith(f"-{name(run_id, 'train-7')}") for path in runs.glob("cancelled-*")] == [True]


@pytest.mark.slow
def test_a_rayjob_runs_is_found_again_and_deleted(world: World, tmp_path: Path) -> None:
    run_id, target = new_run(), f"rayjob:{NAMESPACE}"
    kubernetes = FakeKubernetes(tmp_path, world.address, {"MLFLOW_TRACKING_PASSWORD": "s3cret"})
    environment = {"KUBECONFIG": str(kubernetes.kubeconfig), "MLFLOW_TRACKING_PASSWORD": "the step's own"}
    environment["RAY_AUTH_TOKEN"] = "its token"  # RAY_AUTH_MODE is disabled here: nobody is asked for it
    lost = Step(tmp_path / "lost", run_id, "check", world.recipe.to_json(), target, **environment)
    lost.says("Initializing")
    lost.kill()
    kubernetes.hold.set()
    again = Step(tmp_path / "again", run_id, "check", world.recipe.to_json(), target, **environment)
    assert again.end() == 0, again.text
    assert made(again).startswith(f"('{world.recipe.fingerprint()}', ")
    assert "found, created by an earlier attempt" in again.text
    assert kubernetes.created(name(run_id, "check")) == [201, 409]
    wait_for(lambda: not kubernetes.jobs, "the RayJob's end")
    (body,) = kubernetes.bodies.values()
    assert "the step's own" not in json.dumps(body)
    assert kubernetes.environments[name(run_id, "check")]["MLFLOW_TRACKING_PASSWORD"] == "s3cret"

    wrong = Recipe.model_validate({**world.recipe.model_dump(), "name": "nowhere"}).to_json().replace("log.csv", "nowhere.csv")
    failing = Step(tmp_path / "failing", run_id, "check", wrong, target, **environment)
    assert failing.end() == 1
    log, _, told = failing.text.partition(f"error: {name(run_id, 'check')}: the job ended as FAILED with exit code 2\n")
    first, *lines = told.splitlines()
    assert first == f"its last {len(lines)} lines:"
    assert lines[-1].startswith("  error: data.source: got ") and "nowhere.csv" in lines[-1]
    assert lines[-1].strip() in log, "each line was told when it came, too"
    assert "Traceback" not in failing.text
    wait_for(lambda: not kubernetes.jobs, "the RayJob's end")
    kubernetes.close()
