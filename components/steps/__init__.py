"""Kubeflow's steps, a file for each: a few lines around a submitted Ray job. The only folder that knows kfp and Kubernetes.

A step is a kfp component named as its file. It takes what it names: `recipe` (JSON) and `target` (see targets), `seed` where it
is run for each, `asked_by` where it is not run for every recipe, the fingerprints, and artifacts by the names that
pipelines.stages gives them. Its body travels as text, so it imports inside, and no file of a step: in a step's pod kfp has no
components. Nor has its file `from __future__ import annotations`, for kfp reads the types.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable

from components import config
from components.config import Recipe
from components.errors import InputError
from ray_jobs import _credentials, _results

IMAGE = "hardneg:0.1.0"  # has Python, the project and its dependencies; steps and RayJobs run in it
IMAGE_VARIABLE = "HARDNEG_IMAGE"
RUN_ID = "KFP_RUN_ID"  # of the pipeline's run
SECRET = "hardneg"  # the Secret, if there is one, with the tokens and passwords that steps and RayJobs take from it
PASSWORDS = _credentials.NAMES
RESULT = _results.FILE  # names the file that a program writes its result to


def parameter(recipe: str, changes: Iterable[str] = ()) -> str:
    """The pipeline's parameter `recipe`: a file of one, with its --set, as JSON."""
    return config.load(recipe, changes).to_json()


def read(recipe: str) -> Recipe:
    """The pipeline's parameter.

    Raises:
        InputError: it is not JSON, or names each wrong key.
    """
    try:
        tree = json.loads(recipe)
        tree = json.loads(tree) if isinstance(tree, str) else tree  # as kfp's command line has it
    except json.JSONDecodeError as error:
        takes = "takes JSON, as python -m pipelines.compile --recipe RECIPE.yaml prints it"
        raise InputError(f"recipe: got {recipe[:40]!r}, {takes} ({error})") from error
    return config.parse(tree)


def is_asked(recipe: str, by: str) -> bool:
    """Whether the recipe asks for a stage: it does where there is something at that key, and always where none is given."""
    return not by or bool(functools.reduce(getattr, by.split("."), read(recipe)))
