"""The step of a search: a recipe with a space becomes the best one found; one without goes on, and no job is submitted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from kfp.dsl import Artifact

from components.config import Recipe
from components.errors import InputError
from components.steps import component, is_asked, targets
from ray_jobs._results import Tuned
from tests.integration import training

SPACE = {"loss.temperature": {"uniform": [0.1, 0.9]}}
TUNED = Tuned(
    folder="/store/searches/a",
    file="/store/searches/a/best.yaml",
    recipe=training.recipe(Path("/log.csv"), Path("/store"), seed=7).to_json(),
    trial="a1_00003",
    ended={"finished": 8, "failed": 2},
    metric="ndcg@20",
    best_value=0.25,
    mlflow_run_id="0",
    mlflow_url=None,
)


def recipe(**search: Any) -> str:
    return training.recipe(Path("/log.csv"), Path("/store"), search=search).to_json()


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """(target, program, recipe) of those that were submitted; each ends as TUNED."""
    submitted: list[tuple[str, str, str]] = []

    def run(target: str, program: str, recipe: str, result: type[Tuned], arguments: Sequence[str] = ()) -> Tuned:
        assert (result, list(arguments)) == (Tuned, [])
        submitted.append((target, program, recipe))
        return TUNED

    monkeypatch.setattr(targets, "run", run)
    return submitted


def step(folder: Path, given: str) -> tuple[tuple[str, str], Artifact]:
    search = Artifact(name="search", uri=str(folder / "search"))
    made = component.find("tune").python_func(given, "rayjob:here", "search.space", "a", "b", None, search)
    return made, search


def test_a_search_leaves_its_best_recipe_and_where_it_lies(tmp_path: Path, jobs: list[tuple[str, str, str]]) -> None:
    given = recipe(space=SPACE)
    (best, tuned), search = step(tmp_path, given)
    assert jobs == [("rayjob:here", "tune", given)]
    assert Recipe.from_json(best).seed == 7
    assert Tuned.model_validate_json(tuned) == TUNED
    assert search.metadata["uri"] == "file:///store/searches/a"
    assert (search.metadata["best_value"], search.metadata["trials_failed"]) == (0.25, 2)
    assert all(isinstance(value, str | int | float) for value in search.metadata.values()), "what KFP takes"


def test_without_a_space_the_recipe_goes_on_and_no_job_starts(
    tmp_path: Path, jobs: list[tuple[str, str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    given = recipe(trials=3)
    made, search = step(tmp_path, given)
    assert made == (given, "null")
    assert jobs == []
    assert "the recipe has no search.space" in capsys.readouterr().out
    assert Path(search.path).read_text() == "{}", "without its file nothing is found in the cache"


@pytest.mark.parametrize(("search", "asked"), [({}, False), ({"trials": 3}, False), ({"space": SPACE}, True)])
def test_a_stage_runs_where_the_recipe_asks_for_it(search: dict[str, Any], asked: bool) -> None:
    assert is_asked(recipe(**search), "search.space") == asked
    assert is_asked(recipe(**search), ""), "of no key, always"


def test_what_is_no_recipe_is_refused() -> None:
    with pytest.raises(InputError, match="recipe: got 'recipe.yaml', takes JSON"):
        is_asked("recipe.yaml", "search.space")
