"""Stages run one after the other, as programs, until one fails; those after a search with the recipe that it found."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipelines import local
from pipelines.stages import STAGES
from tests.integration import training

NAMES = [stage.name for stage in STAGES]
SPACE = {"loss.temperature": {"uniform": [0.1, 0.9]}}


class Programs:
    """In the place of programs: what was run, with what; tune finds a temperature of .5."""

    def __init__(self, folder: Path, failing: str | None = None, code: int = 0) -> None:
        self.ran: dict[str, list[str]] = {}
        self.best = folder / "search" / "best.yaml"
        self._found = training.recipe(folder / "log.csv", folder, loss={"name": "sampled_softmax", "temperature": 0.5})
        self._failing, self._code = failing, code

    def __call__(self, command: list[str], env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        name = command[2].removeprefix("ray_jobs.")
        self.ran[name] = command[3:]
        if name == self._failing:
            return subprocess.CompletedProcess(command, self._code)
        left = {"recipe": self._found.to_json(), "file": str(self.best)} if name == "tune" else {}
        Path(env["HARDNEG_RESULT"]).write_text(json.dumps(left))
        return subprocess.CompletedProcess(command, 0)


def recipe(folder: Path, **sections: Any) -> str:
    given = training.recipe(folder / "log.csv", folder, **sections)
    return str(training.recipe_file(folder / "recipe.yaml", given))


@pytest.mark.parametrize(("failing", "code"), [(None, 0), ("train", 3), ("tune", 1)])
def test_a_failing_stage_ends_the_run_with_its_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failing: str | None, code: int
) -> None:
    programs = Programs(tmp_path, failing, code)
    monkeypatch.setattr(subprocess, "run", programs)
    assert local.main([recipe(tmp_path, search={"space": SPACE}), "--set", "seed=2"]) == code
    assert list(programs.ran) == (NAMES if failing is None else NAMES[: NAMES.index(failing) + 1])


def test_the_stages_after_a_search_take_the_recipe_that_it_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    programs = Programs(tmp_path)
    monkeypatch.setattr(subprocess, "run", programs)
    given = [recipe(tmp_path, search={"space": SPACE}), "--set", "loss.temperature=0.3"]
    assert local.main(given) == 0
    place = NAMES.index("tune") + 1
    assert [programs.ran[name] for name in NAMES[:place]] == [given] * place
    after = [programs.ran[name] for name in NAMES[place:]]
    assert after == [[str(programs.best)]] * len(after), "what --set says would undo what was found"


@pytest.mark.parametrize("changes", [[], ["--set", "search.trials=3"]])
def test_without_a_space_the_search_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: list[str]
) -> None:
    programs = Programs(tmp_path)
    monkeypatch.setattr(subprocess, "run", programs)
    given = [recipe(tmp_path), *changes]
    assert local.main(given) == 0
    assert programs.ran == {name: given for name in NAMES if name != "tune"}
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "tune" in line)
    assert "nothing to do: the recipe has no search.space" in line


def test_a_space_may_come_from_a_change(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    programs = Programs(tmp_path)
    monkeypatch.setattr(subprocess, "run", programs)
    assert local.main([recipe(tmp_path), "--set", f"search.space={json.dumps(SPACE)}"]) == 0
    assert list(programs.ran) == NAMES


def test_a_wrong_recipe_is_said_before_a_stage_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    programs = Programs(tmp_path)
    monkeypatch.setattr(subprocess, "run", programs)
    assert local.main([recipe(tmp_path), "--set", "loss.temperature=-1"]) == 2
    assert capsys.readouterr().err == "error: loss.temperature: got -1, takes a number > 0\n"
    assert programs.ran == {}
