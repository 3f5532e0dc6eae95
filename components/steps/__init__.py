"""Kubeflow's steps, a file for each: a few lines around a submitted Ray job. The only folder that knows kfp and Kubernetes.

A step is a kfp component named as its file. It takes what it names: `recipe` (JSON) and `target` (see targets), `seed` where it
is run for each, the fingerprints, and artifacts by the names that pipelines.stages gives them. Its body travels as text, so it
imports inside; its file has no `from __future__ import annotations`, for kfp reads the types.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable
from typing import Any

from components import config
from ray_jobs import _credentials

try:
    from kfp import dsl
except ImportError as error:
    raise ImportError(
        f"Kubeflow's pipelines need the extra `pipelines`: pip install -c constraints.txt -e '.[pipelines]' ({error})"
    ) from error

IMAGE = "hardneg:0.1.0"  # has Python, the project and its dependencies; steps and RayJobs run in it
IMAGE_VARIABLE = "HARDNEG_IMAGE"
RUN_ID = "KFP_RUN_ID"  # of the pipeline's run
SECRET = "hardneg"  # the Secret, if there is one, with the tokens and passwords that steps and RayJobs take from it
PASSWORDS = _credentials.NAMES

step = functools.partial(dsl.component, base_image=IMAGE, install_kfp_package=False)  # nothing is installed at run time


def find(name: str) -> Any:
    """The component of a stage: the function of that name in the file of that name.

    Raises:
        LookupError: there is none.
    """
    try:
        return getattr(importlib.import_module(f"components.steps.{name}"), name)
    except ModuleNotFoundError as error:
        raise LookupError(f"components/steps/{name}.py: missing, a stage of the pipeline needs its step") from error


def parameter(recipe: str, changes: Iterable[str] = ()) -> str:
    """The pipeline's parameter `recipe`: a file of one, with its --set, as one JSON string."""
    return config.load(recipe, changes).to_json()
