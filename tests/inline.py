"""What a preparation asks of Ray, done here and at once: a whole one takes milliseconds, so that many logs can be tried."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pyarrow as pa
import ray


@dataclass(frozen=True, eq=False)
class Ref:
    """What ray.put and a task return."""

    value: Any


@dataclass(frozen=True)
class Task:
    function: Callable[..., Any]

    def options(self, **_: Any) -> Task:
        return self

    def remote(self, *arguments: Any) -> Ref:
        return Ref(self.function(*(_value(argument) for argument in arguments)))


@dataclass(frozen=True)
class Rows:
    """Worked on when they are asked for, as Ray Data's."""

    rows: Iterable[dict[str, Any]]

    def map_batches(self, function: Callable[[pa.Table], pa.Table], **_: Any) -> Rows:
        return Rows(row for one in self.rows for row in function(pa.Table.from_pylist([one])).to_pylist())

    def iter_batches(self, **_: Any) -> Iterator[pa.Table]:
        for row in self.rows:
            yield pa.Table.from_pylist([row])


def _value(argument: Any) -> Any:
    return argument.value if isinstance(argument, Ref) else argument


@contextmanager
def inline() -> Iterator[None]:
    """In the glue's own modules alone: Ray's are imported late, and decorate with ray.remote."""
    fake = SimpleNamespace(
        put=Ref,
        get=_value,
        remote=Task,
        wait=lambda refs, num_returns=1, **_: (refs[:num_returns], refs[num_returns:]),
        cancel=lambda ref, **_: None,
        cluster_resources=lambda: {"CPU": 2.0},
        data=SimpleNamespace(from_items=lambda rows, **_: Rows(rows)),
    )
    with ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("ray_jobs.") and getattr(module, "ray", None) is ray:
                stack.enter_context(mock.patch.object(module, "ray", fake))
        yield
