"""Prepares the recipe's dataset, where it is not yet."""

from kfp.dsl import Dataset, Output

from components.steps.component import step


@step
def prepare(recipe: str, target: str, data_fingerprint: str, dataset: Output[Dataset]):
    from components.steps import pointers, targets
    from ray_jobs._results import Prepared

    prepared = targets.run(target, "prepare", recipe, Prepared)
    rows = {f"rows_{split}": number for split, number in prepared.rows.items()}
    pointers.write(
        dataset, prepared.dataset, fingerprint=prepared.fingerprint, users=prepared.users, items=prepared.items, **rows
    )
