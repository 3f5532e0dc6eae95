"""Search spaces: what `search.space` means, and how a point of it becomes a recipe.

A space maps dotted keys of the recipe to distributions:

    loss.temperature: {loguniform: [0.05, 0.5]}           uniform: [low, high] likewise
    encoder.layers: {int: [1, 3]}                         both ends included
    training.batch_size: {choice: [512, 1024, 2048]}
    loss.margins: {ordered: [0.5, 0.95], count: 3}        numbers that ascend
    loss.weights: {simplex: 3}                            numbers >= 0 whose sum is 1
    loss: {choice: [{name: ccl, margin: {uniform: [0.5, 0.95]}}, {name: bpr}]}

An option of a choice may be a whole part, or a list of parts, with distributions inside: drawn only where it is chosen. A point
is drawn by asking for one number after another (`draw`), so grid, random and Optuna's searchers all walk the same tree, and a
point is drawn again from the answers alone.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from components.errors import InputError

KINDS = ("uniform", "loguniform", "int", "choice", "ordered", "simplex")
TAKES = "takes one of uniform, loguniform, int: [low, high], choice: [...], ordered: [low, high] with count, simplex: n"
NEARLY = 1e-3  # of a share: at 0 and 1 ascending numbers would meet
FEW = 16  # whole numbers that are all tried
Answers = dict[str, float | int]


@dataclass(frozen=True)
class Question:
    """One number that a searcher chooses: in [low, high], whole where `is_whole`, on a logarithmic scale where `is_log`.

    Where it is not `is_ordered` it is the place of an option, whose neighbours are not more like it than others.
    """

    name: str
    low: float
    high: float
    is_whole: bool = False
    is_log: bool = False
    is_ordered: bool = True


Ask = Callable[[Question], float | int]


def draw(space: Mapping[str, Any], ask: Ask) -> dict[str, Any]:
    """A point: a value for each key of the space. `ask` is called for each number that it needs, in the order of the space."""
    return {key: _value(f"{key}", distribution, ask) for key, distribution in space.items()}


def again(space: Mapping[str, Any], answers: Mapping[str, float | int]) -> dict[str, Any]:
    """The point that these answers gave."""
    return draw(space, lambda question: answers[question.name])


def grid(space: Mapping[str, Any]) -> Iterator[Answers]:
    """Every point of a space whose numbers are whole, in order; an option's own numbers only where it is chosen.

    Raises:
        InputError: a number is not whole.
    """
    answers: list[int] = []
    while True:
        asked = _walk(space, answers)
        yield {question.name: answer for question, answer in asked}
        while asked and asked[-1][1] == asked[-1][0].high:
            asked.pop()
        if not asked:
            return
        answers = [answer for _, answer in asked]
        answers[-1] += 1


def _walk(space: Mapping[str, Any], answers: list[int]) -> list[tuple[Question, int]]:
    """What is asked where the first answers are these and every later one is the lowest."""
    asked: list[tuple[Question, int]] = []

    def ask(question: Question) -> int:
        if not question.is_whole:
            raise InputError(f"search.space.{question.name}: got a range of numbers, takes choice or int in a grid")
        place = len(asked)
        asked.append((question, answers[place] if place < len(answers) else int(question.low)))
        return asked[-1][1]

    draw(space, ask)
    return asked


def corners(space: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Points that between them have every option of every choice, both ends of every range, and of whole numbers all where
    they are few: what a recipe must take.
    """
    values = {key: _corners(distribution) for key, distribution in space.items()}
    return [
        {key: each[n % len(each)] for key, each in values.items()} for n in range(max(map(len, values.values()), default=0))
    ]


def apply(tree: dict[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's tree with a point's values in their places.

    Raises:
        InputError: a key names nothing that the recipe has.
    """
    changed = copy.deepcopy(tree)
    for key, value in point.items():
        *parents, leaf = key.split(".")
        node: Any = changed
        for name in parents:
            node = _below(node, name, key)
        _below(node, leaf, key)
        node[int(leaf) if isinstance(node, list) else leaf] = value
    return changed


def ascending(low: float, high: float, shares: list[float]) -> list[float]:
    """Numbers that ascend in [low, high], one for each share in [0, 1]: uniform shares give sorted uniform numbers.

    The k-th of n that remain is the least of n - k uniform ones above the one before: its distribution function is
    1 - (1 - t)^(n - k), which is inverted at the share.
    """
    found, left = [], len(shares)
    for share in shares:
        low = low + (high - low) * -math.expm1(math.log1p(-min(share, 1 - 1e-12)) / left)
        found.append(low)
        left -= 1
    return found


def simplex(shares: list[float]) -> list[float]:
    """Numbers >= 0 whose sum is 1, one more than shares: gaps between ascending ones; uniform shares give a uniform point."""
    edges = [0.0, *ascending(0.0, 1.0, shares), 1.0]
    return [right - left for left, right in itertools.pairwise(edges)]


def leaves(point: Mapping[str, Any]) -> dict[str, Any]:
    """A point's single values by dotted key, a part's name under the key of the part: what people compare."""
    found: dict[str, Any] = {}
    for key, value in point.items():
        if isinstance(value, dict):
            found |= leaves({key if name == "name" else f"{key}.{name}": inner for name, inner in value.items()})
        elif isinstance(value, list):
            found |= leaves({f"{key}.{n}": inner for n, inner in enumerate(value)})
        else:
            found[key] = value
    return found


def logarithmic(space: Mapping[str, Any], prefix: str = "") -> set[str]:
    """The dotted keys (as of `leaves`) that are drawn on a logarithmic scale."""
    found: set[str] = set()
    for key, value in space.items():
        name = f"{prefix}{key}"
        if is_distribution(value):
            found |= {name} if "loguniform" in value else set()
            for option in value.get("choice", ()):
                found |= logarithmic({name: option})
        elif inside := _inside(value):
            found |= logarithmic(inside, f"{name}.")
    return found


def check(space: Mapping[str, Any]) -> None:
    """Raises InputError for the first thing that is no distribution, with its key."""
    for key, distribution in space.items():
        _check(f"search.space.{key}", distribution)


def label(option: Any) -> str:
    """How an option of a choice is called: a part by its name."""
    return str(option["name"]) if isinstance(option, dict) and "name" in option else json.dumps(option)


def is_distribution(value: Any) -> bool:
    return isinstance(value, dict) and any(kind in value for kind in KINDS) and "name" not in value


def _inside(option: Any) -> dict[str, Any]:
    """What an option has inside it, by key or position."""
    if isinstance(option, list):
        return {str(n): value for n, value in enumerate(option)}
    return option if isinstance(option, dict) else {}


def _value(name: str, distribution: Mapping[str, Any], ask: Ask) -> Any:
    (kind,) = (kind for kind in KINDS if kind in distribution)
    given = distribution[kind]
    if kind == "choice":
        is_ordered = all(isinstance(option, int | float) and not isinstance(option, bool) for option in given)
        option = given[int(ask(Question(name, 0, len(given) - 1, is_whole=True, is_ordered=is_ordered)))]
        return _filled(f"{name}[{label(option)}]", option, ask)
    if kind == "ordered":
        shares = [float(ask(Question(f"{name}.{n}", 0.0, 1.0))) for n in range(distribution["count"])]
        low, high = given
        return ascending(low, high, shares)
    if kind == "simplex":
        return simplex([float(ask(Question(f"{name}.{n}", 0.0, 1.0))) for n in range(given - 1)])
    answer = ask(Question(name, *given, is_whole=kind == "int", is_log=kind == "loguniform"))
    return int(answer) if kind == "int" else float(answer)


def _corners(distribution: Mapping[str, Any]) -> list[Any]:
    (kind,) = (kind for kind in KINDS if kind in distribution)
    given = distribution[kind]
    if kind == "choice":
        return [value for option in given for value in _corners_inside(option)]
    if kind == "ordered":
        low, high = given
        return [ascending(low, high, [share] * distribution["count"]) for share in (NEARLY, 1 - NEARLY)]
    if kind == "simplex":
        return [simplex([share] * (given - 1)) for share in (0.0, 1.0)]
    low, high = given
    if kind == "int":
        return [*range(low, high + 1)] if high - low < FEW else [low, high]
    return [float(low), float(high)]


def _corners_inside(option: Any) -> list[Any]:
    if is_distribution(option):
        return _corners(option)
    if not (inside := {name: _corners_inside(value) for name, value in _inside(option).items()}):
        return [option]
    points = [{name: each[n % len(each)] for name, each in inside.items()} for n in range(max(map(len, inside.values())))]
    return [[*point.values()] for point in points] if isinstance(option, list) else points


def _filled(name: str, option: Any, ask: Ask) -> Any:
    """An option with every distribution in it drawn."""
    if is_distribution(option):
        return _value(name, option, ask)
    filled = {key: _filled(f"{name}.{key}", value, ask) for key, value in _inside(option).items()}
    return ([*filled.values()] if isinstance(option, list) else filled) if filled else option


def _check(key: str, distribution: Any) -> None:
    found = [kind for kind in KINDS if kind in distribution] if isinstance(distribution, dict) else []
    extra = set(distribution) - {"count", *found} if found else set()
    if len(found) != 1 or extra or ("count" in distribution) != (found == ["ordered"]):
        raise InputError(f"{key}: got {distribution!r}, {TAKES}")
    (kind,) = found
    given = distribution[kind]
    if kind == "choice":
        if not isinstance(given, list) or len(given) < 2:
            raise InputError(f"{key}.choice: got {given!r}, takes a list of two options or more")
        labels = [label(option) for option in given]
        if len({*labels}) < len(labels):
            raise InputError(f"{key}.choice: got {', '.join(labels)}, takes options each of its own name")
        for option in given:
            _check_inside(f"{key}[{label(option)}]", option)
    elif kind == "simplex":
        if not _is_whole(given) or given < 2:
            raise InputError(f"{key}.simplex: got {given!r}, takes a whole number >= 2")
    else:
        _check_bounds(f"{key}.{kind}", kind, given)
    if kind == "ordered" and (not _is_whole(distribution["count"]) or distribution["count"] < 1):
        raise InputError(f"{key}.count: got {distribution['count']!r}, takes a whole number >= 1")


def _check_inside(key: str, option: Any) -> None:
    if is_distribution(option):
        _check(key, option)
    else:
        for name, value in _inside(option).items():
            _check_inside(f"{key}.{name}", value)


def _check_bounds(key: str, kind: str, given: Any) -> None:
    is_number = (
        _is_whole if kind == "int" else lambda x: isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)
    )
    what = "whole numbers" if kind == "int" else "numbers"
    if not isinstance(given, list) or len(given) != 2 or not all(map(is_number, given)):
        raise InputError(f"{key}: got {given!r}, takes [low, high], two {what}")
    low, high = given
    if low >= high:
        raise InputError(f"{key}: got {given!r}, takes a low below its high")
    if kind == "loguniform" and low <= 0:
        raise InputError(f"{key}: got {given!r}, takes a low > 0")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _below(node: Any, name: str, key: str) -> Any:
    if isinstance(node, list) and name.isdecimal() and int(name) < len(node):
        return node[int(name)]
    if isinstance(node, dict) and name in node:
        return node[name]
    has = (
        ", ".join(node)
        if isinstance(node, dict)
        else f"positions 0 to {len(node) - 1}"
        if isinstance(node, list)
        else "no keys"
    )
    raise InputError(f"search.space.{key}: {name!r} is not in the recipe there, which has {has}")
