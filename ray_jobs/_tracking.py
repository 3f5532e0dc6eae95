"""MLflow: one run per training, created and ended by the driver; what cannot be sent is kept and sent later."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components import storage
from components.config import Recipe
from components.errors import InputError, TrackingError
from ray_jobs import _credentials
from ray_jobs._mlflow import LONGEST_NAME, complaint, metric_name, metric_value, patiently, text
from ray_jobs._mlflow import client as client  # for what a TrackedRun does not do

HISTORY = "metrics.jsonl"
STOPPED = "stopped.json"  # of a trial that the search's scheduler ended
LINKS = "links.json"  # a run's dataset and its MLflow run
REASON = "reason"  # the tag that says why a run ended
MOST_PARAMS = 100  # that one request takes
LARGEST_BATCH = 1000  # metrics that one request takes


def uri(recipe: Recipe) -> str:
    """The recipe's tracking URI, else MLFLOW_TRACKING_URI, else one SQLite under the storage path.

    Raises:
        InputError: it has a password, which would be printed and logged.
    """
    default = f"sqlite:///{recipe.scale.storage_path}/mlflow.db"
    found = recipe.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or default
    if urlsplit(found).password is not None:
        name = "tracking.uri" if recipe.tracking.uri else "MLFLOW_TRACKING_URI"
        raise InputError(
            f"{name}: got a URI with a password in it, takes one without: "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD hold them"
        )
    return found


def require_server(tracking_uri: str) -> None:
    """Raises InputError where a job would track into a file."""
    if tracking_uri.startswith("sqlite:"):
        raise InputError(
            f"tracking.uri: got {tracking_uri}, takes the URI of an MLflow server where the program is a submitted job "
            "(or set MLFLOW_TRACKING_URI): a file of its own would be lost or locked on the cluster"
        )


def is_local(recipe: Recipe) -> bool:
    return uri(recipe).startswith("sqlite:")


@dataclass(frozen=True)
class TrackedRun:
    """One MLflow run, by its id; picklable, so that Train's controller can log to it. All it sends may be sent twice."""

    tracking_uri: str
    run_id: str

    def log(self, history: Iterable[dict[str, Any]], patience: float | None = None) -> None:
        """Sends entries {time, step, metrics} in batches. Sent twice, they are there once: MLflow keys them so."""
        from mlflow.entities import Metric

        metrics = [
            Metric(metric_name(name), metric_value(value), round(entry["time"] * 1000), entry["step"])
            for entry in history
            for name, value in entry["metrics"].items()
        ]
        for start in range(0, len(metrics), LARGEST_BATCH):
            batch = metrics[start : start + LARGEST_BATCH]
            patiently(self.tracking_uri, lambda mlflow, batch=batch: mlflow.log_batch(self.run_id, metrics=batch), patience)

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        self.log([{"time": time.time(), "step": step, "metrics": values}])

    def artifact(self, path: Path, folder: str = "") -> None:
        patiently(self.tracking_uri, lambda mlflow: mlflow.log_artifact(self.run_id, str(path), folder or None))

    def tag(self, name: str, value: str) -> None:
        patiently(self.tracking_uri, lambda mlflow: mlflow.set_tag(self.run_id, name, text(value)))

    def reopen(self) -> None:
        """RUNNING again, for a training that continues: why it ended before is no longer so."""

        def ask(mlflow: Any) -> None:
            mlflow.update_run(self.run_id, "RUNNING")
            if REASON in mlflow.get_run(self.run_id).data.tags:
                mlflow.delete_tag(self.run_id, REASON)

        patiently(self.tracking_uri, ask)

    def end(self, status: str, reason: str = "") -> None:
        """FINISHED, FAILED or KILLED."""
        if reason:
            self.tag(REASON, reason)
        patiently(self.tracking_uri, lambda mlflow: mlflow.set_terminated(self.run_id, status))


def create(
    recipe: Recipe, run: Path, dataset: Path, tags: Mapping[str, str] | None = None, params: Mapping[str, Any] | None = None
) -> TrackedRun:
    """Creates the MLflow run of a training, with tags, the dataset as an input, and its parameters: all of them, or `params`.

    Raises:
        TrackingError: the tracking server does not answer.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param
    from mlflow.utils import mlflow_tags

    where = uri(recipe)
    manifest = storage.read_json(dataset / storage.MANIFEST)
    leaves = flat(recipe.model_dump(mode="json") if params is None else dict(params))
    logged = [Param(metric_name(key), text(value)) for key, value in leaves]
    logged.append(Param("dataset", manifest["fingerprint"]))
    told = {
        mlflow_tags.MLFLOW_USER: storage.user(),
        mlflow_tags.MLFLOW_SOURCE_NAME: "ray_jobs.train",
        mlflow_tags.MLFLOW_GIT_COMMIT: commit(),
        "recipe": recipe.name,
        "seed": str(recipe.seed),
        "folder": str(run),
        "ray_job_id": _ray_job_id(),
        "fitted": recipe.training.fitted,
        **(tags or {}),
    }
    schema = json.dumps({"mlflow_colspec": [{"name": name, "type": "integer", "required": True} for name in ("user", "item")]})
    profile = json.dumps({key: manifest[key] for key in ("num_users", "num_items", "rows")})
    source = json.dumps({"uri": str(dataset)})
    data = Dataset(f"{recipe.name} dataset", manifest["fingerprint"], "local", source, schema, profile)
    inputs = [DatasetInput(data, [InputTag("mlflow.data.context", "training")])]
    beginning = _Beginning(recipe, run.name, {key: text(value) for key, value in told.items()})
    tracked = None
    try:
        begun = patiently(where, beginning.create)
        tracked = TrackedRun(where, begun.run_id)
        links = {"kind": told.get("kind", "run"), "dataset": str(dataset), "tracking_uri": where}
        storage.write_json(run / LINKS, {**links, "experiment_id": begun.experiment_id, "run_id": begun.run_id})
        for start in range(0, len(logged), MOST_PARAMS):
            batch = logged[start : start + MOST_PARAMS]
            patiently(where, lambda mlflow, batch=batch: mlflow.log_batch(begun.run_id, params=batch))
        patiently(where, lambda mlflow: mlflow.log_inputs(begun.run_id, inputs))
        tracked.artifact(dataset / storage.MANIFEST, "dataset")
        if params is None and (dataset / storage.REPORT).is_dir():  # a trial is one of many: its search has it
            tracked.artifact(dataset / storage.REPORT, "dataset")
        tracked.artifact(run / "recipe.json")
        patiently(where, lambda mlflow: beginning.delete_twins(mlflow, begun))
    except BaseException as error:
        if tracked is not None:  # begun, and not to stay RUNNING
            with contextlib.suppress(Exception):
                tracked.end("FAILED", f"it could not be begun: {error}")
        if isinstance(error, Exception):
            raise TrackingError(
                f"tracking.uri: got {where}, where no run could be begun: {type(error).__name__}: {error}"
            ) from error
        raise
    return tracked


class _Beginning:
    """Creates one MLflow run, however often it is tried: an answer may be lost and the run be there, or come late."""

    def __init__(self, recipe: Recipe, name: str, tags: dict[str, str]) -> None:
        self._recipe, self._name, self._tries = recipe, text(name, LONGEST_NAME), 0
        self._mark = uuid.uuid4().hex
        self._tags = {**tags, "creation": self._mark}

    def create(self, mlflow: Any) -> Any:
        """What MLflow says of the run."""
        experiment_id = self._experiment(mlflow)
        self._tries += 1
        if self._tries > 1 and (found := self._found(mlflow, experiment_id)):
            return found[0]
        return mlflow.create_run(experiment_id, tags=self._tags, run_name=self._name).info

    def delete_twins(self, mlflow: Any, kept: Any) -> None:
        """Of a try that was given up and has come to something since."""
        if self._tries > 1:
            for twin in self._found(mlflow, kept.experiment_id):
                if twin.run_id != kept.run_id:
                    mlflow.delete_run(twin.run_id)

    def _found(self, mlflow: Any, experiment_id: str) -> list[Any]:
        return [run.info for run in mlflow.search_runs([experiment_id], f"tags.creation = '{self._mark}'")]

    def _experiment(self, mlflow: Any) -> str:
        from mlflow.exceptions import MlflowException

        name = self._recipe.tracking.experiment
        experiment = mlflow.get_experiment_by_name(name)
        if experiment is None:
            location = None
            if is_local(self._recipe):
                location = Path(self._recipe.scale.storage_path, "mlflow-artifacts").as_uri()
            try:
                return mlflow.create_experiment(name, artifact_location=location)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another run has just created it
                    raise
            experiment = mlflow.get_experiment_by_name(name)
        return experiment.experiment_id


def attach(run: Path) -> TrackedRun:
    """The MLflow run of a training's folder."""
    saved = storage.read_json(run / LINKS)
    return TrackedRun(saved["tracking_uri"], saved["run_id"])


def attach_by(recipe: Recipe, run: Path) -> TrackedRun:
    """The same, where it is on the MLflow that the recipe means, or no credentials are here: they would be sent to whatever
    server somebody wrote into the folder.

    Raises:
        InputError: it is elsewhere.
    """
    tracked, here = attach(run), uri(recipe)
    if not _credentials.may_go_to(tracked.tracking_uri, here):
        raise InputError(
            f"tracking.uri: got {here}, takes {tracked.tracking_uri}, where {run} is tracked (its {LINKS}); "
            "the credentials that are set here go to no other server"
        )
    return tracked


def url(run: Path) -> str | None:
    """The address of a run's MLflow page; None where MLflow is a file."""
    saved = storage.read_json(run / LINKS)
    if saved["tracking_uri"].startswith("sqlite:"):
        return None
    return f"{saved['tracking_uri'].rstrip('/')}/#/experiments/{saved['experiment_id']}/runs/{saved['run_id']}"


def how_to_open(run: Path) -> str:
    """The address of a run's MLflow page, or the command that shows it."""
    program = str(Path(sys.executable).parent / "mlflow")
    file = attach(run).tracking_uri
    return url(run) or shlex.join([program, "server", "--backend-store-uri", file, "--port", "5000"])


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The entries of a run's, or a checkpoint's, metrics.jsonl: one for each epoch. A line that a kill cut short is not one."""
    path = folder / HISTORY
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def seconds_per_epoch(history: list[dict[str, Any]]) -> float | None:
    """The median of what an epoch took, less its validation: from the end of the one before, so not known of a single one.

    Neither starting nor waiting for a restart counts.
    """
    pairs = itertools.pairwise(history)
    gaps = [after["time"] - before["time"] - after["metrics"].get("validation_seconds", 0.0) for before, after in pairs]
    return statistics.median(gaps) if gaps else None


def cost(run: Path, manifest: Mapping[str, Any]) -> dict[str, float | None]:
    """Of a training: epochs, the one chosen (from 1), median seconds of an epoch, and of all with their validations."""
    history, epochs = read_history(run), manifest["epochs"]
    checks = sum(entry["metrics"].get("validation_seconds", 0.0) for entry in history)
    each = seconds_per_epoch(history)
    total = None if each is None else each * epochs + checks
    return {"epochs": epochs, "best_epoch": manifest["best_epoch"] + 1, "seconds_per_epoch": each, "seconds": total}


def write_history(folder: Path, history: list[dict[str, Any]]) -> None:
    storage.write_text(folder / HISTORY, "".join(json.dumps(entry) + "\n" for entry in history))


def append_history(run: Path, entries: list[dict[str, Any]]) -> None:
    with (run / HISTORY).open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(entry) + "\n" for entry in entries))


@contextlib.contextmanager
def closing(tracked: TrackedRun, run: Path) -> Iterator[None]:
    """Ends the MLflow run whatever happens: FINISHED, FAILED with the reason, or KILLED, even by SIGKILL.

    A guard process waits for this one to die; the metrics are sent again from metrics.jsonl, in case the server was away.
    """
    guard = subprocess.Popen(
        [sys.executable, "-m", "ray_jobs._guard", str(run)], stdin=subprocess.PIPE, start_new_session=True, env=os.environ
    )
    assert guard.stdin is not None
    try:
        yield
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        reason = "the driver was interrupted" if interrupted else f"{type(error).__name__}: {error}"
        end(tracked, run, "KILLED" if interrupted else "FAILED", reason)
        raise
    else:
        end(tracked, run, "FINISHED")
    finally:
        with contextlib.suppress(BrokenPipeError):
            guard.stdin.write(b"done")
            guard.stdin.close()
        guard.wait()


def end(tracked: TrackedRun, run: Path, status: str, reason: str = "") -> None:
    """Ends the run, and sends what MLflow may have missed: in this order, for who stops a job may kill it soon after."""
    with saying(tracked, run / HISTORY):
        try:
            tracked.end(status, reason)
        finally:
            tracked.log(read_history(run))


@contextlib.contextmanager
def saying(tracked: TrackedRun, kept: Path) -> Iterator[None]:
    """What fails to reach MLflow ends nothing: it is said, with the file that keeps it."""
    try:
        yield
    except Exception as error:
        print(f"{complaint(tracked.tracking_uri, error)}; what it lacks is kept in {kept}", file=sys.stderr)


def is_running(run: Path) -> bool:
    """Whether MLflow has the run as RUNNING, or does not say."""
    tracked = attach(run)
    with saying(tracked, run / HISTORY):
        return client(tracked.tracking_uri).get_run(tracked.run_id).info.status == "RUNNING"
    return True


def end_left(run: Path) -> None:
    """Ends the run of a driver that is gone as its folder says: finished, stopped where a search ended it, else killed."""
    tracked = attach(run)
    if storage.is_finished(run):  # killed after its last file, before MLflow heard of it
        end(tracked, run, "FINISHED")
    elif (run / STOPPED).exists():
        tell_stopped(tracked, run)
        end(tracked, run, "FINISHED")
    else:
        end(tracked, run, "KILLED", "the driver was killed")


def tell_stopped(tracked: TrackedRun, run: Path) -> None:
    """By whom or what a trial was ended before its last epoch, and when: as tags, to be filtered by."""
    told = storage.read_json(run / STOPPED)
    with saying(tracked, run / STOPPED):
        tracked.tag("stopped", told["by"])
        tracked.tag("stopped_epoch", str(told["epoch"]))
        tracked.tag(REASON, f"stopped by {told['by']} at epoch {told['epoch']}")


def flat(tree: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """A recipe's leaves by dotted key; lists of plain values stay together."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from flat(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list) and any(isinstance(value, dict) for value in tree):
        for n, value in enumerate(tree):
            yield from flat(value, f"{path}.{n}")
    else:
        yield path, tree if isinstance(tree, str) else json.dumps(tree)


def commit() -> str:
    """The commit of the project, `+` behind it where files differ; a submitted job has no repository, but HARDNEG_COMMIT, or a
    file COMMIT in its tree.
    """
    if "HARDNEG_COMMIT" in os.environ:
        return os.environ["HARDNEG_COMMIT"]
    here = Path(__file__).parent
    with contextlib.suppress(FileNotFoundError):
        return (here.parent / "COMMIT").read_text(encoding="utf-8").strip()
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    with contextlib.suppress(FileNotFoundError):  # git itself, in a slim image
        known = subprocess.run(["git", "ls-files", "--error-unmatch", __file__], cwd=here, capture_output=True, check=False)
        found = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
        if known.returncode == found.returncode == 0:  # and not some other repository around an installed package
            return found.stdout.strip()
    return "unknown"


def _ray_job_id() -> str:
    import ray

    if not ray.is_initialized():
        return "none"
    metadata = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("metadata", {})
    return metadata.get("job_submission_id") or ray.get_runtime_context().get_job_id()
