"""What a step says, and how it ends: no traceback, and only what a person needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.steps import targets
from components.steps.job import Job
from ray_jobs._results import Checked
from ray_jobs._submission import Ended
from tests.integration import training

RUN = "01234567-89ab-4def-8123-456789abcdef"
RESULT = {"recipe": "a", "data": "b", "dataset": "/c"}


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("KFP_RUN_ID", RUN)
    return training.recipe(Path("/log.csv"), Path("/store")).to_json()


def run(monkeypatch: pytest.MonkeyPatch, recipe: str, ended: Ended) -> Any:
    class Cluster:
        def run(self, job: Job) -> Ended:
            assert job.name == "hardneg-0123456789ab-check"
            return ended

    monkeypatch.setattr(targets, "choose", lambda target: Cluster())
    return targets.run("http://head:8265", "check", recipe, Checked)


def test_a_result_is_typed(monkeypatch: pytest.MonkeyPatch, recipe: str) -> None:
    ended = Ended("SUCCEEDED", 0, ["a line"], RESULT, "")
    assert run(monkeypatch, recipe, ended) == Checked(recipe="a", data="b", dataset="/c")


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        (Ended("FAILED", 3, ["one", "two"], None, "failed"), ["ended as FAILED with exit code 3 (failed)", "  one", "  two"]),
        (Ended("STOPPED", 143, [], None, ""), ["ended as STOPPED with exit code 143"]),
        (Ended("SUCCEEDED", 0, ["one"], None, ""), ["ended as SUCCEEDED without a result", "  one"]),
    ],
)
def test_a_job_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, recipe: str, ended: Ended, said: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        run(monkeypatch, recipe, ended)
    first, *lines = str(error.value).splitlines()
    assert first == f"error: hardneg-0123456789ab-check: the job {said[0]}"
    assert lines[1:] == said[1:]


@pytest.mark.parametrize("target", ["head:8265", "rayjob:", "rayjob", ""])
def test_a_target_is_one_of_two(recipe: str, target: str) -> None:
    with pytest.raises(SystemExit, match=f"target: got {target!r}, takes http://HEAD:8265 .* or rayjob:NAMESPACE"):
        targets.run(target, "check", recipe, Checked)


def test_a_head_that_does_not_answer_is_the_targets_fault(recipe: str) -> None:
    with pytest.raises(SystemExit, match=r"error: target: tried http://127\.0\.0\.1:9, which does not answer"):
        targets.run("http://127.0.0.1:9", "check", recipe, Checked)


def test_the_pipelines_run_must_be_known(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "{{workflow.uid}}")
    with pytest.raises(SystemExit, match=r"KFP_RUN_ID: got '\{\{workflow.uid\}\}', takes .* a UUID"):
        targets.stop_all("http://head:8265")


def test_a_wrong_recipe_is_said_by_key(recipe: str) -> None:
    tree = json.loads(recipe)
    tree["loss"]["temperature"] = -1
    with pytest.raises(SystemExit, match="error: loss.temperature: got -1"):
        targets.run("http://head:8265", "check", json.dumps(tree), Checked)


def test_a_recipe_that_is_a_file_is_not_json(recipe: str) -> None:
    with pytest.raises(
        SystemExit, match=r"error: recipe: got 'recipe.yaml', takes JSON, as python -m pipelines.compile --recipe"
    ):
        targets.run("http://head:8265", "check", "recipe.yaml", Checked)
