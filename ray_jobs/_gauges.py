"""What Prometheus reads of a training: the last reported epoch, as gauges on the port of its controller's node.

Ray puts `ray_` before their names; they are gone there some seconds after the controller.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ray.train import UserCallback
from ray.util.metrics import Gauge

GAUGES = {
    "hardneg_rows_per_second": "rows trained a second",
    "hardneg_step_seconds": "seconds of a step, the mean over an epoch",
    "hardneg_exchange_share": "share of the steps' seconds in collectives, waiting included, the mean over CPU workers",
    "hardneg_bank_age_steps": "steps since a memory bank took up its rows, their mean",
}
LABELS = ("recipe", "run")
BANK = "negatives"  # a label of banks alone: their name in the recipe


def read(metrics: dict[str, float]) -> Iterator[tuple[str, dict[str, str], float]]:
    """The gauges that an epoch's metrics have: (name, labels of its own, value)."""
    for metric, value in metrics.items():
        bank = re.fullmatch(r"(negatives\.\d+)_age", metric)
        if bank:
            yield "hardneg_bank_age_steps", {BANK: bank[1]}, value
        elif f"hardneg_{metric}" in GAUGES:
            yield f"hardneg_{metric}", {}, value


class Gauges(UserCallback):
    """Train's callback, in its controller."""

    def __init__(self, recipe: str, run: str) -> None:
        self._labels = dict(zip(LABELS, (recipe, run), strict=True))
        self._gauges: dict[str, Gauge] = {}  # those of the controller's process

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        history = [entry for worker in metrics for entry in worker.get("history", [])]
        for name, own, value in read(history[-1]["metrics"]) if history else ():
            if name not in self._gauges:
                self._gauges[name] = Gauge(name, GAUGES[name], (*self._labels, *own))
            self._gauges[name].set(value, self._labels | own)
