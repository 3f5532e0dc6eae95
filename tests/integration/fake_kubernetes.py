"""A Kubernetes API that knows RayJobs alone, and KubeRay's part in them.

It takes a body as strictly as `kubectl --validate=strict` does, by KubeRay's published schema; runs an entry point as a job of
a real Ray cluster, which it shows at the RayJob's dashboardURL; and keeps what is deleted until that job is stopped.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import os
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from tests.integration.preparing import ROOT

NAMESPACE, FORBIDDEN = "hardneg", "forbidden"
POLL_SECONDS = 0.2
TERMINAL = ("SUCCEEDED", "FAILED", "STOPPED")


@functools.cache
def validator(resource: str = "ray.io_rayjobs", version: str = "v1") -> Draft202012Validator:
    """By a custom resource's schema, closed: a field that it does not name is an error. Skips and fails as tests.logs does."""
    data = os.environ.get("HARDNEG_DATA")
    if not data:
        pytest.skip("HARDNEG_DATA is unset: the published schemas are in the folder beside the one that it names")
    path = Path(data).parent / "schemas" / f"{resource}.yaml"
    if not path.is_file():
        pytest.fail(f"HARDNEG_DATA: {path}, a published schema, is missing")
    versions = yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]["versions"]
    (found,) = (each["schema"]["openAPIV3Schema"] for each in versions if each["name"] == version)
    return Draft202012Validator(_closed(found))


def _closed(node: Any) -> Any:
    if isinstance(node, list):
        return [_closed(each) for each in node]
    if not isinstance(node, dict):
        return node
    closed = {key: _closed(value) for key, value in node.items()}
    properties = node.get("properties")
    if isinstance(properties, dict) and node.get("type") == "object":
        if not node.get("x-kubernetes-preserve-unknown-fields"):
            closed["additionalProperties"] = False
        defaulted = {name for name, each in properties.items() if "default" in each}  # by the server, before it looks
        closed["required"] = [name for name in node.get("required", []) if name not in defaulted]
    return closed


class FakeKubernetes:
    """`hold` keeps clusters from coming up, `requests` are (method, last word of the path, answer's status)."""

    def __init__(self, folder: Path, dashboard: str = "", secret: dict[str, str] | None = None) -> None:
        self._validator = validator()
        self._dashboard, self._secret = dashboard, secret or {}
        self._lock = threading.Lock()
        self.jobs: dict[str, dict[str, Any]] = {}
        self.bodies: dict[str, dict[str, Any]] = {}
        self.environments: dict[str, dict[str, str]] = {}  # of entry points
        self.requests: list[tuple[str, str, int]] = []
        self.hold = threading.Event()
        self.finalizers = threading.Event()  # set: what is deleted goes; cleared: it stays, marked
        self.finalizers.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(json.dumps(self._config()))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def status(self, name: str) -> dict[str, Any]:
        return self.jobs.get(name, {}).get("status", {})

    def created(self, name: str) -> list[int]:
        """The answers to attempts at creating it."""
        return [status for method, last, status in self.requests if method == "POST" and last == name]

    # the API --------------------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        parts = urlsplit(path)
        words = parts.path.strip("/").split("/")
        if words[:4] != ["apis", "ray.io", "v1", "namespaces"] or words[5:6] != ["rayjobs"]:
            return _refusal(404, f"the server could not find {parts.path}")
        namespace, name = words[4], words[6] if len(words) > 6 else ""
        if namespace == FORBIDDEN:
            return _refusal(403, f'rayjobs.ray.io is forbidden: cannot {method} in the namespace "{namespace}"')
        if namespace != NAMESPACE:
            return _refusal(404, f'namespaces "{namespace}" not found')
        with self._lock:
            if method == "POST" and body is not None:
                return self._create(body)
            if not name:
                key, _, value = parse_qs(parts.query).get("labelSelector", ["="])[0].partition("=")
                found = [each for each in self.jobs.values() if each["metadata"]["labels"].get(key) == value]
                return 200, {"kind": "RayJobList", "items": copy.deepcopy(found)}
            if name not in self.jobs:
                return _refusal(404, f'rayjobs.ray.io "{name}" not found')
            if method == "DELETE":
                self.jobs[name]["metadata"]["deletionTimestamp"] = "now"
            return 200, copy.deepcopy(self.jobs[name])

    def _create(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if error := best_match(self._validator.iter_errors(body)):
            where = ".".join(str(part) for part in error.absolute_path)
            return _refusal(422, f"RayJob is invalid: {where}: {error.message}")
        name = body["metadata"]["name"]
        if name in self.jobs:
            return _refusal(409, f'rayjobs.ray.io "{name}" already exists')
        self.jobs[name] = self.bodies[name] = {**body, "status": {}}
        threading.Thread(target=self._operate, args=[name], daemon=True).start()
        return 201, copy.deepcopy(self.jobs[name])

    # KubeRay --------------------------------------------------------------------------------------------------------

    def _operate(self, name: str) -> None:
        """A RayJob's life: its cluster comes up, its entry point runs, and at last it is deleted."""
        job = self.jobs[name]

        def deleted() -> bool:
            return "deletionTimestamp" in job["metadata"]

        job["status"] = {"jobDeploymentStatus": "Initializing", "jobId": f"{name}-{secrets.token_hex(3)}"}
        while not self.hold.wait(POLL_SECONDS) and not deleted():
            pass
        if not deleted():
            self._run(job, deleted)
        while not deleted():
            time.sleep(POLL_SECONDS)
        time.sleep(2 * POLL_SECONDS)  # its pods end
        self.finalizers.wait()
        with self._lock:
            del self.jobs[name]

    def _run(self, job: dict[str, Any], deleted: Any) -> None:
        from ray.job_submission import JobSubmissionClient

        spec, identity = job["spec"], job["status"]["jobId"]
        environment = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
        (container,) = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
        for reference in (each["valueFrom"]["secretKeyRef"] for each in container["env"] if "valueFrom" in each):
            if reference["name"] == "hardneg" and reference["key"] in self._secret:
                environment[reference["key"]] = self._secret[reference["key"]]
        self.environments[job["metadata"]["name"]] = environment
        client = JobSubmissionClient(self._dashboard)
        client.submit_job(
            entrypoint=spec["entrypoint"],
            submission_id=identity,
            runtime_env={"env_vars": environment | {"PYTHONPATH": str(ROOT)}},  # the image has the project
            entrypoint_num_cpus=spec["entrypointNumCpus"] or None,
        )
        shown = self._dashboard.removeprefix("http://")  # as KubeRay writes it
        job["status"] |= {"jobDeploymentStatus": "Running", "dashboardURL": shown}
        while (state := str(client.get_job_status(identity))) not in TERMINAL:
            job["status"] |= {"jobStatus": state}
            if deleted():
                with contextlib.suppress(RuntimeError):
                    client.stop_job(identity)
            time.sleep(POLL_SECONDS)
        over = {"jobDeploymentStatus": "Complete"}
        if state == "FAILED":
            over = {"jobDeploymentStatus": "Failed", "reason": "AppFailed", "message": "Job entrypoint command failed"}
        job["status"] |= {"jobStatus": state, **over}

    # HTTP -----------------------------------------------------------------------------------------------------------

    def _config(self) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{self._server.server_port}"}}],
            "users": [{"name": "fake", "user": {}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        kubernetes = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                status, answer = kubernetes.answer(self.command, self.path, body)
                last = body["metadata"]["name"] if self.command == "POST" and body else urlsplit(self.path).path.split("/")[-1]
                kubernetes.requests.append((self.command, last, status))
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_DELETE = _answer

            def log_message(self, format: str, *args: Any) -> None: ...

        return Handler


def _refusal(status: int, message: str) -> tuple[int, dict[str, Any]]:
    return status, {"kind": "Status", "status": "Failure", "message": message, "code": status}
