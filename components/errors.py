"""What a user wrote wrongly, said once and clearly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

BOUNDS = {
    "greater_than": ("gt", ">"),
    "greater_than_equal": ("ge", ">="),
    "less_than": ("lt", "<"),
    "less_than_equal": ("le", "<="),
}


LONGEST_REASON = 300


class InputError(ValueError):
    """A mistake in what a user gave: the thing's full name, what it got, what it takes.

    Programs print it without a traceback and leave with exit code 2. One string argument, so that it survives pickling
    between processes.
    """


class FullError(InputError):
    """No room is left where something is to be written: with more of it, the same command goes on."""


class TrackingError(InputError):
    """MLflow does not answer, or refuses, where nothing can go on without it: a wrong address or password, an outage."""


class DivergedError(ArithmeticError):
    """The loss is no longer a finite number: no retry helps. Programs print it without a traceback."""


class FailedError(RuntimeError):
    """Work that was begun and came to nothing, though what was given is right. Programs print it without a traceback."""


class WorkerError(FailedError):
    """What went wrong in a worker, with its traceback: `out of memory`, or another `error`; not that a worker was lost."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(kind, text)
        self.kind, self.text = kind, text

    def __str__(self) -> str:
        return f"{self.kind} in a worker\n{self.text}"


def reason(error: BaseException) -> str:
    """The innermost of a chain of exceptions, in one line: what went wrong before everybody wrapped it."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return f"{type(error).__name__}: {str(error)[:LONGEST_REASON]}".splitlines()[0]


def describe(error: ValidationError, path: str = "") -> Iterator[str]:
    """One line for each wrong key: `loss.temperature: got 0, takes a number > 0`."""
    for detail in error.errors():
        nested = detail.get("ctx", {}).get("error")
        if isinstance(nested, InputError):
            yield str(nested)  # a part's own lines, complete already
            continue
        keys = [str(key) for n, key in enumerate(detail["loc"]) if n == 0 or detail["loc"][n - 1] != "split"]  # no union's tag
        name = ".".join([path, *keys] if path else keys) or "recipe"
        if detail["type"] == "missing":
            yield f"{name}: missing, {_takes(detail)}"
        elif detail["type"] == "extra_forbidden":
            yield f"{name}: unknown key (got {_short(detail['input'])})"
        else:
            yield f"{name}: got {_short(detail['input'])}, {_takes(detail)}"


def _takes(detail: Any) -> str:
    context = detail.get("ctx", {})
    kind = detail["type"]
    if kind in BOUNDS:
        key, sign = BOUNDS[kind]
        return f"takes a number {sign} {context[key]:g}"
    if kind == "too_short":
        return f"takes at least {context['min_length']}"
    if kind == "union_tag_invalid":
        return f"takes {context['discriminator']}: one of {context['expected_tags']}".replace("'", "")
    if kind == "union_tag_not_found":
        return "takes by: ratio, leave_one_out, given, temporal or shifted, and what goes with it"
    if kind.startswith("int_"):
        return "takes a whole number"
    if kind.startswith(("float_", "finite_")):
        return "takes a finite number"
    if kind.startswith("bool_"):
        return "takes true or false"
    if kind.startswith("string_"):
        return "takes text"
    if kind == "missing":
        return "takes a value"
    if kind == "value_error":
        return f"takes {context['error']}"
    return "takes " + detail["msg"].removeprefix("Input should be ")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
