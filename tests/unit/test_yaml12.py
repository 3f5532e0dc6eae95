"""Plain values of recipes are YAML 1.2's."""

from __future__ import annotations

import math

import pytest

from components import yaml12


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2020-01-01", "2020-01-01"),
        ("2020-01-01T10:00:00Z", "2020-01-01T10:00:00Z"),
        ("on", "on"),
        ("true", True),
        ("1e-3", 0.001),
        ("7", 7),
        (".inf", math.inf),
        ("null", None),
    ],
)
def test_plain_values(text: str, value: object) -> None:
    found = yaml12.load(f"key: {text}")["key"]
    assert (found, type(found)) == (value, type(value))
