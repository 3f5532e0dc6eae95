"""Small logs, recipes of their preparation, and what a prepared folder must be like."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from components import config, storage
from components.config import Recipe
from ray_jobs import _dataflow
from ray_jobs._dataflow import Sizes

ROOT = Path(__file__).parents[2]
Source = str | Path | dict[str, str]
SMALL = Sizes(rows_per_shard=300, part_bytes=4000, part_rows=300)  # several of everything


def recipe_text(source: Source, storage_path: Path, **data: Any) -> str:
    tree = {
        "name": "prepared",
        "data": {"source": source if isinstance(source, dict) else str(source), **data},
        "encoder": {"name": "mf", "dim": 8},
        "loss": {"name": "sampled_softmax", "temperature": 0.2},
        "negatives": [{"name": "in_batch"}],
        "scale": {"storage_path": str(storage_path)},
    }
    return json.dumps(tree)


def recipe(source: Source, storage_path: Path, seed: int = 0, **data: Any) -> Recipe:
    return config.parse({**json.loads(recipe_text(source, storage_path, **data)), "seed": seed})


def prepare(
    source: Source, storage_path: Path, sizes: Sizes = SMALL, seed: int = 0, **data: Any
) -> tuple[Path, dict[str, Any]]:
    folder = _dataflow.prepare(recipe(source, storage_path, seed, **data), report=lambda line: None, sizes=sizes)
    manifest = storage.open_finished(folder, "dataset")
    check_layout(folder, manifest)
    return folder, manifest


def check_layout(folder: Path, manifest: dict[str, Any]) -> None:
    """What everybody who reads a dataset relies on."""
    counts = manifest["counts"]
    refused, filtered = sum(counts["quarantined"].values()), sum(counts["filtered"].values())
    assert counts["read"] == counts["kept"] + filtered + refused
    assert counts["kept"] == counts["left"] + counts["repeats"] + counts["k_core"] + sum(counts["unknown"].values())
    assert counts["left"] == sum(manifest["rows"].values())
    quarantine = folder / "quarantine"
    assert refused == (pq.read_table(quarantine).num_rows if quarantine.exists() else 0)
    for kind, number in (("users", manifest["num_users"]), ("items", manifest["num_items"])):
        table = parts(folder / f"{kind}.parquet")
        assert table["id"].to_list() == list(range(number))
        assert table["raw"].n_unique() == number
    for split, number in manifest["rows"].items():
        table = parts(folder / split)
        assert len(table) == number
        assert table["user"].is_sorted()
        if manifest["has_time"] and number:
            assert table.group_by("user").agg(pl.col("time").is_sorted())["time"].all()
        else:
            assert "time" not in table.columns or manifest["has_time"]
    hidden = [path for path in folder.rglob("*") if path.name.startswith(".")]
    assert not hidden, "work and locks are gone"


def parts(folder: Path) -> pl.DataFrame:
    """Part files in the order of their names."""
    files = sorted(folder.glob("*.parquet"))
    assert files, f"{folder} has part files"
    return pl.concat([pl.read_parquet(path) for path in files])


def raw_rows(folder: Path, split: str) -> list[tuple[Any, ...]]:
    """A split with the source's own ids, sorted."""
    users, items = (parts(folder / f"{kind}.parquet")["raw"] for kind in ("users", "items"))
    rows = parts(folder / split)
    columns = [users.gather(rows["user"]), items.gather(rows["item"])] + ([rows["time"]] if "time" in rows.columns else [])
    return sorted(zip(*(column.to_list() for column in columns), strict=True))


def contents(folder: Path) -> dict[str, str]:
    """Checksums of a dataset's files as they lie there, which are all that its manifest lists and as it lists them."""
    found = {path.relative_to(folder).as_posix(): storage.entry(path) for path in folder.rglob("*") if path.is_file()}
    del found[storage.MANIFEST]
    listed = storage.read_json(folder / storage.MANIFEST)["files"]
    assert found == listed, f"{sorted(found.keys() ^ listed.keys())} differ, or what is in files of one name"
    return {name: entry["sha256"] for name, entry in found.items()}


def write_log(path: Path, rows: int = 1500, seed: int = 0) -> Path:
    """Users uniform over 80, items by Zipf's law (exponent 1) over 60, with repeats, faults and low ratings."""
    random = np.random.default_rng(seed)
    law = 1 / np.arange(1, 61)
    users, items = random.integers(0, 80, rows), random.choice(60, rows, p=law / law.sum())
    ratings, times = random.integers(1, 6, rows), random.integers(0, 500, rows)
    lines = [f"u{u:03d},{i},{r},{t}" for u, i, r, t in zip(users, items, ratings, times, strict=True)]
    lines[7], lines[900], lines[1400] = "u001,5,bad,1", "u001,5", ",5,5,1"
    path.write_text("user_id,item_id,rating,t\n" + "\n".join(lines) + "\n")
    return path


RULES = {
    "columns": {"time": "t"},
    "keep": [{"column": "rating", "at_least": 2}],
    "k_core": {"users": 4, "items": 5},
    "split": {"by": "ratio", "valid": 0.1, "test": 0.2, "order": "random"},
}


def program(recipe_file: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ray_jobs.prepare", str(recipe_file), *arguments]
    own = {**os.environ, "RAY_AUTH_MODE": "disabled", **environment}
    own.pop("RAY_ADDRESS", None)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=own, text=True, start_new_session=True, **pipes)  # pyright: ignore
