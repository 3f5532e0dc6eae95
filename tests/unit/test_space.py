"""Search spaces: every point lies in its space, the same answers give the same point, and mistakes are named by their key."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
import scipy.stats

from components import space
from components.errors import InputError
from components.space import Question
from tests.worlds import recipe

SPACE: dict[str, Any] = {
    "optimizer.learning_rate": {"loguniform": [1e-4, 1e-2]},
    "training.batch_size": {"choice": [512, 1024]},
    "encoder.dim": {"int": [2, 4]},
    "loss": {
        "choice": [
            {"name": "ccl", "margin": {"uniform": [0.5, 0.9]}, "negative_weight": {"choice": [100.0, 300.0]}},
            {"name": "multi_margin", "margins": {"ordered": [0.5, 0.95], "count": 3}, "weights": {"simplex": 3}},
            {"name": "bpr"},
        ]
    },
}


def at_random(seed: int, asked: dict[str, float] | None = None) -> space.Ask:
    numbers = random.Random(seed)

    def ask(question: Question) -> float:
        answer = (
            numbers.randint(int(question.low), int(question.high))
            if question.is_whole
            else numbers.uniform(question.low, question.high)
        )
        if asked is not None:
            asked[question.name] = answer
        return answer

    return ask


def test_points_lie_in_their_space_and_make_recipes() -> None:
    tree, chosen = recipe().model_dump(), set()
    for seed in range(60):
        point = space.draw(SPACE, at_random(seed))
        assert 1e-4 <= point["optimizer.learning_rate"] <= 1e-2
        assert point["training.batch_size"] in (512, 1024)
        assert point["encoder.dim"] in (2, 3, 4)
        chosen.add(point["loss"]["name"])
        if point["loss"]["name"] == "multi_margin":
            margins, weights = point["loss"]["margins"], point["loss"]["weights"]
            assert margins == sorted({*margins})
            assert 0.5 < margins[0] < margins[2] < 0.95
            assert min(weights) > 0
            assert sum(weights) == pytest.approx(1)
        made = recipe(
            **{key: value for key, value in space.apply(tree, point).items() if key in ("loss", "encoder", "optimizer")}
        )
        assert made.loss["name"] == point["loss"]["name"]
        assert made.encoder["dim"] == point["encoder.dim"]
    assert chosen == {"ccl", "multi_margin", "bpr"}


def test_the_same_answers_give_the_same_point() -> None:
    for seed in range(20):
        answers: dict[str, float] = {}
        point = space.draw(SPACE, at_random(seed, answers))
        assert space.again(SPACE, answers) == point
        inner = [name for name in answers if name.startswith("loss[")]
        assert all(name.startswith(f"loss[{point['loss']['name']}]") for name in inner), (
            "only the chosen option was asked about"
        )


def test_a_grid_is_every_point_once() -> None:
    finite = {
        "encoder.dim": {"int": [2, 4]},
        "loss": {"choice": [{"name": "bpr"}, {"name": "ccl", "margin": {"choice": [0.5, 0.7, 0.9]}}]},
    }
    points = [space.again(finite, answers) for answers in space.grid(finite)]
    losses = [{"name": "bpr"}, *({"name": "ccl", "margin": margin} for margin in (0.5, 0.7, 0.9))]
    assert points == [{"encoder.dim": dim, "loss": loss} for dim, loss in itertools.product((2, 3, 4), losses)]
    with pytest.raises(InputError, match=r"temperature: got a range of numbers, takes choice or int in a grid$"):
        list(space.grid({"loss.temperature": {"uniform": [0.1, 0.2]}}))


def test_an_option_may_be_a_list_of_parts_each_with_a_space() -> None:
    drawn, shared = {"name": "uniform", "count": {"int": [2, 4]}}, {"name": "in_batch"}
    mixtures = {"negatives": {"choice": [[drawn, shared], [shared], [drawn | {"scale": {"loguniform": [1, 2]}}]]}}
    space.check(mixtures)
    assert space.logarithmic(mixtures) == {"negatives.0.scale"}
    corners = [point["negatives"] for point in space.corners(mixtures)]
    assert [part["count"] for part, *rest in corners if rest] == [2, 3, 4]
    assert [shared] in corners
    for seed in range(20):
        answers: dict[str, float] = {}
        point = space.draw(mixtures, at_random(seed, answers))
        assert space.again(mixtures, answers) == point
        assert all(part == shared or part["count"] in (2, 3, 4) for part in point["negatives"])
    with pytest.raises(InputError, match=r"\]\.0\.count\.int: got \[4, 2\], takes a low below its high"):
        space.check({"negatives": {"choice": [[drawn | {"count": {"int": [4, 2]}}], [shared]]}})


@pytest.mark.parametrize("count", [1, 2, 4])
def test_uniform_shares_give_sorted_uniform_numbers(count: int) -> None:
    """Each place has the distribution of an order statistic: a beta, held by Kolmogorov and Smirnov."""
    numbers = np.random.default_rng(1)
    found = np.array([space.ascending(2.0, 4.0, numbers.random(count).tolist()) for _ in range(4000)])
    assert (np.diff(found, axis=1) >= 0).all()
    assert found.min() >= 2
    assert found.max() <= 4
    for place in range(count):
        law = scipy.stats.beta(place + 1, count - place, loc=2, scale=2)
        assert scipy.stats.kstest(found[:, place], law.cdf).pvalue > 1e-3


def test_uniform_shares_give_a_uniform_point_of_the_simplex() -> None:
    numbers = np.random.default_rng(2)
    found = np.array([space.simplex(numbers.random(2).tolist()) for _ in range(4000)])
    assert np.allclose(found.sum(axis=1), 1)
    assert (found >= 0).all()
    for place in range(3):  # each is a beta(1, 2): no place is another's rest
        assert scipy.stats.kstest(found[:, place], scipy.stats.beta(1, 2).cdf).pvalue > 1e-3
    assert space.simplex([0.0, 1.0]) == pytest.approx([0, 1, 0])
    assert space.ascending(0.0, 1.0, [1.0, 0.5]) == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("key", "distribution", "message"),
    [
        ("a", 3, "search.space.a: got 3, takes one of uniform"),
        ("a", {"normal": [0, 1]}, "search.space.a: got {'normal': [0, 1]}, takes one of uniform"),
        ("a", {"uniform": [0, 1], "choice": [1, 2]}, "search.space.a: got {'uniform'"),
        ("a", {"uniform": [0, 1], "count": 2}, "search.space.a: got {'uniform'"),
        ("a", {"ordered": [0, 1]}, "search.space.a: got {'ordered'"),
        ("a", {"uniform": [0.5, 0.1]}, "search.space.a.uniform: got [0.5, 0.1], takes a low below its high"),
        ("a", {"uniform": [0.5]}, "search.space.a.uniform: got [0.5], takes [low, high], two numbers"),
        ("a", {"uniform": [0, float("nan")]}, "search.space.a.uniform: got [0, nan], takes [low, high], two numbers"),
        ("a", {"int": [1, 2.5]}, "search.space.a.int: got [1, 2.5], takes [low, high], two whole numbers"),
        ("a", {"loguniform": [0, 1]}, "search.space.a.loguniform: got [0, 1], takes a low > 0"),
        ("a", {"choice": [1]}, "search.space.a.choice: got [1], takes a list of two options or more"),
        ("a", {"choice": [1, 1]}, "search.space.a.choice: got 1, 1, takes options each of its own name"),
        ("a", {"ordered": [0, 1], "count": 0}, "search.space.a.count: got 0, takes a whole number >= 1"),
        ("a", {"simplex": 1}, "search.space.a.simplex: got 1, takes a whole number >= 2"),
        (
            "a",
            {"choice": [{"name": "ccl", "margin": {"uniform": [1, 0]}}, 2]},
            "search.space.a[ccl].margin.uniform: got [1, 0]",
        ),
    ],
)
def test_what_a_space_does_not_take(key: str, distribution: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        space.check({key: distribution})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "loss.temprature",
            "search.space.loss.temprature: 'temprature' is not in the recipe there, which has name, temperature",
        ),
        ("negatives.3.count", "search.space.negatives.3.count: '3' is not in the recipe there, which has positions 0 to 0"),
        ("seed.x", "search.space.seed.x: 'x' is not in the recipe there, which has no keys"),
    ],
)
def test_a_key_that_the_recipe_does_not_have(key: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        space.apply(recipe().model_dump(), {key: 1})
    assert str(caught.value).startswith(message)


def test_corners_have_every_option_and_both_ends() -> None:
    points = space.corners(SPACE)
    losses = [point["loss"] for point in points]
    assert {loss["name"] for loss in losses} == {"ccl", "multi_margin", "bpr"}
    assert {point["encoder.dim"] for point in points} == {2, 3, 4}
    assert {point["optimizer.learning_rate"] for point in points} == {1e-4, 1e-2}
    assert {loss["margin"] for loss in losses if "margin" in loss} == {0.5, 0.9}
    assert {loss["negative_weight"] for loss in losses if "negative_weight" in loss} == {100.0, 300.0}
    for loss in losses:
        assert recipe(loss=loss).loss["name"] == loss["name"], "the part takes it"


def test_corners_have_every_whole_number_where_they_are_few() -> None:
    points = space.corners({"encoder.heads": {"int": [1, 4]}, "encoder.dim": {"int": [8, 4096]}})
    assert [point["encoder.heads"] for point in points] == [1, 2, 3, 4]
    assert {point["encoder.dim"] for point in points} == {8, 4096}


def test_the_single_values_of_a_point() -> None:
    point = {"encoder.dim": 3, "loss": {"name": "multi_margin", "margins": [0.5, 0.7], "weights": [0.4, 0.6]}}
    assert space.leaves(point) == {
        "encoder.dim": 3,
        "loss": "multi_margin",
        "loss.margins.0": 0.5,
        "loss.margins.1": 0.7,
        "loss.weights.0": 0.4,
        "loss.weights.1": 0.6,
    }
    nested = {
        "loss": {"choice": [{"name": "ccl", "margin": {"uniform": [0, 1]}, "negative_weight": {"loguniform": [1, 9]}}, 2]}
    }
    assert space.logarithmic({**SPACE, **nested}) == {"optimizer.learning_rate", "loss.negative_weight"}
