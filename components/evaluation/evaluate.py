"""From a scorer and held-out rows to per-user values: the work of a tile, and how tiles become one result."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.data.interactions import Interactions, Ints
from components.evaluation import metrics
from components.evaluation.exact import ExactSum
from components.evaluation.protocols import Protocol
from components.evaluation.ranking import TILE, Ranker
from components.evaluation.scorers import Scorer

GROUPS = 10
SNIPS = "recall_snips@"


@dataclass(frozen=True)
class Task:
    """What is asked and what is hidden: `truth` is the split under test, `seen` is masked except where truth asks for it.

    `before` is what a model may read of a user, where that is not what is seen.

    The unit of work is a tile: TILE users that have relevant items, in the order of their ids.
    """

    truth: Interactions
    seen: Interactions
    before: Interactions | None = None

    @property
    def history(self) -> Interactions:
        return self.seen if self.before is None else self.before

    @cached_property
    def users(self) -> Ints:
        """Users with at least one relevant item, ascending."""
        return np.flatnonzero(np.diff(self.truth.offsets)).astype(np.int32)

    @property
    def num_tiles(self) -> int:
        return -(-len(self.users) // TILE)

    @cached_property
    def rarity(self) -> NDArray[np.float64]:
        """1 / interactions of each item in what is known of users, masked or not, and 1 where there are none."""
        return 1 / np.maximum(self.history.item_degrees(), 1)

    def tile(self, number: int) -> Ints:
        return self.users[number * TILE : (number + 1) * TILE]

    def counts(self) -> dict[str, int]:
        """Users, those of them without a history, the items asked for, and those of them that are in the user's history."""
        without, asked, known = 0, 0, 0
        for number in range(self.num_tiles):
            users_T = self.tile(number)
            pairs = (log.rows_of(users_T) for log in (self.truth, self.history))
            wanted, own = (np.unique(row * self.truth.num_items + item) for row, item in pairs)
            without += len(users_T) - len(np.unique(own // self.truth.num_items))
            asked, known = asked + len(wanted), known + int(np.isin(wanted, own).sum())
        return {"users": len(self.users), "users_without_history": without, "targets": asked, "targets_in_history": known}

    def hits(self, users_T: Ints, items_TK: Ints) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """(hits_TK, relevant_T): which listed items are relevant, and |T_u|, repeated rows counted once."""
        row, item = self.truth.rows_of(users_T)
        relevant = np.unique(row * self.truth.num_items + item)
        listed_TK = np.arange(len(users_T))[:, None] * self.truth.num_items + items_TK
        hits_TK = np.isin(listed_TK, relevant) & (items_TK >= 0)
        return hits_TK, np.bincount(relevant // self.truth.num_items, minlength=len(users_T))


def evaluate_tile(ranker: Ranker, task: Task, number: int, ks: Sequence[int]) -> pa.Table:
    """`evaluate_protocols` where seen items are masked."""
    return evaluate_protocols(ranker, task, number, ks, ["masked"])["masked"]


def evaluate_protocols(
    ranker: Ranker, task: Task, number: int, ks: Sequence[int], protocols: Collection[Protocol]
) -> dict[Protocol, pa.Table]:
    """By protocol a row per user of the tile: user, relevant, items [K], hits [K] and every metric at every K, K the largest.

    `items` are the list, best first, -1 where candidates ran out; `hits` are true where the item is relevant.
    """
    users_T = task.tile(number)
    tables: dict[Protocol, pa.Table] = {}
    for protocol, (items_TK, _) in ranker.lists(users_T, task.truth, protocols).items():
        hits_TK, relevant_T = task.hits(users_T, items_TK)
        values = metrics.per_user(hits_TK, relevant_T, ks)
        columns = {
            "user": users_T,
            "relevant": relevant_T.astype(np.int32),
            "items": _lists(items_TK),
            "hits": _lists(hits_TK),
        }
        tables[protocol] = pa.table({**columns, **values})
    return tables


def validate(scorer: Scorer, task: Task, names: Sequence[str], tiles: Iterable[int]) -> dict[str, NDArray[np.float64]]:
    """[users of the tiles] values of metrics such as `recall@20`; `exact.mean` over all workers is the result.

    Beside those of `metrics.per_user`, `recall_snips@K` (`_recall_snips`).
    """
    ks = sorted({int(name.partition("@")[2]) for name in names})
    ranker = Ranker(scorer, task.seen, ks[-1])
    values = {name: [np.zeros(0)] for name in names}
    for number in tiles:
        table = evaluate_tile(ranker, task, number, ks)
        for name, parts in values.items():
            weighted = name.startswith(SNIPS)
            parts.append(_recall_snips(task, table, int(name.partition("@")[2])) if weighted else table[name].to_numpy())
    return {name: np.concatenate(parts) for name, parts in values.items()}


def _recall_snips(task: Task, table: pa.Table, k: int) -> NDArray[np.float64]:
    """recall_snips@K = sum over hits in the first K of w_i / sum over T_u of w_i,  w_i = 1 / the item's training interactions.

    What recall would be if held-out rows were as many for every item as for the others: for a test whose popularity is shifted.

    Source: Yang et al. 2018, "Unbiased offline recommender evaluation for missing-not-at-random implicit feedback" (RecSys),
    the self-normalised inverse-propensity estimate, with propensities proportional to popularity.
    """
    users_T, items_TK, hits_TK = table["user"].to_numpy(), matrix(table["items"])[:, :k], matrix(table["hits"])[:, :k]
    row, item = task.truth.rows_of(users_T)
    pairs = np.unique(row * task.truth.num_items + item)  # a repeated row counts once
    row, item = np.divmod(pairs, task.truth.num_items)
    whole_T = np.bincount(row, weights=task.rarity[item], minlength=len(users_T))
    return (hits_TK * task.rarity[items_TK]).sum(axis=1) / whole_T


class Summary:
    """Accumulates tiles' tables; its result is the same bits in any order.

    Args:
        degrees_I: training interactions of each item.
    """

    def __init__(self, ks: Sequence[int], degrees_I: NDArray[np.int64]) -> None:
        self.ks, self.degrees_I = tuple(ks), degrees_I
        self.group_I = metrics.groups(degrees_I, GROUPS)
        self.means = {f"{name}@{k}": ExactSum() for k in ks for name in metrics.NAMES}
        self.counts = {k: np.zeros(len(degrees_I), np.int64) for k in ks}
        self.groups = {k: [ExactSum() for _ in range(GROUPS)] for k in ks}

    def add(self, table: pa.Table) -> None:
        """Takes rows as `evaluate_protocols` makes them."""
        for name, total in self.means.items():
            total.add(table[name].to_numpy())
        items_TK, hits_TK = matrix(table["items"]), matrix(table["hits"])
        relevant_T1 = table["relevant"].to_numpy()[:, None]
        for k in self.ks:
            listed = items_TK[:, :k]
            self.counts[k] += np.bincount(listed[listed >= 0], minlength=len(self.degrees_I))
            shares_TG = metrics.group_hits(listed, hits_TK[:, :k], self.group_I, GROUPS) / relevant_T1
            for total, share_T in zip(self.groups[k], shares_TG.T, strict=True):
                total.add(share_T)

    @property
    def num_users(self) -> int:
        return next(iter(self.means.values())).count

    def metrics(self) -> dict[str, float]:
        """Means over users, then F1 of them and the catalogue's metrics, at every K."""
        result = {name: total.mean() for name, total in self.means.items()}
        for k in self.ks:
            result[f"f1@{k}"] = metrics.f1(result[f"precision@{k}"], result[f"recall@{k}"])
            result |= metrics.catalogue(self.counts[k], self.degrees_I, k)
        return result

    def group_recall(self, k: int) -> list[float]:
        """Contribution of each popularity group, least popular first, to recall@k: they add up to it."""
        return [total.mean() for total in self.groups[k]]


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    """[rows, K] of a column of lists of equal length."""
    rows = len(column)
    values = column.combine_chunks().flatten() if rows else pa.array([], pa.int32())
    return values.to_numpy(zero_copy_only=False).reshape(rows, -1 if rows else 0)


def _lists(values_TK: np.ndarray) -> pa.ListArray:
    height, width = values_TK.shape
    offsets = np.arange(height + 1, dtype=np.int32) * width
    return pa.ListArray.from_arrays(offsets, values_TK.reshape(-1))
