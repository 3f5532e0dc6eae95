"""Training until a goal is reached, and no pretending that there is a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from components import config
from tests.benchmarks import _programs, _report_speed, gpu_train
from tests.benchmarks.gpu_train import GOALS, Goal
from tests.worlds import recipe, small_log

CPU = torch.device("cpu")


def trained(goal: Goal, **training: Any) -> dict[str, Any]:
    task = small_log()
    asked = gpu_train.recipe_for(goal, recipe(training={"batch_size": 100, "epochs": 6, "patience": 1, **training}))
    return gpu_train.train(asked, task.seen, task, CPU, goal.value)


def test_it_trains_until_the_goal_is_reached() -> None:
    first = Goal("recall@5", "test", 1e-9, "us")
    told = trained(first, validate_every=2)
    assert (told["reached"], told["epochs"], [*told["curve"]]) == (True, 2, [2])
    assert told["parameters"] == (60 + 40) * 8
    assert told["seconds"] > 0
    never = trained(first._replace(value=1.1))
    assert (never["reached"], never["epochs"]) == (False, 6), "patience ends no search for a goal"
    assert never["best"] == max(never["curve"].values())


def test_without_a_goal_validation_ends_it() -> None:
    told = trained(Goal("mrr@5", "valid", None, "nobody"), epochs=500)
    assert told["reached"] is None
    assert told["epochs"] < 500


@pytest.mark.parametrize("name", GOALS)
def test_goals_are_of_recipes_and_of_what_they_measure(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDNEG_DATA", "/somewhere")
    goal, own = GOALS[name], config.load(_programs.recipe(name))
    asked = gpu_train.recipe_for(goal, own)
    assert config.parse(asked.model_dump()).training == asked.training, "a recipe could say so"
    assert asked.model_dump(exclude={"training"}) == own.model_dump(exclude={"training"})
    assert (asked.training.protocol, asked.training.metric) == (goal.protocol, goal.metric)
    assert int(goal.metric.partition("@")[2]) in own.evaluation.ks


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_cuda_it_ends_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["gpu_train", "beauty_mclrec"])
    with pytest.raises(SystemExit, match=r"^gpu_train: torch .* sees no CUDA device, takes a machine with one$"):
        gpu_train._common.main("gpu_train", "", gpu_train.measure, gpu_train.add_arguments)


def test_a_report_says_whether_the_goal_was_reached() -> None:
    about = {"recipe": "r", "changes": [], "device": "a GPU", "torch": "2", "precision": "float32", "peak_mib": 1234.4}
    for goal, says in (
        (Goal("recall@5", "test", 1.1, "theirs"), "**Not reached**"),
        (Goal("mrr@5", "valid", None, "-"), "none"),
    ):
        told = trained(goal, epochs=2)
        text = "\n".join(_report_speed.gpu_train({"figures": {**about, "goal": goal._asdict(), **told}}))
        assert says in text
        assert "| 1,234 | 800 |" in text
