"""A node that was given an image without what the recipe needs is named before any work."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from components.config import Recipe
from components.errors import InputError
from ray_jobs import _nodes
from tests.inline import Ref, Task
from tests.integration import training

HELD = {"a": {"CPU": 2.0}, "b": {"CPU": 8.0, "GPU": 2.0}, "c": {"CPU": 8.0, "GPU": 1.0}}


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of them, each of which is this process."""
    alive = [
        {"NodeID": node, "NodeManagerAddress": f"10.0.0.{node}", "Alive": True, "Resources": held}
        for node, held in HELD.items()
    ]

    def wait(tasks: list[Ref], **_: Any) -> tuple[list[Ref], list[Ref]]:
        return tasks, []

    fake = SimpleNamespace(nodes=lambda: alive, remote=lambda **_: Task, wait=wait, get=lambda task: task.value)
    monkeypatch.setattr(_nodes, "ray", fake)
    monkeypatch.setattr(_nodes, "NodeAffinitySchedulingStrategy", lambda node, soft: (node, soft))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def recipe(folder: Path, use_gpu: bool) -> Recipe:
    (folder / "log.csv").write_text("user,item\n1,2\n")
    return training.recipe(folder / "log.csv", folder, scale={"storage_path": str(folder), "use_gpu": use_gpu})


def test_nodes_whose_gpus_are_of_no_use_to_their_torch(nodes: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The image for CPUs on a machine with GPUs; a head that has none may have it."""
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch, "__version__", "2.13.0+cpu")
    with pytest.raises(InputError) as caught:
        _nodes.check(recipe(tmp_path, use_gpu=True))
    assert str(caught.value) == (
        "scale.use_gpu: got true, takes nodes whose torch knows CUDA: torch 2.13.0+cpu is there (on 10.0.0.b, 10.0.0.c)"
    )
    assert _nodes.check(recipe(tmp_path, use_gpu=False)) == 3
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert _nodes.check(recipe(tmp_path, use_gpu=True)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"], "nothing is left behind"
