"""Quality by the length of a user's history."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.evaluation.exact import ExactSum

GROUPS = 5


def by_history_length(per_user: Path, lengths_U: NDArray[np.int64], names: Sequence[str]) -> list[dict[str, Any]]:
    """[{"from": shortest, "to": longest, "users": how many, "ndcg@10": mean, ...}, ...], the shortest histories first.

    Args:
        per_user: rows as `evaluate_protocols` makes them.
        lengths_U: of every user of the dataset: the rows that a model may read.
        names: metrics.
    """
    file = pq.ParquetFile(per_user)
    users = file.read(["user"])["user"].to_numpy()
    bounds = cut(lengths_U[users])
    totals = [{name: ExactSum() for name in names} for _ in bounds]
    for piece in file.iter_batches(columns=["user", *names]):
        lengths = lengths_U[piece["user"].to_numpy()]
        for (shortest, longest), total in zip(bounds, totals, strict=True):
            mine = (lengths >= shortest) & (lengths <= longest)
            for name, sum_ in total.items():
                sum_.add(piece[name].to_numpy()[mine])
    return [
        {
            "from": shortest,
            "to": longest,
            "users": next(iter(total.values())).count,
            **{name: sum_.mean() for name, sum_ in total.items()},
        }
        for (shortest, longest), total in zip(bounds, totals, strict=True)
    ]


def cut(lengths_U: NDArray[np.integer], number: int = GROUPS) -> list[tuple[int, int]]:
    """At most `number` ranges of lengths, each of about as many users; those of one length are in one range.

    c = users with a shorter history, of n; range g, from 0, holds the lengths with g n / number <= c < (g+1) n / number.
    """
    lengths, counts = np.unique(lengths_U, return_counts=True)
    group = (np.cumsum(counts) - counts) * number // max(len(lengths_U), 1)
    return [(int(lengths[group == g].min()), int(lengths[group == g].max())) for g in np.unique(group)]
