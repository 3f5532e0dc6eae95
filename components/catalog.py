"""`{"name": "ssm", ...}` becomes the object. The file's name is the part's name; there is no registry to edit.

A part is the one public class of `components/<kind>/<name>.py`. Its positional-only arguments come from the program
(the training log, the parts nested in it); its keyword-only ones are its configuration, checked by their annotations.
"""

from __future__ import annotations

import importlib
import inspect
import typing
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError, create_model

from components.errors import InputError, describe
from components.section import Newer

FOLDERS = {"encoder": "encoders", "objective": "objectives", "loss": "losses", "negatives": "negatives", "views": "views"}


def names(kind: str) -> list[str]:
    """The parts of a kind, sorted."""
    folder = Path(__file__).parent / FOLDERS[kind]
    return sorted(file.stem for file in folder.glob("[a-z]*.py"))


def find(kind: str, name: Any, path: str | None = None) -> type:
    """The class of a part.

    Raises:
        InputError: no file has that name; lists those there are.
    """
    if name not in names(kind):
        raise InputError(f"{path or kind}.name: got {name!r}, takes one of {', '.join(names(kind))}")
    module = importlib.import_module(f"components.{FOLDERS[kind]}.{name}")
    own = [c for n, c in vars(module).items() if inspect.isclass(c) and c.__module__ == module.__name__ and n[0] != "_"]
    assert len(own) == 1, f"{module.__name__} has {len(own)} public classes, a part's file has one"
    return own[0]


def check(kind: str, spec: dict[str, Any], path: str | None = None) -> dict[str, Any]:
    """The keyword arguments of a part, validated against its constructor.

    Raises:
        InputError: the name or an argument is wrong; one line each.
    """
    path = path or kind
    cls = find(kind, spec.get("name"), path)
    arguments = _arguments(cls)
    model = create_model(cls.__name__, __config__=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False), **arguments)  # pyright: ignore
    try:
        checked = model.model_validate({k: v for k, v in spec.items() if k != "name"})
    except ValidationError as error:
        raise InputError("\n".join(describe(error, path))) from error
    values = {name: getattr(checked, name) for name in arguments}
    if len(arguments) == len(inspect.signature(cls).parameters):
        cls(**values)  # it takes nothing from the program, so it can say now what several arguments must be together
    return values


def settled(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """What fingerprints are of: a checked part without arguments that are newer and at their default."""
    marked = {name: default for name, (hint, default) in _arguments(find(kind, spec["name"])).items() if _is_newer(hint)}
    return {name: value for name, value in spec.items() if name not in marked or value != marked[name]}


def _is_newer(hint: Any) -> bool:
    return Newer in getattr(hint, "__metadata__", ())


def _arguments(cls: type) -> dict[str, tuple[Any, Any]]:
    """Each keyword's annotation and default, `...` where it has none."""
    hints = typing.get_type_hints(cls.__init__, include_extras=True)
    keywords = (p for p in inspect.signature(cls).parameters.values() if p.kind is p.KEYWORD_ONLY)
    return {p.name: (hints[p.name], ... if p.default is p.empty else p.default) for p in keywords}


def build(kind: str, spec: dict[str, Any], *context: Any) -> Any:
    """The part itself; `context` fills its positional-only arguments."""
    return find(kind, spec.get("name"))(*context, **check(kind, spec))
