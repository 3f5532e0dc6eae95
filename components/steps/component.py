"""What makes a function a step, and finds it by its name."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from kfp import dsl

from components.steps import IMAGE

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
