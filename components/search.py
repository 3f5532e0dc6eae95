"""The recipe's section `search`: what tune tries, by which searcher, and for how long; and what it finds of each trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from components import space
from components.section import Positive, Section

DEFAULT_TRIALS = 20


class Search(Section):
    """Read by tune alone. `space` maps dotted keys to distributions (components.space).

    `metric` is one of those that training logs on validation, by default training.metric; so is `against`, by default
    recall_snips@K of its K. `against: valid_recall@20` is a metric of another validation, which trials measure beside theirs;
    so it is by default under pareto and data.split shifted, where trials are compared on valid_shifted. `searcher` is a grid,
    random, or Optuna's tree-structured Parzen estimators: on `metric` (tpe), or on it and `against` at once (pareto), both of
    the epoch that training.metric chooses. `scheduler: asha` ends the worse trials of each rung: after grace_epochs, and every
    reduction_factor times as many, all but the best 1 / reduction_factor of them. The budget is `trials`, `hours`, or both; a
    grid without either is tried whole, and the others stop at DEFAULT_TRIALS.
    """

    space: dict[str, Any] = {}
    metric: str | None = None
    against: str | None = None
    searcher: Literal["grid", "random", "tpe", "pareto"] = "tpe"
    scheduler: Literal["fifo", "asha"] = "fifo"
    grace_epochs: Positive = 5
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    trials: Positive | None = None
    hours: Annotated[float, Field(gt=0)] | None = None

    @property
    def most_trials(self) -> int | None:
        """None: as many as there are, or as the hours allow."""
        return self.trials or (None if self.hours or self.searcher == "grid" else DEFAULT_TRIALS)

    def rungs(self, epochs: int) -> list[int]:
        """The epochs after which ASHA compares trials of so many; none under another scheduler."""
        found, epoch = [], self.grace_epochs
        while self.scheduler == "asha" and epoch < epochs:
            found.append(epoch)
            epoch *= self.reduction_factor
        return found

    @field_validator("space")
    @classmethod
    def _distributions(cls, value: dict[str, Any]) -> dict[str, Any]:
        space.check(value)
        return value


@dataclass(frozen=True)
class Trial:
    """How a trial ended, when (hours after the search began), what it was given, and what it reached: None of a failed one.

    `ended` is finished, stopped, failed (for a `reason`), or empty of one that goes on.
    """

    name: str
    ended: str
    hours: float
    values: Mapping[str, Any]
    score: float | None
    against: float | None = None
    epochs: int = 0
    reason: str = ""
