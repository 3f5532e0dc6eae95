"""The recipe: one YAML file, typed. What is computed, and apart from it `scale`: where and how wide.

A part (`encoder`, `loss`, ...) is a mapping with a `name`; its other keys are the keyword arguments of the class in the
file of that name (components.catalog).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from components import catalog, paths, yaml12
from components.data.histories import check_order
from components.errors import InputError, describe
from components.paths import Bucket, LocalPath, Place
from components.search import Search
from components.section import Newer, Positive, Section, matching
from components.split_rules import RatioSplit, Split, TemporalSplit, refuse_without_time, selectable
from components.training_rules import Optimizer, Training

SPLITS, SQLITE = ("train", "valid", "test"), "sqlite:///"
SPLIT_NAME = r"^(train|(valid|test)(_[A-Za-z0-9]+)?)$"


def is_split(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(SPLIT_NAME, name) is not None


def _source(value: Any) -> Any:
    """A path, a list of paths, or a mapping of splits to paths, each made absolute."""
    if isinstance(value, str):
        return paths.place(value)
    if isinstance(value, list) and value and all(isinstance(path, str) for path in value):
        return [paths.place(path) for path in value]
    if isinstance(value, dict) and value and all(isinstance(path, str) and is_split(name) for name, path in value.items()):
        return {split: paths.place(path) for split, path in value.items()}
    raise ValueError("a path, a list of paths, or a mapping of train, valid, test, valid_NAME and test_NAME to paths")


Source = Annotated[str | list[str] | dict[str, str], PlainValidator(_source)]
Part = dict[str, Any]


# data ---------------------------------------------------------------------------------------------------------------


class Columns(Section):
    """The source's names of the columns that are read; `time` may be absent."""

    user: str = "user_id"
    item: str = "item_id"
    time: str | None = None

    @model_validator(mode="after")
    def _two_columns(self) -> Columns:
        if self.item == self.user:
            raise InputError(f"data.columns.item: got {self.item!r}, takes another column than data.columns.user")
        return self


class Rule(Section):
    """A row is positive feedback only if `column` is at least (or above) a number; both may be given."""

    column: str
    at_least: float | None = None
    above: float | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Rule:
        if self.at_least is None and self.above is None:
            raise ValueError("at_least or above (a number)")
        return self


class KCore(Section):
    """Every user and every item left has at least this many rows (1: no such demand)."""

    users: Positive = 1
    items: Positive = 1


class Titles(Section):
    """A file of item titles, for people who read recommendations."""

    source: Place
    item: str = "item_id"
    title: str = "title"


class Data(Section):
    """`source` is a file, a folder, a list of them, or a mapping of train, valid, test, valid_NAME, test_NAME to them.

    Each is local or s3://bucket/prefix. `time_units: seconds` makes seconds of numbers that are milliseconds, microseconds or
    nanoseconds since 1970 by their size; dates stay dates.
    `on_bad_file`: a file that cannot be read ends the preparation, or is put aside and counted.
    """

    source: Source
    format: Literal["auto", "csv", "tsv", "parquet", "inter", "jsonl", "lightgcn"] = "auto"
    time_units: Annotated[Literal["keep", "seconds"], Newer] = "keep"
    on_bad_file: Annotated[Literal["fail", "quarantine"], Newer] = "fail"
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    columns: Columns = Columns()
    keep: list[Rule] = []
    repeats: Literal["first", "last"] = "first"
    k_core: KCore = KCore()
    split: Annotated[Split, Field(discriminator="by")] = RatioSplit(by="ratio")
    titles: Titles | None = None

    @model_validator(mode="after")
    def _time_to_order_by(self) -> Data:
        if self.columns.time is None:
            refuse_without_time(self.split)
        if isinstance(self.split, TemporalSplit) and self.repeats == "last":
            raise InputError("data.repeats: got 'last', takes first under data.split temporal: later rows would empty train")
        return self


# after training ---------------------------------------------------------------------------------------------------


class Evaluation(Section):
    """`split` is what models are tested and registered on, `ks` are cut-offs; `baselines` are ranked beside the model, where
    `ease_l2` regularises EASE.
    """

    split: Annotated[str, matching(r"test(_[A-Za-z0-9]+)?", "test or test_NAME")] = "test"
    ks: Annotated[list[Positive], Field(min_length=1)] = [10, 20]
    baselines: list[Literal["most_popular", "ease"]] = []
    ease_l2: Annotated[float, Field(gt=0)] = 250.0
    recommend_k: Positive = 20


class Tracking(Section):
    """`uri` is MLflow's; by default MLFLOW_TRACKING_URI, else one SQLite under the storage path."""

    uri: str | None = None
    experiment: str = "hardneg"

    @field_validator("uri")
    @classmethod
    def _file_is_absolute(cls, uri: str | None) -> str | None:
        return SQLITE + paths.absolute(uri.removeprefix(SQLITE)) if uri and uri.startswith(SQLITE) else uri


class Scale(Section):
    """Where and how wide: nothing here changes a result beyond rounding.

    `datasets`, as s3://bucket/prefix, is where finished datasets are kept beside the storage path: prepare puts them there, and
    a storage path that lacks one gets it from there.
    `driver_cpus` are what a submitted job's driver holds, on any node; 0 is the head, beside Ray's own processes.
    `memory_per_worker_gib` is what a worker's pod asks for where Kubernetes makes the cluster; a plan must fit it.
    `encode_rows`: an encoder that reads histories takes so many at a time, and each again in the backward pass, so that no
    more of their activations are held; views of histories likewise. `compile`: torch compiles what training does with a tile of
    scores between its products, where scores are too many to be held; each worker needs a compiler (on CPUs g++).
    """

    storage_path: LocalPath = Field(default="runs", validate_default=True)
    datasets: Bucket | None = None
    num_workers: Positive = 1
    use_gpu: bool = False
    cpus_per_worker: Positive = 1
    memory_per_worker_gib: Annotated[float, Field(gt=0)] = 4.0
    driver_cpus: Annotated[float, Field(ge=0)] = 0.0
    encode_rows: Positive | None = None
    compile: bool = False
    max_failures: Annotated[int, Field(ge=0)] = 2


# the recipe ---------------------------------------------------------------------------------------------------------


APART = {"name", "evaluation", "tracking", "search", "scale"}  # of which no training's result depends


class Recipe(Section):
    name: Annotated[str, matching(r"[a-z0-9][a-z0-9_]*", "lower-case letters, digits and _")]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: Data
    encoder: Part
    objective: Annotated[Part, Field(validate_default=True)] = {"name": "supervised"}
    loss: Part
    negatives: Annotated[list[Part], Field(min_length=1)]
    views: list[Part] = []
    optimizer: Optimizer = Optimizer()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    tracking: Tracking = Tracking()
    search: Search = Search()
    scale: Scale = Scale()

    @field_validator("encoder", "objective", "loss", "negatives", "views")
    @classmethod
    def _parts_exist(cls, value: Part | list[Part], info: ValidationInfo) -> Part | list[Part]:
        """With every argument filled in: what is tracked and fingerprinted is all that a part is."""
        kind = str(info.field_name)
        if not isinstance(value, list):
            return {"name": value.get("name"), **catalog.check(kind, value)}
        parts: list[Part] = []
        mistakes: list[str] = []
        for n, part in enumerate(value):
            try:
                parts.append({"name": part.get("name"), **catalog.check(kind, part, f"{kind}.{n}")})
            except InputError as error:
                mistakes.append(str(error))
        if mistakes:
            raise InputError("\n".join(mistakes))
        return parts

    @model_validator(mode="after")
    def _sections_fit(self) -> Recipe:
        encoder, objective = (catalog.find(kind, getattr(self, kind)["name"]) for kind in ("encoder", "objective"))
        check_order(self.encoder["name"], encoder.reads_order(self.encoder), self.objective, self.data)  # pyright: ignore
        if self.views and not objective.takes_views:  # pyright: ignore
            names = ", ".join(view["name"] for view in self.views)
            raise InputError(f"views: got {names}, takes none under objective {self.objective['name']}")
        chosen, takes = self.training.select_on, selectable(self.data.split)
        if takes is not None and chosen not in (*takes, "none"):
            why = f"where data.split.{chosen} is 0" if chosen in SPLITS else f"under data.split {self.data.split.by}"
            raise InputError(f"training.select_on: got {chosen!r}, takes {' or '.join([*takes, 'none'])} {why}")
        if self.optimizer.plateau is not None and chosen == "none":
            raise InputError("optimizer.plateau: got one, takes null where training.select_on is none: nothing is validated")
        return self

    def fingerprint(self) -> str:
        """Twelve hex digits of what a training computes: not the name, nor what comes after it, nor where it runs."""
        what = {key: value for key, value in self.settled().items() if key not in APART}
        for kind in catalog.FOLDERS:
            of = getattr(self, kind)
            what[kind] = [catalog.settled(kind, part) for part in of] if isinstance(of, list) else catalog.settled(kind, of)
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> str:
        """The one string that crosses Ray, Kubeflow and checkpoints."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        return parse(json.loads(text))


def load(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Reads a YAML recipe, or `env:NAME`, that environment variable (JSON is YAML); applies `a.b=value` overrides (YAML).

    Raises:
        InputError: names each wrong key in full, what it got and what it takes.
    """
    try:
        tree = yaml12.load(_text(str(path)))
    except yaml.YAMLError as error:
        raise InputError(f"recipe {path}: not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise InputError(f"recipe {path}: got {type(tree).__name__}, takes a mapping of sections")
    for override in overrides:
        _override(tree, override)
    return parse(tree)


def _text(path: str) -> str:
    if path.startswith("env:"):
        text = os.environ.get(path.removeprefix("env:"))
        if text is None:
            raise InputError(f"recipe {path}: no such environment variable")
        return text
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"recipe {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"recipe {path}: not UTF-8: {error}") from error


def parse(tree: dict[str, Any]) -> Recipe:
    """A mapping becomes a Recipe, or a InputError that lists every wrong key."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise InputError("\n".join(describe(error))) from error


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise InputError(f"--set: got {override!r}, takes KEY=VALUE such as loss.temperature=0.1")
    *parents, leaf = key.split(".")
    node: Any = tree
    for depth, name in enumerate(parents):
        node = node[_index(node, name, key)] if isinstance(node, list) else node.setdefault(name, {})
        if not isinstance(node, dict | list):
            raise InputError(f"--set {key}: {'.'.join(parents[: depth + 1])} is {node!r}, which has no keys")
    try:
        parsed = yaml12.load(value)
    except yaml.YAMLError as error:
        raise InputError(f"--set {key}: got {value!r}, takes a YAML value") from error
    if isinstance(node, list):
        node[_index(node, leaf, key)] = parsed
    else:
        node[leaf] = parsed


def _index(node: list[Any], name: str, key: str) -> int:
    if not name.isdecimal() or int(name) >= len(node):
        raise InputError(f"--set {key}: got {name!r}, takes a position from 0 to {len(node) - 1}")
    return int(name)
