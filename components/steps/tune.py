"""Searches the recipe's space, where it has one: the stages after it take the best recipe that was found."""

# kfp takes named outputs as a call:
# pyright: reportInvalidTypeForm=false

from typing import NamedTuple

from kfp.dsl import Artifact, Dataset, Input, Output

from components.steps.component import step


@step
def tune(
    recipe: str,
    target: str,
    asked_by: str,
    recipe_fingerprint: str,
    data_fingerprint: str,
    dataset: Input[Dataset],
    search: Output[Artifact],
) -> NamedTuple("Best", [("recipe", str), ("tuned", str)]):
    from components.steps import is_asked, pointers, targets
    from ray_jobs._results import Tuned

    if not is_asked(recipe, asked_by):
        print(f"nothing to do: the recipe has no {asked_by}")
        pointers.save(search)
        return (recipe, "null")
    tuned = targets.run(target, "tune", recipe, Tuned)
    trials = {f"trials_{how}": number for how, number in tuned.ended.items()}
    pointers.write(search, tuned.folder, **tuned.model_dump(exclude={"folder", "recipe", "ended"}), **trials)
    return (tuned.recipe, tuned.model_dump_json())
