"""Stages run one after the other, as programs, until one fails."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from pipelines import local
from pipelines.stages import STAGES


@pytest.mark.parametrize(("failing", "code"), [(None, 0), ("train", 3)])
def test_a_failing_stage_ends_the_run_with_its_code(monkeypatch: pytest.MonkeyPatch, failing: str | None, code: int) -> None:
    run: list[str] = []

    def program(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        name = command[2].removeprefix("ray_jobs.")
        assert command[3:] == ["recipe.yaml", "--set", "seed=2"]
        run.append(name)
        return subprocess.CompletedProcess(command, code if name == failing else 0)

    monkeypatch.setattr(subprocess, "run", program)
    assert local.main(["recipe.yaml", "--set", "seed=2"]) == code
    names = [stage.name for stage in STAGES]
    assert run == (names if failing is None else names[: names.index(failing) + 1])
