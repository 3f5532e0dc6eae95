"""The rules that `data.split` may be: which rows train, validate and test."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, field_validator, model_validator

from components.errors import InputError
from components.section import Positive, Section

Fraction = Annotated[float, Field(ge=0, lt=1)]


def _moment(value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)):
        return value
    raise ValueError("a finite number, as data.time_units leaves them in the log, or an ISO date where the log has dates")


Moment = Annotated[int | float | str, PlainValidator(_moment)]


class RatioSplit(Section):
    """Per user: the last rows by time, or random ones, become valid and test; at least one row stays in train."""

    by: Literal["ratio"]
    valid: Fraction = 0.1
    test: Fraction = 0.1
    order: Literal["time", "random"] = "random"

    @model_validator(mode="after")
    def _room_for_train(self) -> RatioSplit:
        if self.valid + self.test >= 1:
            raise ValueError("valid and test whose sum is < 1")
        return self


class LeaveOneOut(Section):
    """Per user: the last row is test, the one before it valid; a user with fewer than three rows only trains.

    Last by time; where data.columns.time is not given, last in the source: by file, and in a file by place.
    """

    by: Literal["leave_one_out"]


class GivenSplit(Section):
    """The source says which row belongs where, in a column or by file; `valid_fraction` is cut from train per user."""

    by: Literal["given"]
    column: str = "split"
    valid_fraction: Fraction = 0.0


class TemporalSplit(Section):
    """Of the whole log: rows from one moment on are test, those before them from another moment on valid, the rest train.

    The moments are `test_from` and `valid_from`, or the earliest that leave at most the shares `test` and `valid` of the rows.
    `unknown`: rows held out whose user or item has no row in train are dropped, and such users and items get no id, or kept.
    """

    by: Literal["temporal"]
    valid: Fraction = 0.1
    test: Fraction = 0.1
    valid_from: Moment | None = None
    test_from: Moment | None = None
    unknown: Literal["drop", "keep"] = "drop"

    @model_validator(mode="after")
    def _shares_or_moments(self) -> TemporalSplit:
        if (self.valid_from is None) != (self.test_from is None):
            raise ValueError("valid_from and test_from together")
        if self.test_from is not None and self.model_fields_set & {"valid", "test"}:
            raise ValueError("valid and test (shares) or valid_from and test_from (moments)")
        if self.valid + self.test >= 1:
            raise ValueError("valid and test whose sum is < 1")
        return self


class ShiftedSplit(Section):
    """Tests whose popularity is shifted: test_gammaG for each G of `gammas`, each the share `each` of the rows.

    The expected rows of an item fall by G from the most to the least popular of 50 groups (components.data.shifted).
    valid_shifted is of the same law, with `valid_gamma` and the share `valid`: the one that a search takes, and that an epoch
    may be chosen on (training.select_on). `valid` and `test` are drawn at random from the rest,
    which is more popular than the log. The defaults hold out 60 % of it; AdvInfoNCE's Tencent has no unshifted `test`: 0.
    """

    by: Literal["shifted"]
    gammas: Annotated[list[Positive], Field(min_length=1)] = [200, 10, 2]
    each: Annotated[float, Field(gt=0, lt=1)] = 0.1
    valid_gamma: Positive = 10
    valid: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test: Fraction = 0.1

    @field_validator("gammas")
    @classmethod
    def _distinct(cls, value: list[int]) -> list[int]:
        if len(set(value)) != len(value):
            raise ValueError("each gamma once")
        return value

    @model_validator(mode="after")
    def _room_for_train(self) -> ShiftedSplit:
        if len(self.gammas) * self.each + 2 * self.valid + self.test >= 1:
            raise ValueError("shares (each for every gamma, valid twice, test) whose sum is < 1")
        return self


Split = RatioSplit | LeaveOneOut | GivenSplit | TemporalSplit | ShiftedSplit


def selectable(split: Split) -> list[str] | None:
    """The splits that an epoch may be chosen on under a rule; None where the source says what there is."""
    if isinstance(split, GivenSplit):
        return None
    names = [name for name in ("valid", "test") if getattr(split, name, True)]  # leave_one_out has no shares, and both
    return [*names, "valid_shifted"] if isinstance(split, ShiftedSplit) else names


def tested(split: Split) -> list[str] | None:
    """The tests that a rule holds out; None where the source says what there is."""
    if isinstance(split, GivenSplit):
        return None
    shifted = [f"test_gamma{gamma}" for gamma in split.gammas] if isinstance(split, ShiftedSplit) else []
    return [*shifted, *(["test"] if getattr(split, "test", True) else [])]


def refuse_without_time(split: Split) -> None:
    """Raises an InputError for a split by time of a log whose times are not read."""
    none = "where data.columns.time is not given"
    if isinstance(split, RatioSplit) and split.order == "time":
        raise InputError(f"data.split.order: got 'time', takes random {none}")
    if isinstance(split, TemporalSplit):
        raise InputError(f"data.split.by: got 'temporal', takes ratio, leave_one_out, given or shifted {none}")
