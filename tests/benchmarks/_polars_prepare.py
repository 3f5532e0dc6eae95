"""What prepare does, in one polars process over one table: python -m tests.benchmarks._polars_prepare SOURCE OUT CORE."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import polars as pl

from tests.benchmarks import _memory


def prepare(source: Path, out: Path, core: int) -> dict[str, dict[str, float]]:
    """First rows of repeats by (time, place), k-core, ids from 0, leave-one-out, Parquet; seconds of each stage and rows."""
    seconds: dict[str, float] = {}
    since = time.perf_counter()

    def done(stage: str) -> None:
        nonlocal since
        seconds[stage], since = time.perf_counter() - since, time.perf_counter()

    frame = pl.read_parquet(source / "*.parquet").with_row_index("place")
    done("read")
    frame = frame.sort("user_id", "item_id", "t", "place")  # by sorts: `unique` in order takes half as much again
    again = (pl.col("user_id") == pl.col("user_id").shift()) & (pl.col("item_id") == pl.col("item_id").shift())
    frame = frame.filter(~again.fill_null(False)).sort("user_id", "t", "place")
    done("collect")
    while True:
        left = frame.filter((pl.len().over("user_id") >= core) & (pl.len().over("item_id") >= core))
        if len(left) == len(frame):
            break
        frame = left
    done("k-core")
    for name in ("user_id", "item_id"):
        ids = frame.select(pl.col(name).unique().sort()).with_row_index(f"{name}_code")
        frame = frame.join(ids, on=name, maintain_order="left")
        out.mkdir(exist_ok=True)
        ids.write_parquet(out / f"{name}.parquet")
    done("vocabulary")
    frame = frame.select(
        pl.col("user_id_code").cast(pl.Int32).alias("user"), pl.col("item_id_code").cast(pl.Int32).alias("item"), "t"
    ).with_columns(pl.int_range(pl.len()).over("user").alias("from_start"), pl.len().over("user").alias("length"))
    last = pl.col("length") - pl.col("from_start")
    test, valid = (last == 1) & (pl.col("length") >= 3), (last == 2) & (pl.col("length") >= 3)
    rows = {}
    for name, part in (("train", ~(test | valid)), ("valid", valid), ("test", test)):
        split = frame.filter(part).select("user", "item", "t")
        split.write_parquet(out / f"{name}.parquet", compression="zstd")
        rows[name] = float(len(split))
    done("write")
    return {"seconds": seconds, "rows": rows}


if __name__ == "__main__":
    Path("/proc/self/oom_score_adj").write_text("1000")  # where memory runs out, it is this process that the kernel ends
    made = prepare(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps({**made, "peak": _memory.mark()}))
