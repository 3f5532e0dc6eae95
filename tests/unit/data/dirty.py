"""Logs with every fault, written in each format, and what plain polars reads of such a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import strategies as st

from tests.unit.data.cleaned import file

Row = tuple[str, str, str, str]
NAMES = ("user_id", "item_id", "rating", "t")
IDS = st.sampled_from(["a", "b", "007", "7", "é", " x", ""])
RATINGS = st.sampled_from(["1", "2", "4.5", "-2", "5", "nan", "", "five", "1e2"])
TIMES = st.sampled_from(["0", "12", "-3", "1500000000", "2.5", "soon", "", "inf"])
ROWS = st.lists(st.tuples(IDS, IDS, RATINGS, TIMES), min_size=1, max_size=60)
MOSTLY_GOOD = st.lists(  # repeats, ties in time, and users and items that a k-core drops
    st.tuples(
        st.sampled_from(["a", "b", "é", "7", "007", ""]),
        st.sampled_from(["x", "y", "z", "7", " x", "v", "w"]),
        st.sampled_from(["2", "3", "4.5", "5", "1", "five"]),
        st.sampled_from(["0", "1", "2", "3", "12", "2.5", "soon"]),
    ),
    min_size=25,
    max_size=80,
)
BROKEN = {
    "csv": ["a", "a,b,c,1,9", 'a,"b,3,1'],
    "tsv": ["a", "a\tb\tc\t1\t9"],
    "inter": ["a", "a\tb\tc\t1\t9"],
    "jsonl": ["{", "[1]", "7"],
    "parquet": [],
    "lightgcn": [],
}
RULES: dict[str, Any] = {"columns": {"time": "t"}, "keep": [{"column": "rating", "at_least": 2}]}


def rules(kind: str) -> dict[str, Any]:
    return {"format": "lightgcn"} if kind == "lightgcn" else RULES


def write(folder: Path, kind: str, rows: list[Row], broken: list[str]) -> Path:
    """The broken lines are in the middle. Of LightGCN's files there are users and items alone, by their tokens."""
    if kind == "parquet":
        path = folder / "log.parquet"
        pl.DataFrame(rows, schema=dict.fromkeys(NAMES, pl.String), orient="row").write_parquet(path, row_group_size=7)
        return path
    header: list[str] = []
    if kind == "jsonl":
        lines = [json.dumps(dict(zip(NAMES, row, strict=True))) for row in rows]
    elif kind == "lightgcn":
        lines = [f"{row[0]} {row[1]} {row[0]}" for row in rows]
    else:
        between = "," if kind == "csv" else "\t"
        lines = [between.join(row) for row in rows]
        header = [between.join(f"{name}:token" if kind == "inter" else name for name in NAMES)]
    middle = len(lines) // 2
    text = "\n".join([*header, *lines[: middle + 1], *broken, *lines[middle + 1 :]]).encode()
    return file(folder, text, f"log.{kind}")


def polars_reads(path: Path, kind: str) -> pl.DataFrame:
    """The file's whole rows, as text, in their order: lines are split, and those of other fields than the header dropped."""
    if kind == "parquet":
        return pl.read_parquet(path)
    lines = pl.DataFrame({"line": path.read_text().split("\n")})
    if kind == "jsonl":
        whole = lines.filter(pl.col("line").str.starts_with('{"'))
        return whole.select(pl.col("line").str.json_decode(pl.Struct(dict.fromkeys(NAMES, pl.String)))).unnest("line")
    if kind == "lightgcn":
        tokens = lines.select(pl.col("line").str.extract_all(r"\S+").alias("tokens"))
        pairs = tokens.select(pl.col("tokens").list.first().alias("user_id"), pl.col("tokens").list.slice(1).alias("item_id"))
        return pairs.explode("item_id").drop_nulls()
    fields = lines[1:].select(pl.col("line").str.split("," if kind == "csv" else "\t"))
    whole = fields.filter((pl.col("line").list.len() == len(NAMES)) & ~pl.col("line").list.join("").str.contains('"'))
    return whole.select(pl.col("line").list.get(n).alias(name) for n, name in enumerate(NAMES))


def polars_keeps(frame: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """(rows that can be used and pass RULES, how many rows can be used); casts give null where there is no number."""
    if "t" not in frame.columns:
        return frame.with_columns(t=pl.lit(0.0)), len(frame)
    numbers = [pl.col(name).cast(pl.Float64, strict=False) for name in ("rating", "t")]
    good = frame.with_columns(numbers).filter(
        (pl.col("user_id") != "") & (pl.col("item_id") != "") & pl.col("rating").is_finite() & pl.col("t").is_finite()
    )
    return good.filter(pl.col("rating") >= 2), len(good)
