"""Checks the recipe on the cluster; its fingerprints are what the later steps are cached by."""

# kfp takes named outputs as a call:
# pyright: reportInvalidTypeForm=false

from typing import NamedTuple

from components.steps.component import step


@step
def check(recipe: str, target: str) -> NamedTuple("Fingerprints", [("recipe_fingerprint", str), ("data_fingerprint", str)]):
    from components.steps import targets
    from ray_jobs._results import Checked

    checked = targets.run(target, "check", recipe, Checked)
    return (checked.recipe, checked.data)
