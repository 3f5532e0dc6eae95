"""The one ordered list of what runs: each stage a program, with what it takes and what it leaves behind."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """`program` is run as `python -m program RECIPE`; inputs and outputs are names of things on the storage path.

    A stage that leaves a recipe gives later stages that one. `asked_by` is the key of the recipe that asks for the stage: where
    it is empty there is nothing to do, and the recipe goes on as it is.

    In Kubeflow (pipelines.training) a stage is the step of its name: `per_seed`, once for each seed at the same time; `cached`,
    not at all where it has run before with the same inputs (of which what else is registered is none).
    """

    name: str
    program: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    asked_by: str = ""
    per_seed: bool = False
    cached: bool = True


STAGES = (
    Stage("check", "ray_jobs.check", ("recipe", "source"), (), cached=False),
    Stage("prepare", "ray_jobs.prepare", ("recipe", "source"), ("dataset",)),
    Stage("tune", "ray_jobs.tune", ("recipe", "dataset"), ("recipe", "search"), asked_by="search.space"),
    Stage("train", "ray_jobs.train", ("recipe", "dataset"), ("run",), per_seed=True),
    Stage("evaluate", "ray_jobs.evaluate", ("recipe", "dataset", "run"), ("metrics",), per_seed=True),
    Stage("register", "ray_jobs.register", ("recipe", "dataset", "run", "metrics"), ("registered",), cached=False),
    Stage("recommend", "ray_jobs.recommend", ("recipe", "dataset", "run"), ("recommendations",)),
)
