"""The trainings that the project's claims ask for, most wanted first: what is not kept yet, RESULTS.md lists as not run."""

from __future__ import annotations

from tests.benchmarks.systems import COMPARISONS

PLANNED = {  # benchmark and its variant: seeds that its claims ask for
    "classic_split gowalla_lightgcn_ssm": 3,
    "classic_split yelp2018_lightgcn_ssm": 1,
    "systems coat_mf": 5,
    "systems coat_lightgcn": 5,
    "systems coat_passes": 5,
    "systems yahoo_mf": 3,
    "systems gowalla_margins_10": 3,
    "systems gowalla_margins_100": 3,
    "magnitudes": 3,
    "systems gowalla_lightgcn": 3,
    "classic_split gowalla_lightgcn_bsl": 3,
    "classic_split yelp2018_lightgcn_bsl": 1,
    "classic_split gowalla_mf_ssm": 3,
    "classic_split yelp2018_mf_ssm": 3,
}
NO_BENCHMARK_YET = ("Multi-Margin's controls C3 and M1 (both losses tuned at each number of negatives): they need a search",)


def trainings(recipe: str) -> int:
    """How many of a recipe are planned: two for each seed under both protocols, one for each seed of a compared system."""
    total = 0
    for planned, seeds in PLANNED.items():
        benchmark, _, of = planned.partition(" ")
        if benchmark == "classic_split" and of == recipe:
            total += 2 * seeds
        elif benchmark == "systems":
            total += seeds * sum(system.recipe == recipe for system in COMPARISONS[of].systems)
    return total
