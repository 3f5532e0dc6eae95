"""YAML 1.2's plain values: `on` is text (a key of l2), 1e-3 is a number, and 2020-01-01 is text."""

from __future__ import annotations

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """PyYAML's, which reads YAML 1.1, with 1.2's booleans and floats, and without dates."""


OF_1_1 = {f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "timestamp")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in OF_1_1]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)


def load(text: str) -> Any:
    """The value of a document. Raises yaml.YAMLError."""
    return yaml.load(text, _Loader)
