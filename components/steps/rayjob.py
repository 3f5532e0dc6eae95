"""A job with a cluster of its own: a RayJob of KubeRay, made, followed and deleted through the Kubernetes API.

Deleted at its end, however it ended: its machines are free at once, and a retry can take the name. What no step sees to its
end, KubeRay takes down itself some time after the job's.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import os
import time
from collections.abc import Iterator
from typing import Any

from components.errors import InputError
from components.steps import IMAGE, IMAGE_VARIABLE, PASSWORDS, SECRET
from components.steps.job import Job, say
from ray_jobs import _submission
from ray_jobs._submission import Ended

WHAT: dict[str, Any] = {"group": "ray.io", "version": "v1", "plural": "rayjobs", "_request_timeout": 30}
RUN_LABEL, PROGRAM_LABEL = "hardneg/run", "hardneg/program"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"  # Kueue's, where there is one: infra/kueue has both queues
CLAIM, SHARED = "hardneg", "/shared"  # the volume claim that holds sources and the storage path, and where pods see it
ACCOUNT = "hardneg-ray"  # the service account of Ray's nodes, without rights
USER = 1000  # as Ray's own images
SCRATCH = "50Gi"  # of each node's /tmp: Ray's session, spilled objects, mapped rows
OVER = ("Complete", "Failed", "ValidationFailed")  # jobDeploymentStatus of a RayJob that changes no more
COMING_SECONDS = 1800  # a cluster that does not come up gives back what it holds
KEPT_SECONDS = 600  # for a step that was lost to come back and read the log
POLL_SECONDS = 2.0
LOST_SECONDS = 300.0
ON_GPU = ("check", "tune", "train")  # check tries what train will have, and trials are trainings


# the object ---------------------------------------------------------------------------------------------------------


def body(job: Job) -> dict[str, Any]:
    """The RayJob, its cluster made as `scale` says. Passwords and tokens are named, never written.

    Raises:
        InputError: the recipe tracks into a file.
    """
    scale = job.recipe.scale
    driver = math.ceil(scale.driver_cpus)
    gpus = int(scale.use_gpu and job.program in ON_GPU)
    cluster: dict[str, Any] = {
        "rayVersion": importlib.metadata.version("ray"),
        "authOptions": {"mode": "token", "secretName": SECRET},  # without a token nothing comes up
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": str(driver)},  # no task but the driver
            "template": _pod(max(1, driver), scale.memory_per_worker_gib),
        },
        "workerGroupSpecs": [
            {
                "groupName": "workers",
                **dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), scale.num_workers),
                "rayStartParams": {},
                "template": _pod(scale.cpus_per_worker, scale.memory_per_worker_gib, gpus),
            }
        ],
    }
    queue = "tune" if job.program == "tune" else "default"
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": job.name, "labels": {RUN_LABEL: job.run_id, PROGRAM_LABEL: job.program, QUEUE_LABEL: queue}},
        "spec": {
            "submissionMode": "HTTPMode",  # by the operator: no pod that only submits
            "entrypoint": _submission.entry_point(job.program, job.arguments),
            "entrypointNumCpus": scale.driver_cpus,
            "runtimeEnvYAML": json.dumps({"env_vars": _submission.environment(job.recipe, job.name)}),
            "backoffLimit": 0,  # the pipeline retries, and knows what for
            "preRunningDeadlineSeconds": COMING_SECONDS,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "rayClusterSpec": cluster,
        },
    }


def _pod(cpus: int, memory_gib: float, gpus: int = 0) -> dict[str, Any]:
    resources = {"cpu": str(cpus), "memory": f"{math.ceil(memory_gib * 1024)}Mi"} | (
        {"nvidia.com/gpu": str(gpus)} if gpus else {}
    )
    own = [{"name": "HOME", "value": "/tmp"}, {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}]
    container = {
        "name": "ray",
        "image": os.environ.get(IMAGE_VARIABLE, IMAGE),
        "env": own + [_from_secret(name) for name in PASSWORDS],
        "resources": {"requests": resources, "limits": resources},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "shared", "mountPath": SHARED}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    return {
        "spec": {
            "serviceAccountName": ACCOUNT,
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [
                {"name": "shared", "persistentVolumeClaim": {"claimName": CLAIM}},
                {"name": "tmp", "emptyDir": {"sizeLimit": SCRATCH}},
            ],
        }
    }


def _from_secret(name: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": SECRET, "key": name, "optional": True}}}


# its life -----------------------------------------------------------------------------------------------------------


class RayJobs:
    """The RayJobs of a namespace, by the pod's service account or else the kubeconfig."""

    def __init__(self, namespace: str) -> None:
        """
        Raises:
            InputError: there is neither.
        """
        from kubernetes import client, config

        try:
            try:
                config.load_incluster_config()
            except config.ConfigException:
                config.load_kube_config()
        except config.ConfigException as error:
            raise InputError(f"target: rayjob:{namespace}: no way to Kubernetes from here ({error})") from error
        self._api: Any = client.CustomObjectsApi()
        self._namespace = namespace

    def run(self, job: Job) -> Ended:
        """
        Raises:
            InputError: Kubernetes refuses, or this step has no token to follow the job by.
        """
        if not (os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")):
            raise InputError(
                f"target: rayjob:{self._namespace}: got no RAY_AUTH_TOKEN here, takes the clusters' token: the key "
                f"auth_token of the Secret {SECRET!r}, which belongs into the steps' namespace too"
            )
        self._create(job)
        ended = self._follow(job.name)
        try:
            self._delete(job.name)
        except InputError as error:  # what the job came to counts; a retry might find it gone, and do all of it again
            say(f"RayJob {job.name}: left to KubeRay, which deletes it in {KEPT_SECONDS} s: {error}")
        return ended

    def stop(self, job: Job) -> None:
        self._delete(job.name)

    def stop_all(self, run_id: str) -> list[str]:
        with self._explained("list"):
            found = self._api.list_namespaced_custom_object(
                namespace=self._namespace, label_selector=f"{RUN_LABEL}={run_id}", **WHAT
            )
        names = [each["metadata"]["name"] for each in found["items"]]
        for name in names:
            self._delete(name)
        return names

    def _create(self, job: Job) -> None:
        """Makes the RayJob, or finds that an earlier attempt has; one that is being deleted is waited for, not for ever."""
        from kubernetes.client import ApiException

        wanted, told, until = body(job), "", time.monotonic() + LOST_SECONDS
        while True:
            with self._explained("create"):
                try:
                    self._api.create_namespaced_custom_object(namespace=self._namespace, body=wanted, **WHAT)
                    say(f"RayJob {job.name}: created in {self._namespace}")
                    return
                except ApiException as error:
                    if error.status != 409:
                        raise
            found = self._get(job.name)
            if found is not None and "deletionTimestamp" not in found["metadata"]:
                say(f"RayJob {job.name}: found, created by an earlier attempt")
                return
            if time.monotonic() > until:
                raise InputError(f"RayJob {job.name}: of an earlier attempt, still being deleted after {LOST_SECONDS:.0f} s")
            told = _tell(job.name, "of an earlier attempt, being deleted", told)
            time.sleep(POLL_SECONDS)

    def _follow(self, name: str) -> Ended:
        """Waits for its end; tells its log as soon as its cluster has one, and what KubeRay says in between."""
        told, log, heard = "", None, time.monotonic()
        while True:
            try:
                found = self._get(name)
                heard = time.monotonic()
            except _submission.AwayError as error:
                if time.monotonic() - heard > LOST_SECONDS:
                    raise
                found, told = {}, _tell(name, str(error), told)
            if found is None:
                raise InputError(f"RayJob {name}: deleted by someone else before its end")
            status = found.get("status", {})
            state = " ".join(filter(None, (status.get(key) for key in ("jobDeploymentStatus", "reason", "message"))))
            if status.get("jobDeploymentStatus") == "Suspended":
                state += f": waits until Kueue's queue {found['metadata']['labels'][QUEUE_LABEL]!r} admits it, if there is one"
            told = _tell(name, state, told) if state else told
            over = status.get("jobDeploymentStatus") in OVER
            if log is None and status.get("jobStatus") and status.get("dashboardURL"):
                try:
                    log = _log(status)
                    continue  # its end is news
                except InputError as error:
                    told = _tell(name, f"its log cannot be read: {error}", told)
            if over:
                return _ended(status, log)
            time.sleep(POLL_SECONDS)

    def _get(self, name: str) -> dict[str, Any] | None:
        from kubernetes.client import ApiException

        with self._explained("get"):
            try:
                return self._api.get_namespaced_custom_object(namespace=self._namespace, name=name, **WHAT)
            except ApiException as error:
                if error.status == 404:
                    return None
                raise

    def _delete(self, name: str) -> None:
        from kubernetes.client import ApiException

        with self._explained("delete"):
            try:
                self._api.delete_namespaced_custom_object(namespace=self._namespace, name=name, **WHAT)
            except ApiException as error:
                if error.status != 404:
                    raise

    @contextlib.contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        """What Kubernetes refuses as an InputError; that it does not answer, as one that may pass."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        where = f"target: rayjob:{self._namespace}"
        try:
            yield
        except ApiException as error:
            said = _message(error)
            if error.status in (401, 403):
                trouble = f"this service account may not {verb} rayjobs.ray.io there ({error.status}: {said})"
                raise InputError(f"{where}: {trouble}") from error
            if error.status == 404:
                raise InputError(f"{where}: no such namespace, or KubeRay is not installed ({said})") from error
            if error.status in (400, 422):
                raise InputError(f"{where}: Kubernetes refused the RayJob: {said}") from error
            raise _submission.AwayError(f"{where}: Kubernetes answers {error.status}: {said}") from error
        except HTTPError as error:
            raise _submission.AwayError(f"{where}: Kubernetes does not answer: {error}") from error


def _message(error: Any) -> str:
    try:
        return json.loads(error.body)["message"]
    except (ValueError, TypeError, KeyError):
        return str(error.reason)


def _tell(name: str, state: str, told: str) -> str:
    if state != told:
        say(f"RayJob {name}: {state}")
    return state


def _log(status: dict[str, Any]) -> Ended:
    url = status["dashboardURL"]
    client = _submission.connect(url if "://" in url else f"http://{url}")
    return _submission.follow(client, status["jobId"], say)


def _ended(status: dict[str, Any], log: Ended | None) -> Ended:
    """As Kubernetes has it, with what the log said; a job whose cluster never came up has none."""
    succeeded = status["jobDeploymentStatus"] == "Complete" and status.get("jobStatus") == "SUCCEEDED"
    message = " ".join(filter(None, (status.get("reason"), status.get("message"))))
    if log is None:
        return Ended("SUCCEEDED" if succeeded else "FAILED", 0 if succeeded else 1, [], None, message)
    if not succeeded and log.status == "SUCCEEDED":
        return Ended("FAILED", 1, log.lines, None, message)
    return log
