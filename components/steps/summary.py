"""What a run of the pipeline came to, as a page in KFP."""

from kfp.dsl import Markdown, Output

from components.steps.component import step


@step
def summary(recipe: str, tuned: str, evaluated: list[str], page: Output[Markdown]):
    from pathlib import Path

    from pydantic import TypeAdapter

    from components.steps import targets
    from components.steps.page import markdown
    from ray_jobs._results import Evaluated, Tuned

    search = TypeAdapter(Tuned | None).validate_json(tuned)
    text = markdown(targets.read(recipe), [Evaluated.model_validate_json(each) for each in evaluated], search)
    Path(page.path).write_text(text, encoding="utf-8")
