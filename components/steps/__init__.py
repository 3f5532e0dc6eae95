"""Kubeflow's steps, a file for each: a few lines around a submitted Ray job. The only folder that knows kfp and Kubernetes.

A step is a kfp component named as its file. It takes what it names: `recipe` (JSON) and `target` (see targets), `seed` where it
is run for each, the fingerprints, and artifacts by the names that pipelines.stages gives them. Its body travels as text, so it
imports inside, and no file of a step: in a step's pod kfp has no components. Nor has its file `from __future__ import
annotations`, for kfp reads the types.
"""

from __future__ import annotations

from collections.abc import Iterable

from components import config
from ray_jobs import _credentials

IMAGE = "hardneg:0.1.0"  # has Python, the project and its dependencies; steps and RayJobs run in it
IMAGE_VARIABLE = "HARDNEG_IMAGE"
RUN_ID = "KFP_RUN_ID"  # of the pipeline's run
SECRET = "hardneg"  # the Secret, if there is one, with the tokens and passwords that steps and RayJobs take from it
PASSWORDS = _credentials.NAMES


def parameter(recipe: str, changes: Iterable[str] = ()) -> str:
    """The pipeline's parameter `recipe`: a file of one, with its --set, as JSON."""
    return config.load(recipe, changes).to_json()
