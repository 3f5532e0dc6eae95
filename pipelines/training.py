"""The Kubeflow pipeline, made from pipelines.stages: a stage added to the list joins it, with the step of its name.

A step is handed what it names among the pipeline's parameters, its stage's `asked_by`, and what the steps before it made: the
latest of a name. Stages that run for each seed are in one loop; what a loop made, the stages after it are handed as lists.
"""

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from kfp import dsl, kubernetes

from components import steps
from components.steps.component import find
from pipelines.stages import STAGES, Stage

NAME = "hardneg-training"
RETRIES = 2
RUN_ID_LABEL = "metadata.labels['pipeline/runid']"
FROM_SECRET = {
    "auth_token": "RAY_AUTH_TOKEN",  # the key is KubeRay's
    **{name: name for name in ("MLFLOW_TRACKING_URI", *steps.PASSWORDS)},
}


def build(image: str = steps.IMAGE, stages: Iterable[Stage] = STAGES) -> Any:
    """The pipeline, its steps and RayJobs in that image."""

    @dsl.pipeline(
        name=NAME,
        description="Ray jobs: check, prepare, a search, a training and evaluation for each seed, a registered model, lists",
    )
    def training(recipe: str, target: str, seeds: list[int] = [0]):  # noqa: B006  kfp reads it, nobody changes it
        left = _set_up(find("stop")(target=target), image, cached=False)
        made: dict[str, Any] = {"recipe": recipe, "target": target}
        with dsl.ExitHandler(left, name="jobs"):
            for per_seed, group in groupby(stages, key=lambda stage: stage.per_seed):
                if per_seed:
                    with dsl.ParallelFor(seeds, name="seeds") as seed:  # pyright: ignore[reportArgumentType]  a channel
                        new = _tasks(group, made | {"seed": seed}, image)
                    new = {name: dsl.Collected(output) for name, output in new.items()}
                else:
                    new = _tasks(group, made, image)
                made |= new
            _task("summary", made, image)

    return training


def _tasks(stages: Iterable[Stage], made: dict[str, Any], image: str) -> dict[str, Any]:
    """What those stages make, by name."""
    new: dict[str, Any] = {}
    for stage in stages:
        new |= _task(stage.name, made | new | {"asked_by": stage.asked_by}, image, stage.cached).outputs
    return new


def _task(name: str, made: dict[str, Any], image: str, cached: bool = True) -> dsl.PipelineTask:
    """
    Raises:
        LookupError: the step is missing, or takes what nothing before it makes.
    """
    step = find(name)
    wanted = step.component_spec.inputs
    if missing := set(wanted) - set(made):
        raise LookupError(f"components/steps/{name}.py: takes {', '.join(sorted(missing))}, which no stage before it makes")
    return _set_up(step(**{each: _own(made[each]) for each in wanted}), image, cached)


def _own(channel: Any) -> Any:
    """kfp's compiler changes a Collected where it is taken, so each that takes it has one of its own."""
    return dsl.Collected(channel.output) if isinstance(channel, dsl.Collected) else channel


def _set_up(task: dsl.PipelineTask, image: str, cached: bool) -> dsl.PipelineTask:
    task.set_container_image(image)
    task.set_env_variable(steps.IMAGE_VARIABLE, image)
    task.set_caching_options(cached)
    task.set_retry(RETRIES, backoff_duration="30s")
    kubernetes.use_field_path_as_env(task, steps.RUN_ID, RUN_ID_LABEL)
    kubernetes.use_secret_as_env(task, steps.SECRET, FROM_SECRET, optional=True)
    return task
