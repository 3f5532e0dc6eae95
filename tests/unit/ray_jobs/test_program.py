"""What a program says of the cluster that it is to attach to."""

from __future__ import annotations

import os
from typing import Any

import pytest
import ray

from components.errors import InputError
from ray_jobs import _program


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a program sets for Ray stays with it."""
    monkeypatch.setattr(os, "environ", {**os.environ, "RAY_ADDRESS": "head:6379"})
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # whatever other tests have started here


def test_another_ray_is_said_in_a_line_with_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import utils

    theirs = {"ray_version": "2.9.0", "python_version": "3.11.1"}

    def init(**_: Any) -> None:
        utils.check_version_info(theirs, "this process", python_version_match_level="minor")

    monkeypatch.setattr(ray, "init", init)
    with (
        pytest.raises(InputError, match=r"^RAY_ADDRESS: got head:6379, takes a cluster of this Ray") as caught,
        _program.cluster(),
    ):
        pass
    said = str(caught.value)
    assert "2.9.0" in said and ray.__version__ in said and "\n" not in said


def test_what_else_ray_says_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(RuntimeError, match="^something else$"), _program.cluster():
        pass


@pytest.mark.parametrize(
    ("address", "trains", "wanted"),
    [("local", False, False), ("local", True, None), ("head:6379", False, None), ("head:6379", True, None)],
)
def test_a_cluster_started_here_has_a_dashboard_only_to_train(
    address: str, trains: bool, wanted: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool | None]] = []
    monkeypatch.setitem(os.environ, "RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "init", lambda **given: asked.append((given["address"], given["include_dashboard"])))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with _program.cluster(trains=trains):
        pass
    assert asked == [(address, wanted)]
