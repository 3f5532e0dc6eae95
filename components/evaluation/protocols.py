"""The two protocols in use for what lists may hold, which are never compared: an evaluation always names its own."""

from __future__ import annotations

from typing import Literal

Protocol = Literal["masked", "not_masked"]
PROTOCOLS: dict[Protocol, str] = {"masked": "seen items masked", "not_masked": "not masked"}  # as people call them
