"""Registers the best of the runs, on the split that their epochs were chosen on; MLflow's registry tells the champion."""

from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components.steps.component import step


@step
def register(
    recipe: str,
    target: str,
    recipe_fingerprint: str,
    data_fingerprint: str,
    dataset: Input[Dataset],
    run: Input[list[Model]],
    metrics: Input[list[Metrics]],
    registered: Output[Model],
):
    from components.steps import pointers, targets
    from ray_jobs._results import Registered

    made = targets.run(target, "register", recipe, Registered, ["--run", pointers.folder(pointers.best(run))])
    facts = made.model_dump(exclude={"run", "aliases"}, exclude_none=True)
    registered.metadata.update(facts, aliases=", ".join(made.aliases))
    pointers.save(registered)
