"""Ray tasks by the hundred, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ray
from ray.exceptions import RayTaskError

from components.errors import InputError


def each(function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
    """Runs a task for each tuple of arguments and yields (position, result) as they end, a bounded number at a time."""
    task = ray.remote(function).options(scheduling_strategy="SPREAD")
    limit = max(2, 2 * int(ray.cluster_resources().get("CPU", 1)))
    running: dict[Any, int] = {}
    waiting = enumerate(arguments)
    exhausted = False
    while running or not exhausted:
        while not exhausted and len(running) < limit:
            following = next(waiting, None)
            if following is None:
                exhausted = True
            else:
                running[task.remote(*following[1])] = following[0]
        ready, _ = ray.wait(list(running), num_returns=min(1, len(running))) if running else ([], [])
        for ref in ready:
            try:
                yield running.pop(ref), ray.get(ref)
            except RayTaskError as error:
                if isinstance(error.cause, InputError):
                    raise InputError(str(error.cause)) from None
                raise
