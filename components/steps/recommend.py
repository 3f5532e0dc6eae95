"""Writes recommendations with the best of the runs, on the split that their epochs were chosen on."""

from kfp.dsl import Dataset, Input, Model, Output

from components.steps.component import step


@step
def recommend(
    recipe: str,
    target: str,
    recipe_fingerprint: str,
    data_fingerprint: str,
    dataset: Input[Dataset],
    run: Input[list[Model]],
    recommendations: Output[Dataset],
):
    from components.steps import pointers, targets
    from ray_jobs._results import Recommended

    recommended = targets.run(target, "recommend", recipe, Recommended, ["--run", pointers.folder(pointers.best(run))])
    pointers.write(recommendations, recommended.folder, **recommended.model_dump(exclude={"folder"}))
