"""The RayJob that a job is made into: by `scale`, within KubeRay's schema, without a password."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from components.config import Recipe
from components.errors import InputError
from components.steps import rayjob
from components.steps.job import Job
from tests.integration import fake_kubernetes, training

RUN = "01234567-89ab-4def-8123-456789abcdef"


def recipe(tracking: str | None = "http://mlflow:5000", **scale: Any) -> Recipe:
    return training.recipe(
        Path("/log.csv"), Path("/store"), scale={"storage_path": "/store", **scale}, tracking={"uri": tracking}
    )


def made(program: str = "train", part: str = "2147483647", **scale: Any) -> dict[str, Any]:
    return rayjob.body(Job(RUN, program, part, recipe(**scale), ["--seeds", "1"]))


def containers(body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The head's and a worker's."""
    cluster = body["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    (head,), (worker,) = (group["template"]["spec"]["containers"] for group in (cluster["headGroupSpec"], workers))
    return head, worker


@pytest.mark.parametrize("token", [None, "t0ken"])
def test_it_is_within_kuberays_schema(monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
    if token:
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    else:
        monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    body = made(num_workers=3, use_gpu=True, driver_cpus=1.5)
    fake_kubernetes.validator().validate(body)
    assert ("authOptions" in body["spec"]["rayClusterSpec"]) == bool(token)
    assert "t0ken" not in json.dumps(body)


@pytest.mark.parametrize(
    ("wrong", "named"), [({"replica": 1}, "'replica' was unexpected"), ({"replicas": "many"}, "'many' is not")]
)
def test_the_schema_would_tell(wrong: dict[str, Any], named: str) -> None:
    body = made()
    body["spec"]["rayClusterSpec"]["workerGroupSpecs"][0] |= wrong
    with pytest.raises(jsonschema.ValidationError, match=named):
        fake_kubernetes.validator().validate(body)


def test_it_is_as_wide_as_scale_says() -> None:
    body = made(num_workers=3, cpus_per_worker=2, memory_per_worker_gib=1.5, use_gpu=True, driver_cpus=1.5)
    head, worker = containers(body)
    (group,) = body["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert {group[key] for key in ("replicas", "minReplicas", "maxReplicas")} == {3}
    assert worker["resources"]["limits"] == {"cpu": "2", "memory": "1536Mi", "nvidia.com/gpu": "1"}
    assert head["resources"]["limits"] == {"cpu": "2", "memory": "1536Mi"}
    assert body["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"] == {"num-cpus": "2"}
    assert body["spec"]["entrypointNumCpus"] == 1.5
    assert "nvidia.com/gpu" in containers(made("tune", use_gpu=True))[1]["resources"]["limits"], "trials are trainings"
    assert "nvidia.com/gpu" not in containers(made("evaluate", use_gpu=True))[1]["resources"]["limits"]


def test_who_waits_for_a_queue_is_told_its_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    states = iter(["Suspended", "Suspended", "Initializing", "Failed"])

    class Api:
        def get_namespaced_custom_object(self, **_: Any) -> dict[str, Any]:
            return {**made("tune"), "status": {"jobDeploymentStatus": next(states)}}

    jobs = rayjob.RayJobs.__new__(rayjob.RayJobs)
    jobs._api, jobs._namespace = Api(), "hardneg"
    monkeypatch.setattr(rayjob.time, "sleep", lambda seconds: None)
    assert jobs._follow("mine").status == "FAILED"
    waiting, coming, failed = capsys.readouterr().out.splitlines()
    assert "RayJob mine: Suspended: waits until Kueue's queue 'tune' admits it" in waiting
    assert (coming.endswith("Initializing"), failed.endswith("Failed")) == (True, True)


def test_passwords_are_named_and_never_written(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.setenv(name, "s3cret")
    body = made()
    assert "s3cret" not in json.dumps(body)
    for container in containers(body):
        keys = {each["name"]: each["valueFrom"]["secretKeyRef"] for each in container["env"]}
        assert keys["MLFLOW_TRACKING_PASSWORD"] == {"name": "hardneg", "key": "MLFLOW_TRACKING_PASSWORD", "optional": True}


def test_nothing_runs_as_root() -> None:
    cluster = made()["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        for container in pod["containers"]:
            assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_its_name_is_one_that_kuberay_takes_and_says_whose_it_is() -> None:
    metadata = made("recommend")["metadata"]
    assert metadata["name"] == "hardneg-0123456789ab-recommend-2147483647"
    assert len(metadata["name"]) <= 47
    assert metadata["labels"].items() >= {"hardneg/run": RUN, "hardneg/program": "recommend"}.items()


def test_the_recipe_travels_in_the_jobs_environment() -> None:
    body = made()
    variables = json.loads(body["spec"]["runtimeEnvYAML"])["env_vars"]
    assert Recipe.from_json(variables["HARDNEG_RECIPE"]) == recipe()
    assert body["spec"]["entrypoint"] == "python -m ray_jobs.train env:HARDNEG_RECIPE --seeds 1"
    assert (body["spec"]["backoffLimit"], body["spec"]["shutdownAfterJobFinishes"]) == (0, True)
    assert body["spec"]["ttlSecondsAfterFinished"] > 0


def test_tracking_into_a_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match="tracking.uri: got sqlite:////store/mlflow.db"):
        rayjob.body(Job(RUN, "train", "", recipe(tracking=None), []))
