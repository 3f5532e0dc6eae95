"""The two protocols in use for what lists may hold, which are never compared: an evaluation always names its own."""

from __future__ import annotations

from typing import Literal

Protocol = Literal["masked", "not_masked"]
PROTOCOLS: dict[Protocol, str] = {"masked": "seen items masked", "not_masked": "not masked"}  # as people call them


def logged(split: str, protocol: Protocol, metric: str) -> str:
    """What a split's value of a metric is called in MLflow: `valid_recall@20`, not masked `valid_not_masked_recall@20`.

    Names do not collide: a split is one of SPLITS, or that and a NAME without `_`, and no metric's name ends with another's
    after a `_`.
    """
    return f"{split}_{metric}" if protocol == "masked" else f"{split}_{protocol}_{metric}"
