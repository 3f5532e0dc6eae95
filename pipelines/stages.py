"""The one ordered list of what runs: each stage a program, with what it takes and what it leaves behind."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """`program` is run as `python -m program RECIPE`; inputs and outputs are names of things on the storage path."""

    name: str
    program: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


STAGES = (
    Stage("check", "ray_jobs.check", ("recipe", "source"), ()),
    Stage("prepare", "ray_jobs.prepare", ("recipe", "source"), ("dataset",)),
    Stage("train", "ray_jobs.train", ("recipe", "dataset"), ("run",)),
    Stage("evaluate", "ray_jobs.evaluate", ("recipe", "dataset", "run"), ("metrics",)),
    Stage("recommend", "ray_jobs.recommend", ("recipe", "dataset", "run"), ("recommendations",)),
)
