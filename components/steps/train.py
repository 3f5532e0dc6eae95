"""Trains one run, of one seed."""

from kfp.dsl import Dataset, Input, Model, Output

from components.steps.component import step


@step
def train(
    recipe: str,
    target: str,
    seed: int,
    recipe_fingerprint: str,
    data_fingerprint: str,
    dataset: Input[Dataset],
    run: Output[Model],
):
    from components.steps import pointers, targets
    from ray_jobs._results import Trained

    (trained,) = targets.run(target, "train", recipe, Trained, ["--seeds", str(seed)], part=str(seed)).runs
    pointers.write(run, trained.folder, **trained.model_dump(exclude={"folder"}))
