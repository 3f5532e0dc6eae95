"""A whole preparation beside plain polars on the same file: repeats, k-core, split; and what train may know of later rows."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import InputError
from tests.inline import inline
from tests.integration.preparing import prepare, raw_rows
from tests.unit.data.dirty import BROKEN, MOSTLY_GOOD, ROWS, Row, polars_keeps, polars_reads, rules, write

SPLITS = ("train", "valid", "test")


def reference(frame: pl.DataFrame, repeats: Any, users: int, items: int) -> dict[str, pl.DataFrame]:
    """Repeats of kept rows in (time, place) order, the k-core to a fixpoint, leave-one-out."""
    frame = frame.with_row_index("place").sort("t", "place")
    frame = frame.unique(["user_id", "item_id"], keep=repeats, maintain_order=True).sort("t", "place")
    while True:
        left = frame.filter((pl.len().over("user_id") >= users) & (pl.len().over("item_id") >= items))
        if len(left) == len(frame):
            break
        frame = left
    from_end = pl.len().over("user_id") - 1 - pl.int_range(pl.len()).over("user_id")
    cut = pl.when(pl.len().over("user_id") < 3).then(2).otherwise(from_end)
    frame = frame.with_columns(cut=cut)
    parts = {"train": pl.col("cut") >= 2, "valid": pl.col("cut") == 1, "test": pl.col("cut") == 0}
    return {name: frame.filter(rule) for name, rule in parts.items()}


def as_rows(frame: pl.DataFrame, has_time: bool) -> list[tuple[Any, ...]]:
    return sorted(frame.select("user_id", "item_id", *["t"] * has_time).iter_rows())


@pytest.mark.parametrize("kind", BROKEN)
@settings(max_examples=8, deadline=None, database=None, derandomize=True)
@given(rows=ROWS | MOSTLY_GOOD, data=st.data())
def test_a_dataset_is_what_polars_makes_of_the_same_file(kind: str, rows: list[Row], data: Any) -> None:
    broken = data.draw(st.lists(st.sampled_from(BROKEN[kind]), max_size=5)) if BROKEN[kind] else []
    repeats = data.draw(st.sampled_from(["first", "last"]))
    users, items = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    with tempfile.TemporaryDirectory() as name, inline():
        folder = Path(name)
        source = write(folder, kind, rows, broken)
        more = {"repeats": repeats, "k_core": {"users": users, "items": items}, "split": {"by": "leave_one_out"}}
        read = polars_reads(source, kind)
        kept, good = polars_keeps(read)
        wanted = reference(kept, repeats, users, items)
        if not len(wanted["train"]):
            with pytest.raises(InputError, match="no row is left after|takes at least one row"):
                prepare(source, folder, **rules(kind), **more)
            return
        dataset, manifest = prepare(source, folder, **rules(kind), **more)
        assert {split: raw_rows(dataset, split) for split in SPLITS} == {
            split: as_rows(frame, manifest["has_time"]) for split, frame in wanted.items()
        }
        counts = manifest["counts"]
        assert (counts["read"], counts["kept"]) == (len(read) + len(broken), len(kept))
        assert sum(counts["filtered"].values()) == good - len(kept)
        assert counts["repeats"] == len(kept) - kept.n_unique(["user_id", "item_id"])


def futures(folder: Path, split: dict[str, Any]) -> list[tuple[list[tuple[Any, ...]], pl.DataFrame]]:
    """(rows of train, the past) of two logs whose rows before time 60 are the same, and of no other."""
    random = np.random.default_rng(0)
    past = pl.DataFrame({"user_id": random.integers(0, 30, 400), "item_id": random.integers(0, 40, 400)})
    past = past.with_columns(t=pl.Series(random.integers(0, 60, 400)).cast(pl.Float64))
    out = []
    for n, rows in enumerate((900, 25)):
        later = pl.DataFrame({"user_id": random.integers(0, 60, rows), "item_id": random.integers(0, 80, rows)})
        later = later.with_columns(t=pl.Series(random.uniform(60, 99, rows).round(n)))
        log = pl.concat([past, later]).sample(fraction=1.0, shuffle=True, seed=1) if n else pl.concat([later, past])
        log.write_csv(folder / f"{n}.csv")
        dataset, _ = prepare(folder / f"{n}.csv", folder / str(n), columns={"time": "t"}, split=split)
        out.append((raw_rows(dataset, "train"), past))
    return out


@pytest.mark.parametrize("unknown", ["drop", "keep"])
def test_train_does_not_depend_on_what_comes_after_the_cut(tmp_path: Path, unknown: str) -> None:
    """Without a k-core: other users, items, repeats and kinds of times come later, and train has the same rows."""
    with inline():
        split = {"by": "temporal", "valid_from": 60, "test_from": 80, "unknown": unknown}
        (one, past), (other, _) = futures(tmp_path, split)
    first = past.sort("t").unique(["user_id", "item_id"], keep="first").cast({"user_id": pl.String, "item_id": pl.String})
    assert one == other == as_rows(first, has_time=True)


def test_train_of_another_split_does(tmp_path: Path) -> None:
    with inline():
        (one, _), (other, _) = futures(tmp_path, {"by": "leave_one_out"})
    assert one != other
