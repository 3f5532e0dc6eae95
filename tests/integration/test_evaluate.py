"""Ranking on a real Ray cluster: any number of actors gives the same bits."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.config import Scale
from components.data.interactions import Interactions
from components.evaluation import exact
from components.evaluation.baselines import MostPopular
from components.evaluation.evaluate import Task, evaluate_protocols, matrix
from components.evaluation.protocols import Protocol
from components.evaluation.ranking import Ranker
from components.evaluation.scorers import Factors
from ray_jobs import _ranking
from tests.unit.evaluation.worlds import world

KS = [5, 20]
load = functools.partial(world, num_users=2300, num_items=700, width=32)


pytestmark = pytest.mark.usefixtures("cluster")


def load_popular() -> tuple[MostPopular, Task]:
    _, task = load()
    return MostPopular(task.seen), task


def evaluated(num_workers: int, out: Sequence[Mapping[Protocol, Path]]) -> list[_ranking.Ranked]:
    _, task = load()
    loads = (load, load_popular)
    return _ranking.evaluate(loads, task.num_tiles, KS, task.seen.item_degrees(), Scale(num_workers=num_workers), out)


def test_one_two_and_three_workers_give_the_same_bits(tmp_path):
    protocols: tuple[Protocol, ...] = ("masked", "not_masked")
    files: dict[int, list[dict[Protocol, Path]]] = {
        workers: [{p: tmp_path / f"{workers}-{scorer}-{p}.parquet" for p in protocols} for scorer in range(2)]
        for workers in (1, 2, 3)
    }
    found = {workers: evaluated(workers, files[workers]) for workers in files}
    factors, task = load()
    for scorer in range(2):
        assert all(value > 0 for value in found[1][scorer].microseconds_per_user.values())
        for protocol in protocols:
            one, table = found[1][scorer].summaries[protocol], pq.read_table(files[1][scorer][protocol])
            for workers in (2, 3):
                other = found[workers][scorer].summaries[protocol]
                assert other.metrics() == one.metrics()
                assert [other.group_recall(k) for k in KS] == [one.group_recall(k) for k in KS]
                assert pq.read_table(files[workers][scorer][protocol]).equals(table)
            assert table["user"].to_pylist() == task.users.tolist()
            assert one.num_users == len(task.users)
            for name in ("recall@5", "ndcg@20"):
                assert exact.mean(table[name].to_numpy()) == one.metrics()[name] > 0
    assert found[1][0].summaries["masked"].metrics() != found[1][1].summaries["masked"].metrics()
    last = task.num_tiles - 1  # each file has its own protocol's lists
    here = evaluate_protocols(Ranker(factors, task.seen, max(KS)), task, last, KS, protocols)
    for protocol, table in here.items():
        kept = pq.read_table(files[2][0][protocol])
        assert matrix(kept["items"])[-len(table) :].tolist() == matrix(table["items"]).tolist()


def load_seen() -> tuple[Factors, Interactions]:
    factors, task = load()
    return factors, task.seen


@pytest.mark.parametrize("workers", [1, 3])
def test_recommendations_are_the_rankers_lists_in_the_sources_ids(tmp_path, workers):
    factors, seen = load_seen()
    raw_items = pa.array([f"item-{n:04d}" for n in range(seen.num_items)])
    parts = []
    for n, start in enumerate((0, 1500)):
        ids = range(start, (1500, 2300)[n])
        parts.append(tmp_path / f"users-{n}.parquet")
        pq.write_table(pa.table({"id": pa.array(ids, pa.int32()), "raw": [10 * i for i in ids]}), parts[-1])
    out, done = tmp_path / "out", tmp_path / "done"
    out.mkdir()
    done.mkdir()
    rows = _ranking.recommend(load_seen, parts, raw_items, 7, Scale(num_workers=workers), out, done)
    table = pa.concat_tables(pq.read_table(part) for part in sorted(out.glob("part-*.parquet")))
    assert table.num_rows == rows == 7 * 2300
    assert table.schema.names == ["user", "item", "rank", "score"]
    assert table.schema.types == [pa.int64(), pa.string(), pa.int32(), pa.float32()]
    lists = table.to_pandas().groupby("user", sort=True)
    users = [0, 255, 256, 1499, 1500, 2299]
    items_TK, scores_TK = Ranker(factors, seen, 7).top(pa.array(users).to_numpy())
    for row, user in enumerate(users):
        got = lists.get_group(10 * user)
        assert got["rank"].tolist() == [1, 2, 3, 4, 5, 6, 7]
        assert got["item"].tolist() == [f"item-{item:04d}" for item in items_TK[row]]
        assert all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(got["score"], scores_TK[row], strict=True))
        assert not {int(item[5:]) for item in got["item"]} & set(seen.items_of(user).tolist())


def test_no_users_no_rows(tmp_path):
    pq.write_table(pa.table({"id": pa.array([], pa.int32()), "raw": pa.array([], pa.int64())}), tmp_path / "u.parquet")
    assert _ranking.recommend(load_seen, [tmp_path / "u.parquet"], pa.array([1]), 7, Scale(), tmp_path, tmp_path) == 0
