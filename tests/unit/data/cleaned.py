"""Runs a source through inspection, reading and cleaning, in this process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.config import Data
from components.data import cleaning, sources
from components.data.cleaning import Counts
from components.data.sources import SourcePlan


@dataclass(frozen=True)
class Result:
    plan: SourcePlan
    kept: pa.Table
    refused: list[dict[str, Any]]
    counts: Counts

    @property
    def pairs(self) -> list[tuple[Any, Any]]:
        return list(zip(self.kept["user"].to_pylist(), self.kept["item"].to_pylist(), strict=True))

    @property
    def reasons(self) -> list[str]:
        return [row["reason"] for row in self.refused]


def clean(
    source: str | Path | list[Path], part_bytes: int = sources.PART_BYTES, part_rows: int = sources.PART_ROWS, **data: Any
) -> Result:
    """`line` of refused rows counts from 1 in each part, the header apart."""
    paths = [str(path) for path in source] if isinstance(source, list) else str(source)
    rules = Data.model_validate({"source": paths, **data})
    plan = sources.inspect(rules)
    parts = plan.parts(part_bytes, part_rows)
    blocks = [block for part in parts for block in cleaning.clean_part(part, rules, plan)]
    kept = pa.concat_tables([kept_schema(rules, plan).empty_table(), *(block.kept for block in blocks)])
    refused = [row for block in blocks for row in block.refused.to_pylist()]
    return Result(plan, kept, refused, sum((block.counts for block in blocks), Counts()))


def kept_schema(data: Data, plan: SourcePlan) -> pa.Schema:
    """The columns of `Cleaned.kept`."""
    kinds = {"int64": pa.int64(), "string": pa.string()}
    fields = [("user", kinds[plan.user_type]), ("item", kinds[plan.item_type])]
    if plan.time_kind:
        fields.append(("time", pa.int64()))
    if plan.fractions:
        fields.append(("fraction", pa.float64()))
    if data.split.by == "given":
        fields.append(("split", pa.string()))
    return pa.schema(fields)


def file(folder: Path, content: str | bytes, name: str = "log.csv") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
