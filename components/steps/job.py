"""One step's job, and how it is called: the same in every attempt of the step, and like no other run's."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from components.config import Recipe


@dataclass(frozen=True)
class Job:
    """One step's job: `run_id` is the pipeline run's."""

    run_id: str
    program: str
    part: str
    recipe: Recipe
    arguments: Sequence[str]

    @property
    def name(self) -> str:
        """At most 43 characters, those that Kubernetes takes."""
        return prefix(self.run_id) + "-".join(filter(None, [self.program, self.part]))


def prefix(run_id: str) -> str:
    """How the names of all jobs of a pipeline's run begin."""
    return f"hardneg-{uuid.UUID(run_id).hex[:12]}-"


def say(line: str) -> None:
    print(line, flush=True)
