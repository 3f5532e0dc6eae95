"""What every node of a cluster must be able to do, tried before any work: see the source, share storage, reach MLflow, use its
GPUs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from components.config import Recipe
from components.data import locations
from components.errors import InputError
from ray_jobs import _credentials, _mlflow, _tracking

ANSWER_SECONDS = 120.0  # of a node: its worker's start, and a try of MLflow
VISIBLE_SECONDS = 5.0  # until a network file system shows what another node wrote
MLFLOW_SECONDS = 10
LISTED = 5


def check(recipe: Recipe) -> int:
    """Tries every node at once, with a task each, and returns how many there are. Leaves nothing behind.

    Raises:
        InputError: a line for each thing that some nodes cannot do, with their addresses.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in alive}
    on_gpu = {node["NodeID"] for node in alive if recipe.scale.use_gpu and node["Resources"].get("GPU")}
    paths, server = _paths(recipe), "" if _tracking.is_local(recipe) else _tracking.uri(recipe)
    troubles: dict[str, set[str]] = defaultdict(set)
    views: dict[str, dict[str, str]] = {}
    with _probe(Path(recipe.scale.storage_path)) as probe:
        look = ray.remote(num_cpus=0, max_retries=0)(_look)
        tasks = {}
        for node in nodes:
            there = look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
            tasks[there.remote(list(paths), str(probe / node), server, _credentials.here(), node in on_gpu)] = node
        ready, late = ray.wait(list(tasks), num_returns=len(tasks), timeout=ANSWER_SECONDS)
        for task in late:
            troubles[f"the cluster: no answer within {ANSWER_SECONDS:.0f} s"].add(nodes[tasks[task]])
        for task in ready:
            node = tasks[task]
            try:
                views[node], mlflow, torch = ray.get(task)
            except RayError as error:
                troubles[f"the cluster: {type(error).__name__}"].add(nodes[node])
                continue
            if mlflow:
                what = f"tracking.uri: got {server}, takes a server that every node reaches: {mlflow}"
                troubles[what].add(nodes[node])
            if torch:
                troubles[f"scale.use_gpu: got true, takes nodes whose torch knows CUDA: {torch}"].add(nodes[node])
            if not _appears(probe / node):
                what = f"scale.storage_path: got {recipe.scale.storage_path}, takes one folder that every node shares"
                troubles[f"{what} and writes to: it is not the driver's"].add(nodes[node])
    for path, key in paths.items():
        for what, found in _disagreements(path, views, nodes).items():
            troubles[f"{key}: got {path}, takes a path that every node sees alike: {what}"] |= found
    if troubles:
        raise InputError("\n".join(f"{what} (on {_named(found)})" for what, found in troubles.items()))
    return len(nodes)


def _paths(recipe: Recipe) -> dict[str, str]:
    """What is read -> the recipe's key that names it."""
    source = recipe.data.source
    found = [source] if isinstance(source, str) else list(source.values() if isinstance(source, dict) else source)
    titles = {recipe.data.titles.source: "data.titles.source"} if recipe.data.titles else {}
    return dict.fromkeys(found, "data.source") | titles


@contextlib.contextmanager
def _probe(storage_path: Path) -> Iterator[Path]:
    """A folder on the storage path, where each node writes a file of its own; removed, with the parents that it needed."""
    probe = storage_path / f".check-{uuid.uuid4().hex}"
    made = [folder for folder in probe.parents if not folder.exists()]
    try:
        probe.mkdir(parents=True)
    except OSError as error:
        what = f"scale.storage_path: got {storage_path}, takes a folder to write to: {error.strerror}"
        raise InputError(f"{what} (on {ray.util.get_node_ip_address()})") from error
    try:
        yield probe
    finally:
        shutil.rmtree(probe, ignore_errors=True)
        with contextlib.suppress(OSError):  # somebody uses it by now
            for folder in made:
                folder.rmdir()


def _look(
    paths: list[str], probe: str, server: str, credentials: dict[str, str], on_gpu: bool
) -> tuple[dict[str, str], str, str]:
    """On a node: (what it sees at each path, what is wrong with MLflow, and with torch); and writes the probe, where its folder
    is.
    """
    until = time.monotonic() + VISIBLE_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            Path(probe).touch()
            break
        time.sleep(0.2)
    os.environ |= {**credentials, "MLFLOW_HTTP_REQUEST_TIMEOUT": str(MLFLOW_SECONDS)}
    return {path: _view(path) for path in paths}, _mlflow.trouble(server) if server else "", _no_cuda() if on_gpu else ""


def _no_cuda() -> str:
    """Why this node's torch could use no GPU: an image for CPUs has been given one. A task without a GPU sees none itself."""
    import torch  # slow to import

    return "" if torch.version.cuda else f"torch {torch.__version__} is there"


def _view(path: str) -> str:
    """How many files and bytes are there, or why they cannot be read."""
    try:
        files = locations.files(path)
        for file in files[:1]:
            with locations.open_file(file.path) as stream:
                stream.read(1)
        return f"{len(files)} files of {sum(file.bytes for file in files):,} bytes"
    except OSError as error:
        return f"{error.strerror}"
    except InputError as error:
        return str(error)


def _disagreements(path: str, views: dict[str, dict[str, str]], nodes: dict[str, str]) -> dict[str, set[str]]:
    """Nodes by what they see at a path, without those who see what most do."""
    seen: dict[str, set[str]] = defaultdict(set)
    for node, view in views.items():
        seen[view[path]].add(nodes[node])
    good = {what: found for what, found in seen.items() if what.endswith(" bytes")}
    usual = max(good, key=lambda what: len(good[what]), default=None)
    return {what if what not in good else f"{what} (elsewhere {usual})": seen[what] for what in seen if what != usual}


def _appears(path: Path) -> bool:
    until = time.monotonic() + VISIBLE_SECONDS
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.2)
    return path.exists()


def _named(nodes: set[str]) -> str:
    ordered: list[Any] = sorted(nodes)
    return ", ".join(ordered[:LISTED]) + (f" and {len(ordered) - LISTED} more" if len(ordered) > LISTED else "")
