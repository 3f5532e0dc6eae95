"""MLflow's registry: a run's model becomes a version that runs without Ray, and the gate says which version is the champion.

All of it may be done again, as after a pod that was lost: a run has one version of a name.
"""

from __future__ import annotations

import importlib.metadata
import logging
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

import components
from components import serving, storage
from components.config import Recipe
from components.data import interactions
from components.errors import InputError, TrackingError
from components.evaluation import gate, splits
from components.evaluation.gate import Measured, Verdict
from components.reports import tables
from components.training import checkpoint
from components.training.checkpoint import TrainedRun
from ray_jobs import _results, _tracking
from ray_jobs._mlflow import complaint, metric_name, patiently, text
from ray_jobs._tracking import TrackedRun

CHALLENGER, CHAMPION = "challenger", "champion"
LISTS = _results.per_user(_results.MODEL, "masked")
EVALUATED = ("metrics.json", LISTS)  # what a version is judged by
REQUIREMENTS = ("mlflow", "numpy", "pandas", "pyarrow", "pydantic", "pyyaml", "safetensors", "scipy", "torch")  # of _served.py
EXAMPLE_ROWS, EXAMPLE_LENGTH = 2, 3


def register(recipe: Recipe, run: Path, dataset: Path, name: str) -> _results.Registered:
    """Makes a run's model the challenger of that name, and the champion if the gate lets it. `recipe` says which MLflow.

    Raises:
        InputError: run and dataset do not belong together, the run was not evaluated on the test, its evaluation lacks the
            recipe's metric, or MLflow takes no such name, refuses, as it does an expired password, or does not answer.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise InputError(f"--name: got {name!r}, takes letters, digits and . _ - (a letter or digit first)")
    trained, tracked = checkpoint.open_run(run, dataset), _tracking.attach_by(recipe, run)
    where, metric = f"evaluation/{recipe.evaluation.split}", trained.recipe.training.metric
    folder = run / where
    if not all((folder / file).is_file() for file in EVALUATED):
        on = recipe.evaluation.split
        raise InputError(f"--run: {run} was not evaluated on {on}, takes a run that was; run python -m ray_jobs.evaluate")
    degrees_I = interactions.load(dataset, "train").item_degrees()
    own = gate.measured(run.name, folder / "metrics.json", folder / LISTS, metric, degrees_I)
    for file in EVALUATED:  # again, for evaluate may have found MLflow away: by them this version is judged as a champion
        _ask(tracked, lambda mlflow, file=file: mlflow.log_artifact(tracked.run_id, str(folder / file), where))
    version = _version(trained, tracked, name, recipe.evaluation.split)
    _send(tracked, "set_registered_model_alias", name, CHALLENGER, version)
    champion = _champion(tracked, name)
    if champion == version:
        verdict = Verdict(True, "it was already")
        print(f"{name} version {version} is the champion: {verdict.reason}")
    else:
        verdict = _judge(tracked, name, champion, own, where, metric, degrees_I) if champion else gate.judge(own, None)
        if verdict.promoted:
            _send(tracked, "set_registered_model_alias", name, CHAMPION, version)
        _tell(tracked, name, version, champion, verdict, recipe.evaluation.split)
    is_file = tracked.tracking_uri.startswith("sqlite:")
    return _results.Registered(
        run=str(run),
        name=name,
        version=version,
        aliases=[CHALLENGER, *([CHAMPION] if verdict.promoted else [])],
        reason=verdict.reason,
        uri=f"models:/{name}/{version}",
        mlflow_url=None if is_file else f"{tracked.tracking_uri.rstrip('/')}/#/models/{name}/versions/{version}",
    )


# the version --------------------------------------------------------------------------------------------------------


def _version(trained: TrainedRun, tracked: TrackedRun, name: str, split: str) -> str:
    """The run's version of that name: the one there is, its tags as the run is now, else a new one."""
    found, tags = _found(tracked, name), _lineage(trained, split)
    if found is not None:
        has = _send(tracked, "get_model_version", name, found).tags
        for key, value in tags.items():
            if has.get(key) != value:  # it was evaluated again
                _send(tracked, "set_model_version_tag", name, found, key, value)
        return found
    where = f"models/{name}"
    with tempfile.TemporaryDirectory() as scratch:
        _save(trained, Path(scratch, "model"), tracked, where)
        _ask(tracked, lambda mlflow: mlflow.log_artifacts(tracked.run_id, str(Path(scratch, "model")), where))
    source = f"{_send(tracked, 'get_run', tracked.run_id).info.artifact_uri}/{where}"
    _ask(tracked, lambda mlflow: _create_name(mlflow, name))
    _ask(tracked, lambda mlflow: _found(tracked, name) or mlflow.create_model_version(name, source, tracked.run_id, tags))
    found = _found(tracked, name)
    assert found is not None, "it was created"
    return found


def _found(tracked: TrackedRun, name: str) -> str | None:
    """The newest version of that name that is this run's."""
    versions = _send(tracked, "search_model_versions", f"name = '{name}' and run_id = '{tracked.run_id}'")
    return str(max(int(each.version) for each in versions)) if versions else None


def _create_name(mlflow: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        mlflow.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _save(trained: TrainedRun, folder: Path, tracked: TrackedRun, where: str) -> None:
    """A pyfunc by models-from-code: weights, ids and what was seen as artifacts; the components' code; no pickle."""
    import pandas as pd
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import Schema
    from mlflow.types.schema import Array, ColSpec, ParamSchema, ParamSpec

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # MLflow tells each of its steps
    known = splits.known(trained.dataset)
    users, items = (_raw(trained.dataset / file) for file in ("users.parquet", "items.parquet"))
    user, item = ("long" if pa.types.is_integer(raw.type) else "string" for raw in (users, items))
    if trained.encoder.window is None:
        taken, example = ColSpec(user, serving.OfUsers.column), users[:EXAMPLE_ROWS].to_pylist()
    else:
        taken = ColSpec(Array(item), serving.OfHistories.column)
        popular = np.argsort(-known.item_degrees(), kind="stable")  # nobody's own history: who may read models sees it
        lengths = range(EXAMPLE_LENGTH, EXAMPLE_LENGTH - EXAMPLE_ROWS, -1)
        example = [items.take(pa.array(popular[:length])).to_pylist() for length in lengths]
    k = min(trained.recipe.evaluation.recommend_k, len(items))
    given = Schema([ColSpec(Array(item), "items"), ColSpec(Array("float"), "scores")])
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch, "model")
        serving.save(model, trained.recipe, trained.encoder, known, users, items)
        save_model(
            folder,
            python_model=Path(__file__).with_name("_served.py"),
            code_paths=[str(Path(components.__file__).parent)],
            artifacts={"model": str(model)},
            signature=ModelSignature(Schema([taken]), given, ParamSchema([ParamSpec("k", "long", k)])),
            input_example=(pd.DataFrame({taken.name: example}), {"k": k}),
            pip_requirements=_pinned(),
            mlflow_model=Model(artifact_path=where, run_id=tracked.run_id),
        )


def _raw(path: Path) -> pa.Array:
    """The source's ids in the order of the model's."""
    return pq.read_table(path, columns=["id", "raw"]).sort_by("id")["raw"].combine_chunks()


def _pinned() -> list[str]:
    """What the model needs, in the versions that are here: those of constraints.txt, which is not wherever a job is."""
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in REQUIREMENTS]


def _lineage(trained: TrainedRun, split: str) -> dict[str, str]:
    """A version's tags: back to its run, its recipe, its data and its code, and what it was worth on the test."""
    about, said = trained.manifest, storage.read_json(trained.folder / "evaluation" / split / "metrics.json")
    tags = {
        "run": trained.folder.name,
        "recipe": about["name"],
        "recipe_fingerprint": about["recipe"],
        "dataset_fingerprint": about["dataset"],
        "commit": about["commit"],
        "fitted": said["fitted"],
        "protocol": said["protocol"][_results.MODEL],
    }
    worth = {metric_name(f"{split}_{metric}"): f"{value:.6g}" for metric, value in said["metrics"][_results.MODEL].items()}
    return {key: text(value) for key, value in (tags | worth).items()}


# the gate -----------------------------------------------------------------------------------------------------------


def _champion(tracked: TrackedRun, name: str) -> str | None:
    version = _send(tracked, "get_registered_model", name).aliases.get(CHAMPION)
    return None if version is None else str(version)


def _judge(tracked: TrackedRun, name: str, champion: str, own: Measured, where: str, metric: str, degrees_I: Any) -> Verdict:
    """By what the champion's evaluation left in its MLflow run, so that its folder need not be there any more."""
    run_id = _send(tracked, "get_model_version", name, champion).run_id
    called = f"version {champion}"
    kept = {entry.path for entry in _send(tracked, "list_artifacts", run_id, where)} if run_id else set()
    files = [f"{where}/{file}" for file in EVALUATED]
    if missing := sorted(set(files) - kept):
        lacks = f"MLflow's run {run_id or 'none'} has no {missing[0]}: register that run again, which sends it"
        return Verdict(False, f"not comparable: of {called}, the champion, {lacks}")
    with tempfile.TemporaryDirectory() as scratch:
        about, lists = (Path(_send(tracked, "download_artifacts", run_id, file, scratch)) for file in files)
        said = storage.read_json(about)
        if said["dataset"] != own.test["dataset"]:  # item ids are another dataset's: nothing else of it can be read
            data = f"trained on dataset {said['dataset']}, {own.name} on {own.test['dataset']}"
            return Verdict(False, f"not comparable: {called}, the champion, was {data}")
        try:
            return gate.judge(own, gate.measured(called, about, lists, metric, degrees_I))
        except InputError as error:
            return Verdict(False, f"not comparable: {error}")


def _tell(tracked: TrackedRun, name: str, version: str, champion: str | None, verdict: Verdict, split: str) -> None:
    """The decision and its figures: as the version's tags and description, and in the terminal."""
    said = f"{'champion' if verdict.promoted else 'challenger'}: {verdict.reason}"
    tags = {"gate": "promoted" if verdict.promoted else "refused", "gate_reason": verdict.reason}
    if champion is not None:
        tags["gate_champion"] = champion
    for metric, difference in verdict.differences.items():
        low, high = difference.over_users
        tags[f"gate_{metric}_difference"] = f"{difference.value:+.6f}"
        tags[f"gate_{metric}_interval"] = f"{low:+.6f} {high:+.6f}"
    for key, value in tags.items():
        _send(tracked, "set_model_version_tag", name, version, metric_name(key), text(value))
    _send(tracked, "update_model_version", name, version, text(said))
    console = Console()
    if verdict.differences:
        console.print(tables.promotion(verdict.differences, f"version {version} against version {champion}, on {split}"))
    console.print(f"{name} version {version} is {said}", highlight=False, soft_wrap=True, markup=False)


# talking to MLflow --------------------------------------------------------------------------------------------------


def _send(tracked: TrackedRun, call: str, *arguments: Any) -> Any:
    return _ask(tracked, lambda mlflow: getattr(mlflow, call)(*arguments))


def _ask(tracked: TrackedRun, call: Callable[[Any], Any]) -> Any:
    """
    Raises:
        TrackingError: MLflow refuses, or does not answer. What was done before stays, and is found when it is done again.
    """
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import OperationalError

    try:
        return patiently(tracked.tracking_uri, call)
    except (MlflowException, RequestException, OperationalError) as error:
        said = complaint(tracked.tracking_uri, error)
        raise TrackingError(f"tracking.uri: {said}; the same command, once it is mended, goes on from here") from error
