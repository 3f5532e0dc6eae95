"""The named searches: each is one that tune takes and that is planned; points are told over seeds."""

from __future__ import annotations

from typing import Any

import pytest

from components import config
from ray_jobs import _search
from tests.benchmarks import _plan, _programs, search


@pytest.mark.parametrize("name", search.SEARCHES)
@pytest.mark.parametrize("further", [(), search.QUICK])
def test_tune_takes_it_and_looks_at_validation_alone(name: str, further: tuple[str, ...], monkeypatch: Any) -> None:
    monkeypatch.setenv("HARDNEG_DATA", "/somewhere")
    asked = search.SEARCHES[name]
    recipe = config.load(_programs.recipe(asked.recipe), [*search.overrides(asked), *further])
    _search.check(recipe)
    assert (recipe.training.select_on, recipe.training.fit_on) == ("valid", "train")
    assert recipe.training.metric == search.METRIC
    assert {*asked.logarithmic} <= {*asked.space}


def test_every_search_is_planned_with_its_trials() -> None:
    planned = {name.removeprefix("search "): each for name, each in _plan.SEARCHED.items() if name.startswith("search ")}
    assert planned.keys() == search.SEARCHES.keys()
    assert planned["coat_adversarial"].trials == 3 * 5 * 6
    assert planned["coat_margins"].trials == 60
    assert all(each.hours > 0 for each in _plan.SEARCHED.values())


def told(temperature: float, score: float | None, seed: int = 1) -> dict[str, Any]:
    ended = "failed" if score is None else "finished"
    against = None if score is None else score / 2
    return {
        "seed": seed,
        "name": f"{temperature}_{seed}",
        "ended": ended,
        "hours": 0.1,
        "values": {"loss.temperature": temperature},
        "score": score,
        "against": against,
        "epochs": 10 * seed,
        "reason": "diverged" * (score is None),
        "seconds": 1.0,
    }


def test_points_are_told_over_seeds_best_mean_first_and_failed_ones_last() -> None:
    trials = [told(0.1, 0.5), told(0.2, None), told(0.3, 0.4), told(0.1, 0.1, seed=2), told(0.3, 0.4, seed=2)]
    points = search.by_point(trials)
    assert [point["values"]["loss.temperature"] for point in points] == [0.3, 0.1, 0.2]
    assert points[1]["score"] == [0.5, 0.1]
    assert points[1]["against"] == [0.25, 0.05]
    assert points[1]["epochs"] == [10, 20]
    assert (points[2]["score"], points[2]["ended"]) == ([], ["failed"])


@pytest.mark.parametrize(("scores", "ends"), [((0.1, 0.3, 0.2), []), ((0.3, 0.2, 0.1), ["loss.temperature"])])
def test_a_best_value_at_an_end_of_what_was_tried_is_named(scores: tuple[float, ...], ends: list[str]) -> None:
    points = search.by_point([told(n / 10, score) for n, score in enumerate(scores, 1)])
    assert search.at_an_end(points) == ends


def test_a_value_that_was_the_only_one_is_at_no_end() -> None:
    assert search.at_an_end(search.by_point([told(0.1, 0.5)])) == []
