"""A prepared small log, its recipes, and what a test asks of a training: its files, its MLflow run, its processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import ray
from prometheus_client.parser import text_string_to_metric_families

from components import config, storage
from components.config import Recipe
from ray_jobs import _checkpoints, _mlflow, _tracking
from tests.integration.preparing import ROOT, RULES

CLOCK = (
    "rows_per_second",
    "step_seconds",
    "exchange_share",
    "validation_seconds",
)
"""Differ from run to run, as what is below system/ does."""
LIMIT_SECONDS = 300.0  # of waiting for anything: a test fails rather than hangs


def tree(source: Path, storage_path: Path, **sections: Any) -> dict[str, Any]:
    """A recipe with draws of every kind and checkpoints inside epochs (of six steps), some sections replaced."""
    base = {
        "name": "tiny",
        "data": {"source": str(source), **RULES},
        "encoder": {"name": "mf", "dim": 8, "dropout": 0.2},
        "loss": {"name": "sampled_softmax", "temperature": 0.2},
        "negatives": [{"name": "in_batch"}, {"name": "uniform", "count": 20}],
        "optimizer": {"learning_rate": 0.01},
        "training": {"batch_size": 256, "epochs": 8, "patience": 100, "checkpoint_steps": 2},
        "evaluation": {"ks": [5, 20], "baselines": ["most_popular", "ease"], "recommend_k": 5},
        "scale": {"storage_path": str(storage_path), "num_workers": 2},
    }
    return {**base, **sections}


def recipe(source: Path, storage_path: Path, **sections: Any) -> Recipe:
    return config.parse(tree(source, storage_path, **sections))


def recipe_file(path: Path, given: Recipe) -> Path:
    path.write_text(given.to_json())  # JSON is YAML
    return path


def program(name: str, *arguments: str, out: Path, **environment: str | None) -> subprocess.Popen[str]:
    """A program of ours as a process; what it prints goes to the files `out`.out and `out`.err. None unsets a variable."""
    own = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
    with Path(f"{out}.out").open("w") as stdout, Path(f"{out}.err").open("w") as stderr:
        command = [sys.executable, "-m", f"ray_jobs.{name}", *arguments]
        return subprocess.Popen(command, cwd=ROOT, env=own, text=True, stdout=stdout, stderr=stderr, start_new_session=True)


def code(process: subprocess.Popen[str]) -> int:
    """The exit code of a program that ends by itself; one that does not fails the test, and is killed."""
    try:
        return process.wait(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        kill_group(process)
        raise


def wait_for(condition: Callable[[], Any], what: str, process: subprocess.Popen[Any] | None = None) -> Any:
    """The first true value of `condition`; fails where it does not come, or where `process` ends before."""
    until = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):  # not there yet, or being written by Ray
            if value := condition():
                return value
        assert process is None or process.poll() is None, f"the program ended (code {process.poll()}) before {what}"
        time.sleep(0.02)
    raise AssertionError(f"waited in vain for {what}")


@contextlib.contextmanager
def meanwhile(action: Callable[[], None]) -> Iterator[None]:
    """Runs `action` beside the body; both must end well."""
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        if errors:
            raise errors[0]


def runs(storage_path: Path) -> list[Path]:
    """The folders of runs, oldest first."""
    return sorted((storage_path / "runs").glob("*-*-*"), key=lambda folder: folder.name.rpartition("-2")[2])


def reported(run: Path) -> int:
    """Epochs that the controller has heard of."""
    return len(_tracking.read_history(run))


def latest_position(run: Path) -> dict[str, Any]:
    """Where the last registered checkpoint stands."""
    latest = storage.read_json(run / _checkpoints.LIST)["latest_checkpoint_result"]
    return storage.read_json(run / latest["checkpoint_dir_name"] / "position.json")["position"]


def train_workers() -> list[psutil.Process]:
    """Ray Train's workers among the processes that this one started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.cmdline()[0].startswith("ray::RayTrainWorker"):
                found.append(process)
    return found


def gauges(recipe: str) -> Iterator[tuple[str, str, float]]:
    """What the node's metrics port has of trainings of that name now: (gauge, run, value)."""
    (node,) = ray.nodes()
    port = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(port, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    text = "\n".join(line for line in lines if "hardneg" in line) + "\n"  # of thousands, which take long to parse
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("recipe") == recipe:
                yield sample.name, sample.labels["run"], sample.value


def kill_group(process: subprocess.Popen[Any]) -> None:
    """SIGKILL to a process that leads its own session, and to what it started there."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def outcome(run: Path) -> dict[str, Any]:
    """All that two trainings of one recipe have in common, to the bit: last weights, kept weights, every epoch's metrics."""
    manifest = storage.open_finished(run, "run")
    (last,) = run.glob("checkpoint_2*")
    history = _tracking.read_history(run)
    return {
        "kept": (run / "model" / "model.safetensors").read_bytes(),
        "last": (last / "model.safetensors").read_bytes(),
        "optimizer": (last / "model_optimizer.safetensors").read_bytes(),
        "position": storage.read_json(last / "position.json"),
        "banks": {path.name: path.read_bytes() for path in last.glob("negatives.*")},
        "steps": [entry["step"] for entry in history],
        "metrics": [
            {name: value for name, value in entry["metrics"].items() if name not in CLOCK and not name.startswith("system/")}
            for entry in history
        ],
        "best": (manifest["best_epoch"], manifest["best_value"], manifest["epochs"]),
    }


class Tracked:
    """A training's MLflow run, as MLflow tells it."""

    def __init__(self, run: Path, tracking_uri: str | None = None) -> None:
        saved = _tracking.attach(run)
        self.client, self.run_id = _mlflow.client(tracking_uri or saved.tracking_uri), saved.run_id
        self.run = self.client.get_run(self.run_id)

    @property
    def status(self) -> str:
        return self.run.info.status

    @property
    def tags(self) -> dict[str, str]:
        return self.run.data.tags

    def history(self, metric: str) -> list[tuple[int, float]]:
        """(step, value), in the order of steps."""
        name = _mlflow.metric_name(metric)
        return sorted((point.step, point.value) for point in self.client.get_metric_history(self.run_id, name))

    def artifacts(self, folder: str | None = None) -> set[str]:
        found = set()
        for entry in self.client.list_artifacts(self.run_id, folder):
            found |= self.artifacts(entry.path) if entry.is_dir else {entry.path}
        return found


def has_all_epochs(run: Path, tracked: Tracked) -> None:
    """Every metric of every epoch is in MLflow, once."""
    history = _tracking.read_history(run)
    names = {name for entry in history for name in entry["metrics"]}
    of_workers = {"system/worker/memory_gib", "system/worker/received_mib_per_step"}
    assert {"loss", "valid_recall@20", "valid_ndcg@20", "rows_per_second", "system/node_0/cpu_percent"} | of_workers <= names
    for name in names:
        expected = [(entry["step"], entry["metrics"][name]) for entry in history if name in entry["metrics"]]
        assert tracked.history(name) == expected


BESIDE = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 3  # which of the processes that test at once
PORTS = iter(range(7000 + 1000 * BESIDE + os.getpid() % 500, 8000 + 1000 * BESIDE))  # Ray keeps those above for its workers


def free_port() -> int:
    """One that this process has not asked for before."""
    for port in PORTS:
        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


class MlflowServer:
    """A real `mlflow server`, on SQLite by default, that can be killed and started again at its address."""

    def __init__(self, folder: Path, backend: str | None = None, workers: int = 1, **environment: str) -> None:
        self._folder, self._port, self._process = folder, free_port(), None
        self._backend, self._workers, self._environment = backend or f"sqlite:///{folder}/server.db", workers, environment
        self.uri = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", str(self._workers), "--backend-store-uri", self._backend]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        command += ["--uvicorn-opts", "--timeout-worker-healthcheck 120"]  # by default 5 s: a busy machine imports for longer
        own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", **self._environment}
        with (self._folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                command, env={**os.environ, **own}, stdout=log, stderr=log, start_new_session=True, cwd=self._folder
            )
        wait_for(self._answers, "MLflow's server", self._process)

    def kill(self) -> None:
        if self._process is not None:
            kill_group(self._process)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False


def lines(path: str | Path) -> list[str]:
    return Path(path).read_text().splitlines()


def params_of(given: Recipe) -> dict[str, str]:
    """A recipe's leaves as text, by dotted key: found by walking it, not by the code under test."""
    found: dict[str, str] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict) and value:
            for key, below in value.items():
                walk(below, f"{path}.{key}".strip("."))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for n, below in enumerate(value):
                walk(below, f"{path}.{n}")
        else:
            found[path] = value if isinstance(value, str) else json.dumps(value)

    walk(given.model_dump(mode="json"), "")
    return found
