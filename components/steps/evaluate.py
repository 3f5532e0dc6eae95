"""Ranks the test split with a run's model; its metrics show on KFP's page."""

# kfp takes named outputs as a call:
# pyright: reportInvalidTypeForm=false

from typing import NamedTuple

from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components.steps.component import step


@step
def evaluate(
    recipe: str,
    target: str,
    seed: int,
    recipe_fingerprint: str,
    data_fingerprint: str,
    dataset: Input[Dataset],
    run: Input[Model],
    metrics: Output[Metrics],
) -> NamedTuple("Outputs", [("evaluated", str)]):
    from components.steps import pointers, targets
    from ray_jobs._results import Evaluated

    evaluated = targets.run(target, "evaluate", recipe, Evaluated, ["--run", pointers.folder(run)], part=str(seed))
    for name, value in evaluated.metrics["model"].items():
        metrics.log_metric(name.replace("@", "_at_"), value)
    pointers.save(metrics)
    return (evaluated.model_dump_json(),)
