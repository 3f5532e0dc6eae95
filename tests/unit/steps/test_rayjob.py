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


def of(api: Any) -> rayjob.RayJobs:
    """Those of a namespace whose API is this one."""
    jobs = rayjob.RayJobs.__new__(rayjob.RayJobs)
    jobs._api, jobs._namespace = api, "hardneg"
    return jobs


def containers(body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The head's and a worker's."""
    cluster = body["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    (head,), (worker,) = (group["template"]["spec"]["containers"] for group in (cluster["headGroupSpec"], workers))
    return head, worker


@pytest.mark.parametrize("token", [None, "t0ken"])
def test_it_is_within_kuberays_schema_and_wants_a_token(monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
    """Whatever the step itself has: a cluster without one runs anyone's code."""
    if token:
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    else:
        monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    body = made(num_workers=3, use_gpu=True, driver_cpus=1.5)
    assert body["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": "hardneg"}
    assert "t0ken" not in json.dumps(body)
    fake_kubernetes.validator().validate(body)


def test_a_step_without_a_token_makes_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    jobs = of(None)  # no API: nothing is asked of it
    with pytest.raises(InputError, match=r"^target: rayjob:hardneg: got no RAY_AUTH_TOKEN here, takes the clusters' token: .*"):
        jobs.run(Job(RUN, "train", "", recipe(), []))


def test_a_job_that_cannot_be_deleted_has_ended_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kubernetes.client import ApiException

    class Api:
        def create_namespaced_custom_object(self, **_: Any) -> None: ...

        def get_namespaced_custom_object(self, **_: Any) -> dict[str, Any]:
            return {"metadata": {}, "status": {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}}

        def delete_namespaced_custom_object(self, **_: Any) -> None:
            raise ApiException(status=503, reason="away")

    monkeypatch.setenv("RAY_AUTH_TOKEN", "t0ken")
    assert of(Api()).run(Job(RUN, "train", "", recipe(), [])).status == "SUCCEEDED"
    assert (
        "left to KubeRay, which deletes it in 600 s: target: rayjob:hardneg: Kubernetes answers 503" in capsys.readouterr().out
    )


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

    monkeypatch.setattr(rayjob.time, "sleep", lambda seconds: None)
    assert of(Api())._follow("mine").status == "FAILED"
    waiting, coming, failed = capsys.readouterr().out.splitlines()
    assert "RayJob mine: Suspended: waits until Kueue's queue 'tune' admits it" in waiting
    assert (coming.endswith("Initializing"), failed.endswith("Failed")) == (True, True)


def test_passwords_are_named_and_never_written(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.setenv(name, "s3cret")
    body = made()
    assert "s3cret" not in json.dumps(body)
    for container in containers(body):
        keys = {each["name"]: each["valueFrom"]["secretKeyRef"] for each in container["env"] if "valueFrom" in each}
        assert keys["MLFLOW_TRACKING_PASSWORD"] == {"name": "hardneg", "key": "MLFLOW_TRACKING_PASSWORD", "optional": True}


def test_a_cluster_that_does_not_come_up_is_given_up() -> None:
    assert made()["spec"]["preRunningDeadlineSeconds"] > 0


def test_its_name_is_one_that_kuberay_takes_and_says_whose_it_is() -> None:
    metadata = made("recommend")["metadata"]
    assert metadata["name"] == "hardneg-0123456789ab-recommend-2147483647"
    assert len(metadata["name"]) <= 47
    assert metadata["labels"].items() >= {"hardneg/run": RUN, "hardneg/program": "recommend"}.items()


def test_the_recipe_travels_in_the_jobs_environment() -> None:
    body = made()
    variables = json.loads(body["spec"]["runtimeEnvYAML"])["env_vars"]
    assert Recipe.from_json(variables["HARDNEG_RECIPE"]) == recipe()
    assert variables["HARDNEG_ATTEMPT"] == body["metadata"]["name"], "a retry's job goes on with its run"
    assert body["spec"]["entrypoint"] == "python -m ray_jobs.train env:HARDNEG_RECIPE --seeds 1"
    assert (body["spec"]["backoffLimit"], body["spec"]["shutdownAfterJobFinishes"]) == (0, True)
    assert body["spec"]["ttlSecondsAfterFinished"] > 0


def test_tracking_into_a_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match="tracking.uri: got sqlite:////store/mlflow.db"):
        rayjob.body(Job(RUN, "train", "", recipe(tracking=None), []))
