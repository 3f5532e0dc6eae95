"""The trainings that the project's claims ask for, most wanted first: what is not kept yet, RESULTS.md lists as not run."""

from __future__ import annotations

from typing import NamedTuple

from tests.benchmarks import magnitudes
from tests.benchmarks.systems import COMPARISONS


class Planned(NamedTuple):
    """A benchmark's trainings for one seed, as recipe and changes."""

    seeds: int
    trainings: tuple[tuple[str, tuple[str, ...]], ...]


def _both_protocols(recipe: str, seeds: int) -> dict[str, Planned]:
    return {f"classic_split {recipe}": Planned(seeds, ((recipe, ()), (recipe, ("training.select_on=none",))))}


def _compared(*names: str) -> dict[str, Planned]:
    found = {}
    for name in names:
        asked = COMPARISONS[name]
        trainings = tuple((system.recipe, (*asked.changes, *system.changes)) for system in asked.systems)
        found[f"systems {name}"] = Planned(len(asked.seeds), trainings)
    return found


PLANNED = {
    **_both_protocols("gowalla_lightgcn_ssm", 3),
    **_both_protocols("yelp2018_lightgcn_ssm", 1),
    **_compared("coat_mf", "coat_lightgcn", "coat_passes", "yahoo_mf", "gowalla_margins_10", "gowalla_margins_100"),
    "magnitudes": Planned(3, tuple((magnitudes.RECIPE.stem, magnitudes.changes(model)) for model in magnitudes.MODELS)),
    **_compared("gowalla_lightgcn"),
    **_both_protocols("gowalla_mf_bsl", 3),
    **_both_protocols("gowalla_lightgcn_bsl", 3),
    **_both_protocols("yelp2018_lightgcn_bsl", 1),
    **_both_protocols("gowalla_mf_ssm", 3),
    **_both_protocols("yelp2018_mf_ssm", 3),
}
NO_BENCHMARK_YET = (
    "Multi-Margin's controls C3 and M1 (both losses tuned at each number of negatives): they need a search, so whether a gain "
    "is left where the baseline is tuned is not settled here",
    "the magnitude study's trainings on inner products, and of two and three layers",
)
