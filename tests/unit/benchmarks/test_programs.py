"""Runs and searches that are there are taken as they are, interrupted searches continued; no other is mistaken for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components import config, storage
from components.config import Recipe
from components.data import manifest
from tests.benchmarks import _programs

RECIPE = _programs.recipe("ml100k_mf_ssm")


class Started:
    """In the place of the programs: notes what is started; runs and searches finish at once."""

    def __init__(self, storage_path: Path) -> None:
        self.searches, self.calls = storage_path / "searches", list[tuple[str, ...]]()
        self.runs, self.dataset = storage_path / "runs", "1b8bdc3cef0e"

    def __call__(self, program: str, path: Path, overrides: list[str], *arguments: str, **environment: str) -> None:
        self.calls.append((program, *arguments))
        if program == "tune":
            folder = Path(arguments[1]) if arguments else self.begin(overrides)
            storage.write_json(folder / storage.MANIFEST, {})
        if program == "train":
            for seed in arguments[1:]:
                storage.write_json(self.begin(overrides, self.runs, f"seed={seed}") / storage.MANIFEST, {})

    def begin(self, overrides: list[str], among: Path | None = None, *seed: str) -> Path:
        """A run's dataset is that of the recipe without its seed, as train has it."""
        recipe, among = config.load(RECIPE, [*overrides, *seed]), among or self.searches
        folder = among / f"{recipe.name}-{len(list(among.glob('*')))}"
        folder.mkdir(parents=True)
        (folder / "recipe.json").write_text(recipe.to_json())
        storage.write_json(
            folder / "links.json", {"dataset": f"elsewhere/{self.dataset_of(config.load(RECIPE, overrides)).name}"}
        )
        return folder

    def dataset_of(self, recipe: Recipe) -> Path:
        """Of a split that draws."""
        return Path("datasets", f"{self.dataset}-{recipe.seed}")


@pytest.fixture
def started(tmp_path: Path, monkeypatch: Any) -> Started:
    monkeypatch.setenv("HARDNEG_DATA", "/somewhere")
    found = Started(tmp_path)
    monkeypatch.setattr(_programs, "start", found)
    monkeypatch.setattr(manifest, "dataset_path", found.dataset_of)
    return found


def overrides(started: Started, low: float) -> list[str]:
    space = f'{{"loss.temperature": {{"uniform": [{low}, 1]}}}}'
    return [f"scale.storage_path={started.searches.parent}", f"search.space={space}"]


def test_a_finished_search_of_this_recipe_is_taken_and_of_no_other(started: Started) -> None:
    one, other = overrides(started, 0.1), overrides(started, 0.2)
    first = _programs.searched(RECIPE, one)
    second = _programs.searched(RECIPE, other)
    assert first != second
    assert started.calls == [("prepare",), ("tune",)] * 2
    assert _programs.searched(RECIPE, [*one, "scale.max_failures=5"]) == first
    assert len(started.calls) == 4


@pytest.mark.parametrize("resume", [True, False])
def test_an_interrupted_search_is_continued_where_that_is_asked(started: Started, resume: bool) -> None:
    given = overrides(started, 0.1)
    interrupted = started.begin(given)
    found = _programs.searched(RECIPE, given, resume)
    assert (found == interrupted) is resume
    assert started.calls[-1] == (("tune", "--resume", str(interrupted)) if resume else ("tune",))


def test_all_seeds_are_trained_on_the_dataset_of_the_recipes_own(started: Started) -> None:
    given = overrides(started, 0.1)
    runs = _programs.trained(RECIPE, given, [1, 2, 3])
    assert len({*runs}) == 3
    assert _programs.trained(RECIPE, given, [3, 1, 4])[:2] == [runs[2], runs[0]]
    assert started.calls == [("train", "--seeds", "1", "2", "3"), ("train", "--seeds", "4")]


def test_what_was_made_of_a_dataset_that_is_another_by_now_is_made_anew(started: Started) -> None:
    given = overrides(started, 0.1)
    first, search = _programs.trained(RECIPE, given, [1]), _programs.searched(RECIPE, given)
    assert (_programs.trained(RECIPE, given, [1]), _programs.searched(RECIPE, given)) == (first, search)
    started.dataset = "93cb9cb654b4"
    assert _programs.trained(RECIPE, given, [1]) != first
    assert _programs.searched(RECIPE, given) != search
