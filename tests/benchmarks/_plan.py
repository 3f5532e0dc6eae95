"""The trainings that the project's claims ask for, most wanted first: what is not kept yet, RESULTS.md lists as not run."""

from __future__ import annotations

from typing import NamedTuple

from tests.benchmarks import asha, gpu_train, magnitudes, memory, noise, overhead
from tests.benchmarks._noise import KINDS
from tests.benchmarks.search import SEARCHES
from tests.benchmarks.systems import COMPARISONS


class Planned(NamedTuple):
    """A benchmark's trainings for one seed, as recipe and changes; none where they are another benchmark's."""

    seeds: int
    trainings: tuple[tuple[str, tuple[str, ...]], ...]


class Searched(NamedTuple):
    """A benchmark's searches: trials of all seeds (None: as many as the hours allow), and the core-hours expected of them.

    Expected from `costs`: the epochs that such a training took so far, their seconds, and 15 s to start and end a trial.
    """

    seeds: int
    trials: int | None
    hours: float


def _search(name: str, hours: float) -> dict[str, Searched]:
    asked = SEARCHES[name]
    return {f"search {name}": Searched(len(asked.seeds), len(asked.seeds) * asked.trials, hours)}


def _both_choices(recipe: str, seeds: int) -> dict[str, Planned]:
    return {f"classic_split {recipe}": Planned(seeds, ((recipe, ()), (recipe, ("training.select_on=none",))))}


def _compared(*names: str) -> dict[str, Planned]:
    """Comparisons; those of both protocols have the same trainings."""
    found = {}
    for name in names:
        asked = COMPARISONS[name]
        trainings = tuple((system.recipe, (*asked.changes, *system.changes)) for system in asked.systems)
        found[f"systems {name}"] = Planned(len(asked.seeds), trainings)
        if (other := f"{name}_not_masked") in COMPARISONS:
            found[f"systems {other}"] = Planned(len(asked.seeds), ())
    return found


def _noises(log: str) -> dict[str, Planned]:
    """Models are trained once to read noise in the test, and anew for each noise in train."""
    models = tuple((recipe, ()) for recipe in noise.LOGS[log].models.values())
    suffix = "" if log == noise.FIRST else f" {log}"
    of_train = (1 + len(noise.SHARES) * len(KINDS)) * models
    return {f"noise test{suffix}": Planned(1, models), f"noise train{suffix}": Planned(1, of_train)}


PLANNED = {
    **_both_choices("gowalla_lightgcn_ssm", 3),
    **_both_choices("yelp2018_lightgcn_ssm", 1),
    **_compared("coat_mf", "coat_lightgcn", "coat_passes", "yahoo_mf", "gowalla_margins_10", "gowalla_margins_100"),
    "magnitudes": Planned(3, tuple((magnitudes.RECIPE.stem, magnitudes.changes(model)) for model in magnitudes.MODELS)),
    **_compared("gowalla_lightgcn"),
    **_both_choices("gowalla_mf_bsl", 3),
    **_both_choices("gowalla_lightgcn_bsl", 3),
    **_both_choices("yelp2018_lightgcn_bsl", 1),
    **_both_choices("gowalla_mf_ssm", 3),
    **_both_choices("yelp2018_mf_ssm", 3),
    **_compared("gowalla_pools", "gowalla_pool_terms", "gowalla_lazy", "gowalla_precision"),
    **_compared("beauty_sampled", "beauty", "beauty_published", "beauty_best"),
    **_noises("beauty"),
    **_noises("beauty_sampled"),
    **{f"gpu_train {name}": Planned(1, ()) for name in gpu_train.GOALS},  # elsewhere: not of the hours here
    **_compared("kuairec"),
    **_noises("kuairec"),
    **_compared("tiktok", "beauty_ccl4rec", "beauty_mclrec", "sports_mclrec"),
}
SEARCHED = {
    **_search("coat_temperature", 0.25),
    **_search("coat_adversarial", 0.6),
    **_search("coat_margins", 0.5),
    **_search("yahoo_temperature", 0.7),
    **_search("yahoo_adversarial", 1.3),
    **_search("yahoo_margins", 0.8),
    **_search("gowalla_temperature", 0.4),
    **_search("gowalla_adversarial", 0.7),
    **_search("gowalla_margins", 2.0),
    **_search("gowalla_ccl_10", 0.9),
    **_search("gowalla_mml_10", 0.9),
    **_search("gowalla_ccl_100", 1.8),
    **_search("gowalla_mml_100", 2.1),
    **_search("beauty_masked", 2.9),
    "asha": Searched(asha.SEEDS, None, asha.SEEDS * len(asha.SCHEDULERS) * asha.SLOTS * asha.HOURS),
    "overhead": Searched(1, overhead.TRIALS, 0.8),
    "memory": Searched(1, 1 + memory.TRIALS, 0.2),
}

NO_BENCHMARK_YET = ("the bias of stale vectors on a real log, tiles on a GPU, and several GPUs",)
