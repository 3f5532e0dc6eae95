"""Whether a model takes another's place: both measured on the same test, user by user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components import storage
from components.errors import InputError
from components.evaluation import comparison, exact, metrics
from components.evaluation.comparison import Difference, Floats, System
from components.evaluation.evaluate import GROUPS, matrix


@dataclass(frozen=True)
class Measured:
    """What a model's lists on a test are worth.

    `test` says which test that is: what is the same for both, or they are not compared. `values` are by metric, in the order of
    `users_U`: first the one that decides, then tail recall.
    """

    name: str
    test: Mapping[str, str]
    chosen_on_test: bool
    users_U: NDArray[np.integer]
    values: Mapping[str, Floats]


@dataclass(frozen=True)
class Verdict:
    """`differences` are the challenger's from the champion, by metric; none where the two were not compared."""

    promoted: bool
    reason: str
    differences: Mapping[str, Difference] = field(default_factory=dict)


def measured(name: str, metrics_json: Path, per_user: Path, metric: str, degrees_I: NDArray[np.int64]) -> Measured:
    """What an evaluation left of a model's lists, seen items masked.

    tail_recall@K is what items of the least popular group (`metrics.groups`) add to a user's recall@K, as in groups.json.

    Args:
        metric: as recall@20.
        degrees_I: training interactions of each item.

    Raises:
        InputError: the evaluation lacks the metric, or the two files are not of one evaluation.
    """
    said, k = storage.read_json(metrics_json), int(metric.partition("@")[2])
    own = said["metrics"]["model"]
    if metric not in own:
        raise InputError(f"evaluation.ks: got an evaluation of {name} without {metric}, takes one with {k} (training.metric)")
    table = pq.read_table(per_user, columns=["user", "relevant", "items", "hits", metric]).sort_by("user")
    values_U = table[metric].to_numpy()
    if exact.mean(values_U) != own[metric]:
        raise InputError(f"{metrics_json}: got another evaluation of {name} than {per_user.name}, takes those of one")
    items_UK, hits_UK = (matrix(table[column])[:, :k] for column in ("items", "hits"))
    in_groups_UG = metrics.group_hits(items_UK, hits_UK, metrics.groups(degrees_I, GROUPS), GROUPS)
    return Measured(
        name,
        {"dataset": said["dataset"], "split": said["split"], "protocol": said["protocol"]["model"]},
        f"chosen on {said['split']}" in said["fitted"],
        table["user"].to_numpy(),
        {metric: values_U, f"tail_recall@{k}": in_groups_UG[:, 0] / table["relevant"].to_numpy()},
    )


def judge(challenger: Measured, champion: Measured | None) -> Verdict:
    """Promotes a challenger if there is no champion, or if on the same test

        low(metric) > 0  and  high(tail recall) >= 0,

    (low, high) the interval of the difference by a paired bootstrap over users (`comparison.differences`): it beats the
    champion by more than other users would tell, and tail recall is not lower by more than that.
    """
    if champion is None:
        return Verdict(True, "there was no champion")
    for what, own in challenger.test.items():
        if (other := champion.test[what]) != own:
            where = f"{what} {other}, {challenger.name} on {own}"
            return Verdict(False, f"not comparable: {champion.name} was evaluated on {where}")
    if not np.array_equal(challenger.users_U, champion.users_U):
        counts = f"{len(champion.users_U):,} users and {challenger.name} on {len(challenger.users_U):,}"
        return Verdict(False, f"not comparable: {champion.name} was evaluated on {counts}, not the same ones")
    if challenger.chosen_on_test and not champion.chosen_on_test:
        whose = f"that of {champion.name} was not"
        return Verdict(False, f"not comparable: the epoch of {challenger.name} was chosen on the test, {whose}")
    systems = [System((0,), {m: values_U[None] for m, values_U in each.values.items()}) for each in (champion, challenger)]
    (found,) = comparison.differences(systems, comparison.RESAMPLES)
    metric, tail = challenger.values
    low, high = found[metric].over_users
    if low <= 0:
        how = "lower" if high < 0 else "not higher by more than chance"
        return Verdict(False, f"{metric} is {how}: {_said(found[metric])}", found)
    if found[tail].over_users[1] < 0:
        return Verdict(False, f"{tail} is lower: {_said(found[tail])}", found)
    return Verdict(True, f"{metric} is higher: {_said(found[metric])}; {tail} is not lower: {_said(found[tail])}", found)


def _said(difference: Difference) -> str:
    low, high = difference.over_users
    return f"{difference.value:+.4f} (from {low:+.4f} to {high:+.4f})"
