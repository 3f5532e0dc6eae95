"""Files stay small, parts are found by their file's name, and every recipe is a valid one."""

from __future__ import annotations

from pathlib import Path

import pytest

from components import catalog, config
from pipelines.stages import STAGES

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "pipelines" / "recipes").glob("*.yaml"))
LONGEST_FILE, LONGEST_ENTRY = 400, 80


def lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def test_files_and_entry_points_stay_small() -> None:
    files = [file for top in ("components", "infra", "pipelines", "ray_jobs", "tests") for file in (ROOT / top).rglob("*.py")]
    assert len(files) > 60
    assert {file.name: lines(file) for file in files if lines(file) > LONGEST_FILE} == {}
    entries = sorted((ROOT / "ray_jobs").glob("[a-z]*.py"))
    assert len(entries) >= 5
    assert {file.name: lines(file) for file in entries if lines(file) > LONGEST_ENTRY} == {}


def test_every_part_has_one_class_with_a_schema_and_a_source() -> None:
    found = [(kind, name) for kind in catalog.FOLDERS for name in catalog.names(kind)]
    assert len(found) >= 5
    for kind, name in found:
        assert "Source:" in (catalog.find(kind, name).__doc__ or ""), f"{kind} {name} does not say where it is from"
        assert isinstance(catalog.check(kind, {"name": name}), dict)


def test_every_stage_is_a_program() -> None:
    assert [stage.name for stage in STAGES] == ["check", "prepare", "tune", "train", "evaluate", "register", "recommend"]
    for stage in STAGES:
        assert (ROOT / Path(*stage.program.split("."))).with_suffix(".py").is_file()
    made = {"recipe", "source"}
    for stage in STAGES:
        assert set(stage.inputs) <= made, f"{stage.name} needs what no stage before it makes"
        made |= set(stage.outputs)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_named_as_its_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDNEG_DATA", "/somewhere")
    assert config.load(path).name == path.stem


def test_there_are_recipes() -> None:
    assert {"ml100k_mf_ssm", "gowalla_mf_ssm", "yelp2018_mf_ssm"} <= {path.stem for path in RECIPES}
