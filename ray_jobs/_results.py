"""What a program leaves, said to the program that started it: typed at both ends.

A submitted job says it as its last line of output; where HARDNEG_RESULT names a file, as it is for the programs of
pipelines.local, it is written there.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from components.evaluation.protocols import PROTOCOLS, Protocol

MARK = "result: "
FILE = "HARDNEG_RESULT"
MODEL = "model"  # among the scorers of an evaluation


def named(scorer: str, protocol: Protocol) -> str:
    """What an evaluation's files call a scorer's lists: the scorer, and that seen items are not masked where they are not."""
    return scorer if protocol == "masked" else f"{scorer} {PROTOCOLS[protocol]}"


def per_user(scorer: str, protocol: Protocol) -> str:
    """The name of their file."""
    name = named(scorer, protocol)
    return "per_user.parquet" if name == MODEL else f"per_user_{name.replace(' ', '_')}.parquet"


class Result(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Checked(Result):
    """Fingerprints of the recipe and of the dataset that prepare will leave, or has left, in `dataset`: a folder, or s3://."""

    recipe: str
    data: str
    dataset: str


class Prepared(Result):
    dataset: str
    fingerprint: str
    rows: dict[str, int]
    users: int
    items: int


class Tuned(Result):
    """`recipe` is the best trial's as JSON, `file` has the same as YAML, as train takes it; `ended` counts trials by how they
    ended; `best_value` is on validation. The MLflow run is the search's.
    """

    folder: str
    file: str
    recipe: str
    trial: str
    ended: dict[str, int]
    metric: str
    best_value: float
    mlflow_run_id: str
    mlflow_url: str | None


class TrainedRun(Result):
    """`best_epoch` counts from 1; `mlflow_url` is None where MLflow is a file."""

    folder: str
    seed: int
    mlflow_run_id: str
    mlflow_url: str | None
    metric: str
    best_value: float | None
    best_epoch: int


class Trained(Result):
    runs: list[TrainedRun]


class Evaluated(Result):
    """`metrics` by scorer (`named`): {"model": {"recall@20": 0.3}, "most popular": ..., "model not masked": ...}."""

    run: str
    split: str
    metrics: dict[str, dict[str, float]]
    mlflow_url: str | None


class Registered(Result):
    """A version of the registered model `name`, with the aliases that it has now, and why it is the champion or is not."""

    run: str
    name: str
    version: str
    aliases: list[str]
    reason: str
    uri: str
    mlflow_url: str | None


class Recommended(Result):
    folder: str
    users: int
    k: int
    rows: int


def is_submitted() -> bool:
    """Whether Ray's Jobs API started this program."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def tell(result: Result) -> None:
    """Says the result to the program that started this one, if one did; a person at a terminal has been told."""
    if FILE in os.environ:
        Path(os.environ[FILE]).write_text(result.model_dump_json(), encoding="utf-8")
    if is_submitted():
        print(MARK + result.model_dump_json(), flush=True)


def read(line: str) -> dict[str, Any] | None:
    """What `tell` printed, or None where the line is another one."""
    if line.startswith(MARK + "{"):
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(line.removeprefix(MARK))
    return None
