"""The exit handler: stops what this run of the pipeline has left running."""

from kfp.dsl import PipelineTaskFinalStatus

from components.steps.component import step


@step
def stop(target: str, status: PipelineTaskFinalStatus):
    from components.steps import targets

    print(f"the pipeline ended as {status.state}")
    targets.stop_all(target)
