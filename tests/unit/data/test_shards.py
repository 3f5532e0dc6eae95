"""The stages after reading, in one process: order, repeats, k-core, ids, titles."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import storage
from components.config import Data, Titles
from components.data import partitions, shards, vocabulary
from components.data.shards import Numbering, ShardFiles
from components.errors import InputError
from tests.unit.data.cleaned import file


def collect(folder: Path, num_shards: int = 1, item_parts: int = 1, repeats: str = "first", **columns: Any) -> list[ShardFiles]:
    """Cuts rows into shards in two pieces, collects each shard and makes the vocabulary."""
    table = pa.table(columns)
    half = table.num_rows // 2
    pieces = [folder / f"{n}.arrow" for n in range(2)]
    for piece, rows in zip(pieces, (table.slice(0, half), table.slice(half)), strict=True):
        partitions.write(rows, partitions.of(rows["user"], num_shards), num_shards, piece)
    files = [ShardFiles(folder, n) for n in range(num_shards)]
    for each in files:
        shards.collect(pieces, each.shard, each, repeats, ["train", "valid", "test"], item_parts)
    items, places = [each.items for each in files], [folder / "places" / f"{n}.arrow" for n in range(item_parts)]
    merged = [vocabulary.merge(items, n, vocabulary_of(folder, n), place) for n, place in enumerate(places)]
    offsets = [0, *itertools.accumulate(found.items for found in merged)]
    for each in files:
        shards.encode(each, places, offsets[:-1])
    return files


def vocabulary_of(folder: Path, part: int) -> Path:
    return folder / "vocabulary" / f"{part}.arrow"


def rows_of(files: ShardFiles) -> list[tuple[Any, Any, Any]]:
    table = partitions.read_all(files.rows)
    users = partitions.read_all(files.users)["raw"].to_pylist()
    items = partitions.read_all(files.items)["raw"].to_pylist()
    times = table["time"].to_pylist() if "time" in table.column_names else [None] * table.num_rows
    codes = zip(table["user"].to_pylist(), table["item"].to_pylist(), times, strict=True)
    return [(users[u], items[i], t) for u, i, t in codes]


LOG = {
    "user": ["b", "a", "b", "a", "b", "b"],
    "item": ["x", "y", "z", "x", "x", "y"],
    "time": pa.array([5, 9, 3, 9, 1, 3], pa.int64()),
    "fraction": [0.0, 0.5, 0.0, 0.25, 0.0, 0.0],
}


def test_rows_are_in_order_of_user_time_and_place(tmp_path: Path) -> None:
    (files,) = collect(tmp_path, **LOG)
    assert rows_of(files) == [("a", "x", 9), ("a", "y", 9), ("b", "x", 1), ("b", "z", 3), ("b", "y", 3)]


def test_the_last_repeat_can_be_kept(tmp_path: Path) -> None:
    (files,) = collect(tmp_path, repeats="last", **LOG)
    assert rows_of(files) == [("a", "x", 9), ("a", "y", 9), ("b", "z", 3), ("b", "y", 3), ("b", "x", 5)]


def test_a_pair_in_two_given_splits_is_no_repeat(tmp_path: Path) -> None:
    (files,) = collect(tmp_path, user=[1, 1, 1], item=[7, 7, 7], split=["test", "train", "test"])
    assert partitions.read_all(files.rows)["split"].to_pylist() == [2, 0]


def test_a_users_rows_are_in_one_shard_and_none_is_lost(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    user, item = random.integers(-50, 50, 2000), random.integers(0, 30, 2000)
    files = collect(tmp_path, num_shards=7, item_parts=3, user=user, item=[f"i{n}" for n in item])
    found = [row[:2] for each in files for row in rows_of(each)]
    assert len(found) == len(set(found))
    assert set(found) == {(int(u), f"i{i}") for u, i in zip(user, item, strict=True)}
    homes = Counter(user for each in files for user in {row[0] for row in rows_of(each)})
    assert set(homes.values()) == {1}


@pytest.mark.parametrize("at_once", [1, 40, 1 << 20])
def test_codes_are_places_in_the_vocabulary_however_few_ids_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Each item is in the vocabulary once, and every shard's code leads to its own ids."""
    monkeypatch.setattr(vocabulary, "AT_ONCE", at_once)
    random = np.random.default_rng(1)
    user, item = random.integers(0, 70, 900), [f"i{n}" for n in random.integers(0, 200, 900)]
    files = collect(tmp_path, num_shards=5, item_parts=3, user=user, item=item)
    ids = pa.concat_tables([partitions.read_all(vocabulary_of(tmp_path, n)) for n in range(3)])["raw"].to_pylist()
    assert sorted(ids) == sorted(set(item))
    for each in files:
        own = partitions.read_all(each.items)["raw"].to_pylist()
        assert [ids[code] for code in each.read_codes()] == own
        assert own


def exact_core(pairs: set[tuple[int, int]], per_user: int, per_item: int) -> set[tuple[int, int]]:
    """The definition: drop rows of too rare users and items until none is left to drop."""
    while True:
        users, items = Counter(u for u, _ in pairs), Counter(i for _, i in pairs)
        left = {(u, i) for u, i in pairs if users[u] >= per_user and items[i] >= per_item}
        if left == pairs:
            return pairs
        pairs = left


@pytest.mark.parametrize(("per_user", "per_item"), [(1, 1), (2, 3), (3, 1), (1, 4), (4, 4), (40, 40)])
def test_k_core_is_the_largest_set_that_meets_both_demands(tmp_path: Path, per_user: int, per_item: int) -> None:
    random = np.random.default_rng(per_user * 10 + per_item)
    user, item = random.integers(0, 60, 500), random.zipf(1.3, 500) % 50
    files = collect(tmp_path, num_shards=4, item_parts=2, user=user, item=item)
    alive, small = np.ones(len(np.unique(item)), bool), dict.fromkeys(files, False)
    while True:
        total = np.zeros(len(alive), np.int64)
        for each in files:
            found, read = shards.count(each, alive, per_user), each.living if small[each] else each.rows
            again = shards.count(each, alive, per_user, small[each])  # of fewer rows, and the same
            assert (again.users, again.rows, again.codes.tolist()) == (found.users, found.rows, found.codes.tolist())
            assert again.counts.tolist() == found.counts.tolist()
            small[each] = again.shrunk
            if 2 * found.rows < partitions.read_all(read).num_rows:
                assert partitions.read_all(each.living).num_rows == found.rows
            total[found.codes] += found.counts
        left = alive & (total >= per_item)
        if (left == alive).all():
            break
        alive = left
    core = set()
    for each in files:
        table = partitions.read_all(each.rows)
        code = each.read_codes()[table["item"].to_numpy()]
        kept = shards.survivors(table["user"].to_numpy(), code, alive, per_user)
        core |= {row[:2] for row, good in zip(rows_of(each), kept, strict=True) if good}
    assert core == exact_core(set(zip(user.tolist(), item.tolist(), strict=True)), per_user, per_item)
    assert (not core) == (per_user == 40)


def test_a_shard_writes_contiguous_ids_and_float_times(tmp_path: Path) -> None:
    (files,) = collect(tmp_path, **LOG)
    data = Data.model_validate({"source": "/log", "split": {"by": "leave_one_out"}})
    numbering = Numbering(10, True, ["train", "valid", "test"])
    found, made = shards.finish(files, tmp_path / "out", data, 0, numbering, np.array([1, -1, 0], np.int32))  # x, y, z
    assert made == {
        str(path.relative_to(tmp_path / "out")): storage.entry(path) for path in (tmp_path / "out").glob("*/*.parquet")
    }
    assert len(made) == 4
    rows = {s: pq.read_table(tmp_path / "out" / s / "part-00000.parquet").to_pylist() for s in ("train", "valid", "test")}
    assert rows["train"] == [
        {"user": 10, "item": 1, "time": 9.25},
        {"user": 11, "item": 1, "time": 1.0},
        {"user": 11, "item": 0, "time": 3.0},
    ]
    assert rows["valid"] == rows["test"] == []
    users = pq.read_table(tmp_path / "out" / "users.parquet" / "part-00000.parquet").to_pylist()
    assert users == [{"id": 10, "raw": "a", "degree": 1}, {"id": 11, "raw": "b", "degree": 2}]
    assert (found.users, found.single, found.rows) == (2, 1, {"train": 3, "valid": 0, "test": 0})


@pytest.mark.parametrize("at_once", [1, 1 << 20])
def test_titles_join_by_the_text_of_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(vocabulary, "AT_ONCE", at_once)
    lines = "7\tSeven\n007\tBond\n7\tAgain\n9\t\nx\tX\n9223372036854775808\tToo large\n-3\tMinus\n"
    path = file(tmp_path, f"item_id:token\ttitle:token_seq\n{lines}", "log.item")
    titles = Titles(source=str(path), title="title")
    logs: list[tuple[Literal["int64", "string"], dict[Any, Any]]] = [
        ("int64", {9: None, 7: "Seven", 8: None, -3: "Minus"}),
        ("string", {"007": "Bond", "7": "Seven"}),
    ]
    for kind, wanted in logs:
        folder = tmp_path / kind
        cut = [folder / name for name in vocabulary.cut_titles(titles, "utf-8", kind, 3, folder)]
        part = partitions.of(pa.array(list(wanted)), 3)
        for n in range(3):
            raw = pa.array([each for each, own in zip(wanted, part, strict=True) if own == n], pa.array(list(wanted)).type)
            assert vocabulary.titles_of(raw, n, cut).to_pylist() == [wanted[each] for each in raw.to_pylist()]
    with pytest.raises(InputError, match=r"data\.titles\.title: got 'name', not in .*log\.item; takes one of item_id, title"):
        vocabulary.check_titles(Titles(source=str(path), title="name"), "utf-8")
    with pytest.raises(InputError, match=r"^data\.titles\.source: .*nowhere\.item: No such file"):
        vocabulary.check_titles(Titles(source=str(tmp_path / "nowhere.item")), "utf-8")


def test_hashes_tell_ids_apart_and_do_not_see_chunks() -> None:
    texts = [f"{a}{b}" for a in ("", "x", "xx", "é", "\0") for b in range(2000)] + ["", "\0"]
    array = pa.array(texts)
    hashes = partitions.stable_hash(array)
    assert len(np.unique(hashes)) == len(set(texts))
    assert (partitions.stable_hash(array.slice(17, 300)) == hashes[17:317]).all()
    assert (partitions.stable_hash(pa.chunked_array([array.slice(0, 5), array.slice(5)])) == hashes).all()
    integers = partitions.stable_hash(pa.array(np.arange(-5000, 5000)))
    shares = np.bincount((integers % np.uint64(8)).astype(int)) / 10000
    assert np.abs(shares - 1 / 8).max() < 0.02


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk"), partitions.Atomic(tmp_path / "file") as partial:
        partial.write_text("half")
        raise OSError("disk")
    assert not list(tmp_path.iterdir())
