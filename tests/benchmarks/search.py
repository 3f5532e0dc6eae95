"""What a loss is sensitive to: searches by the project's own program, on validation alone. No test is looked at.

python -m tests.benchmarks.search NAME [--seeds 1 2 3] [--quick] [--keep] [--storage DIR]

Grids are repeated with every seed; a random search draws other points with another seed. Epoch and trial are chosen by ndcg@20
on validation; beside it stands recall_snips@20 (what recall would be if held-out rows were as many for every item), at the
same epoch. Finished searches of the same recipe and seed on the storage path are taken as they are, interrupted ones are
continued. Needs HARDNEG_DATA.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from components import config, space, storage
from components.search import Trial
from ray_jobs import _search_report, _trials
from tests.benchmarks import _common, _programs, _spans

METRIC, AGAINST = "ndcg@20", "recall_snips@20"
BY_METRIC = (f"training.metric={METRIC}", f"search.against={AGAINST}")
QUICK = ("training.epochs=2", "training.validate_every=1", "training.min_epochs=0", "search.trials=3")
MARGINS = {"ordered": [0.3, 0.98], "count": 3}
MULTI_MARGIN = {"name": "multi_margin", "margins": [0.2, 0.4, 0.6], "weights": [0.2, 0.3, 0.5], "negative_weight": 1.0}


TRIALS_TUNED = 10  # for each of two losses that are then compared: as many, whatever the space


class Search(NamedTuple):
    """`space` is tried whole where it is a grid, else by `random` points; `logarithmic` are a grid's keys with such an axis."""

    title: str
    recipe: str
    space: dict[str, Any]
    seeds: tuple[int, ...] = (1,)
    changes: tuple[str, ...] = ()
    random: int | None = None
    logarithmic: tuple[str, ...] = ()

    @property
    def trials(self) -> int:
        """With one seed."""
        return self.random or sum(1 for _ in space.grid(self.space))


def _choices(**values: Sequence[float]) -> dict[str, Any]:
    return {key.replace("__", "."): {"choice": [*given]} for key, given in values.items()}


def _tuned(what: str, recipe: str, negatives: int, **space: dict[str, Any]) -> Search:
    """A loss tuned at a number of negatives, for a comparison of the same name's end (systems.py)."""
    return Search(
        f"Gowalla, MF: {what} at {negatives} negatives for each row, after 6 epochs at most",
        recipe,
        {f"loss.{key}": distribution for key, distribution in space.items()},
        changes=(f"negatives.0.count={negatives}", "training.epochs=6", "training.validate_every=2"),
        random=TRIALS_TUNED,
    )


def _margins(log: str, recipe: str, trials: int, *changes: str) -> Search:
    """Of a small log, whose recipe of CCL weighs negatives lightly."""
    return Search(
        f"{log}, MF: margins and weights of the Multi-Margin Loss",
        recipe,
        {
            "loss.margins": {"ordered": [0.0, 0.95], "count": 3},
            "loss.weights": {"simplex": 3},
            "loss.negative_weight": {"loguniform": [0.2, 20.0]},
        },
        changes=(f"loss={json.dumps(MULTI_MARGIN)}", *changes),
        random=trials,
    )


WEIGHT = {"loguniform": [50.0, 1000.0]}
TEMPERATURE, STEP_SIZE = "loss.temperature", "objective.adv_learning_rate"
ADVERSARIAL = {"name": "adv_infonce", "adv_interval": 2, "positives": "rows"}
OFTEN = "objective.adv_interval=5"  # a pass every five epochs, so that all are made before patience ends
SEARCHES = {
    "coat_temperature": Search(
        "Coat, MF: the temperature of InfoNCE",
        "coat_mf_infonce",
        _choices(loss__temperature=[0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.55, 0.75, 1.0, 1.4, 2.0]),
        (1, 2, 3),
        logarithmic=(TEMPERATURE,),
    ),
    "coat_adversarial": Search(
        "Coat, MF: step size and passes of AdvInfoNCE's adversary",
        "coat_mf_adv_infonce",
        _choices(objective__adv_learning_rate=[1e-3, 3e-3, 1e-2, 3e-2, 1e-1], objective__total_passes=[6, 12, 18, 24, 30, 40]),
        (1, 2, 3),
        (OFTEN, "training.min_epochs=200"),
        logarithmic=(STEP_SIZE,),
    ),
    "coat_margins": _margins("Coat", "coat_mf_ccl", 60),
    "yahoo_temperature": Search(
        "Yahoo! R3, MF: the temperature of InfoNCE",
        "yahoo_mf_infonce",
        _choices(loss__temperature=[0.05, 0.08, 0.12, 0.18, 0.28, 0.4, 0.6, 0.9]),
        changes=("training.epochs=300",),
        logarithmic=(TEMPERATURE,),
    ),
    "yahoo_adversarial": Search(
        "Yahoo! R3, MF: step size and passes of AdvInfoNCE's adversary",
        "yahoo_mf_adv_infonce",
        _choices(objective__adv_learning_rate=[1e-5, 1e-4, 1e-3, 1e-2], objective__total_passes=[6, 12, 24]),
        changes=(OFTEN, "training.epochs=300"),
        logarithmic=(STEP_SIZE,),
    ),
    "yahoo_margins": _margins("Yahoo! R3", "yahoo_mf_ccl", 12, "training.epochs=300"),
    "gowalla_temperature": Search(
        "Gowalla, MF: the temperature of the softmax loss (no positive in its denominator), after 12 epochs at most",
        "gowalla_mf_ssm",
        _choices(loss__temperature=[0.04, 0.06, 0.08, 0.1, 0.14, 0.2, 0.3]),
        changes=("training.epochs=12", "training.validate_every=4"),
        logarithmic=(TEMPERATURE,),
    ),
    "gowalla_adversarial": Search(
        "Gowalla, MF: step size and passes of AdvInfoNCE's adversary, after 12 epochs at most",
        "gowalla_mf_ssm",
        _choices(objective__adv_learning_rate=[1e-4, 1e-3, 1e-2], objective__total_passes=[1, 3, 5]),
        changes=(f"objective={json.dumps(ADVERSARIAL)}", "training.epochs=12", "training.validate_every=4"),
        logarithmic=(STEP_SIZE,),
    ),
    "gowalla_margins": Search(
        "Gowalla, MF: margins and weights of the Multi-Margin Loss at 10 negatives for each row, after 10 epochs at most",
        "gowalla_mf_mml",
        {"loss.margins": MARGINS, "loss.weights": {"simplex": 3}},
        changes=("negatives.0.count=10", "training.epochs=10", "training.validate_every=2"),
        random=20,
    ),
    "beauty_masked": Search(
        "Beauty: SASRec with sampled candidates",
        "beauty_sasrec_sampled",
        {
            "encoder.dropout": {"uniform": [0.2, 0.7]},
            "encoder.heads": {"choice": [1, 2]},
            "encoder.layers": {"choice": [1, 2, 3]},
            "loss.temperature": {"loguniform": [0.4, 2.5]},
            "optimizer.learning_rate": {"loguniform": [3e-4, 3e-3]},
        },
        random=12,
    ),
    **{
        f"gowalla_ccl_{n}": _tuned(
            "margin and weight of CCL", "gowalla_mf_ccl", n, margin={"uniform": [0.2, 0.95]}, negative_weight=WEIGHT
        )
        for n in (10, 100)
    },
    **{
        f"gowalla_mml_{n}": _tuned(
            "weight of the Multi-Margin Loss, its margins as published,", "gowalla_mf_mml", n, negative_weight=WEIGHT
        )
        for n in (10, 100)
    },
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("search", choices=sorted(SEARCHES))
    parser.add_argument("--seeds", type=int, nargs="+", help="by default those of the search")
    parser.add_argument("--storage", default="runs", help="storage path, where searches are looked for")


def overrides(asked: Search) -> list[str]:
    """Of the recipe: what makes it this search."""
    how = ("searcher=random", f"trials={asked.random}") if asked.random else ("searcher=grid",)
    return [
        *BY_METRIC,
        *asked.changes,
        f"search.space={json.dumps(asked.space)}",
        *(f"search.{each}" for each in how),
    ]


def searched(name: str, storage_path: Path, seed: int, *, quick: bool) -> Path:
    """The folder of the finished search; where there is none, it is made now."""
    asked = SEARCHES[name]
    changes = [f"scale.storage_path={storage_path}", *overrides(asked), *(QUICK * quick), f"seed={seed}"]
    return _programs.searched(_programs.recipe(asked.recipe), changes)


def best(name: str, storage_path: Path, *, quick: bool) -> tuple[str, ...]:
    """What was searched for as the best recipe that was found has it: changes of a recipe."""
    asked = SEARCHES[name]
    found = config.load(searched(name, storage_path, asked.seeds[0], quick=quick) / _search_report.BEST)
    return tuple(f"{key}={json.dumps(_at(found.model_dump(mode='json'), key))}" for key in asked.space)


def _at(tree: Any, key: str) -> Any:
    for word in key.split("."):
        tree = tree[int(word) if isinstance(tree, list) else word]
    return tree


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    asked = SEARCHES[arguments.search]
    seeds = arguments.seeds or list(asked.seeds[:1] if arguments.quick else asked.seeds)
    storage_path = Path(arguments.storage).absolute()
    folders = {seed: searched(arguments.search, storage_path, seed, quick=arguments.quick) for seed in seeds}
    found = [trial for seed, folder in folders.items() for trial in _told(folder, seed)]
    points = by_point(found)
    is_log = dict.fromkeys((*asked.logarithmic, *space.logarithmic(asked.space)), True)
    base = config.load(_programs.recipe(asked.recipe), [*overrides(asked), *(QUICK * arguments.quick)])
    return {
        "variant": arguments.search,
        "seeds": seeds,
        "figures": {
            "search": arguments.search,
            "title": asked.title,
            "recipe": asked.recipe,
            "changes": [*asked.changes],
            "space": asked.space,
            "searcher": base.search.searcher,
            "chosen_on": base.training.chosen_on,
            "epochs": base.training.epochs,
            "metric": METRIC,
            "against": AGAINST,
            "logarithmic": sorted(is_log),
            "importance": _search_report.importance([as_trial(trial) for trial in found], is_log),
            "hours": {seed: _hours(folder) for seed, folder in folders.items()},
            "best": {**points[0], "at_an_end_of": at_an_end(points)},
            "trials": found,
        },
    }


def by_point(trials: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Trials of the same values together, best mean score first, those without a score last."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for trial in trials:
        found.setdefault(json.dumps(trial["values"], sort_keys=True), []).append(trial)
    points = [
        {
            "values": own[0]["values"],
            **{name: [trial[name] for trial in own if trial[name] is not None] for name in ("score", "against")},
            "epochs": [trial["epochs"] for trial in own],
            "ended": [trial["ended"] for trial in own],
        }
        for own in found.values()
    ]
    return sorted(points, key=lambda point: -statistics.fmean(point["score"]) if point["score"] else float("inf"))


def at_an_end(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """The numbers whose best value is the least or the largest that was tried: more may be better still."""
    best: Mapping[str, Any] = points[0]["values"]
    found = []
    for name, value in best.items():
        tried = {point["values"][name] for point in points if name in point["values"]}
        if isinstance(value, int | float) and len(tried) > 1 and value in (min(tried), max(tried)):
            found.append(name)
    return found


def as_trial(kept: Mapping[str, Any]) -> Trial:
    """What the pictures of searches are drawn from."""
    return Trial(**{field.name: kept[field.name] for field in dataclasses.fields(Trial)})


def _told(folder: Path, seed: int) -> list[dict[str, Any]]:
    """Every trial of a search, with the seconds that it trained."""
    trials = storage.read_json(folder / _search_report.TRIALS)
    seconds = {trial["name"]: _spans.training_seconds(folder / _trials.TRIALS / trial["name"]) for trial in trials}
    return [{"seed": seed, **trial, "seconds": seconds[trial["name"]]} for trial in trials]


def _hours(folder: Path) -> float:
    """Of the whole search, an interruption included."""
    return (storage.read_json(folder / storage.MANIFEST)["finished"] - (folder / "recipe.json").stat().st_mtime) / 3600


if __name__ == "__main__":
    sys.exit(_common.main("search", __doc__ or "", measure, add_arguments))
