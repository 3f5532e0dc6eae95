"""What became of every row of every file: read = kept + filtered + quarantined."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.data import partitions
from components.data.cleaning import Counts

MOST_LISTED = 100  # files in the manifest; more are beside it
BESIDE = "files.parquet"
SCHEMA = pa.schema([("file", pa.string()), ("outcome", pa.string()), ("reason", pa.string()), ("rows", pa.int64())])


def of_files(parts: Iterable[tuple[str, Counts]], bad: Mapping[str, str]) -> list[dict[str, Any]]:
    """From (file, counts) of each part; of a file that was put aside it is not known how many rows it has."""
    sums: dict[str, Counts] = {}
    for file, counts in parts:
        sums[file] = sums.get(file, Counts()) + counts
    good = [
        {
            "file": file,
            "read": counts.read,
            "kept": counts.kept,
            "filtered": dict(counts.filtered),
            "quarantined": dict(counts.quarantined),
        }
        for file, counts in sums.items()
    ]
    return good + [{"file": file, "put_aside": reason} for file, reason in bad.items()]


def write_beside(files: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """A row for each file, outcome and reason; null rows of a file that was put aside. Returns what was made, as entries."""
    rows: list[dict[str, Any]] = []
    for file in files:
        one = {"file": file["file"]}
        if "put_aside" in file:
            rows.append({**one, "outcome": "put aside", "reason": file["put_aside"], "rows": None})
            continue
        rows.append({**one, "outcome": "kept", "reason": None, "rows": file["kept"]})
        for outcome in ("filtered", "quarantined"):
            rows += [{**one, "outcome": outcome, "reason": why, "rows": n} for why, n in sorted(file[outcome].items())]
    name = f"{BESIDE}/part-00000.parquet"
    return {name: partitions.write_parquet(pa.Table.from_pylist(rows, schema=SCHEMA), folder / name)}
