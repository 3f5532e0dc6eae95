"""The driver of a recommendation: which users, which files, and a look at five of the lists."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from components import storage
from components.config import Recipe
from components.data.arrow import pc
from components.data.interactions import Interactions
from components.errors import InputError
from components.evaluation import ranking, splits
from components.evaluation.scorers import Scorer
from components.reports import tables
from components.training import checkpoint
from ray_jobs import _program, _ranking, _results, _tracking

EXAMPLES = 5
EXAMPLE_K = 10


def recommend(recipe: Recipe, run: Path, dataset: Path, users: str | None, k: int, k_name: str) -> _results.Recommended:
    """Writes the lists of all users, or of those given, to `run`/recommendations.

    Whatever a user is known to have consumed, in train, valid or test, is not recommended again. After a kill the same request
    goes on with the parts that it lacks.

    Raises:
        InputError: run and dataset do not belong together, K exceeds the catalogue, or a user is not in the dataset.
    """
    trained = checkpoint.open_run(run, dataset)
    ranking.check_k(k, storage.read_json(dataset / storage.MANIFEST)["num_items"], k_name)
    parts = sorted((dataset / "users.parquet").glob("*.parquet"))
    chosen = _chosen(parts, users) if users is not None else None
    out, scratch = run / "recommendations", run / ".recommending"
    items = pq.read_table(dataset / "items.parquet").sort_by("id")
    with storage.lock(scratch):
        ids = None if chosen is None else chosen["id"].to_pylist()
        manifests = [storage.digest(folder / storage.MANIFEST) for folder in (run, dataset)]
        own = _own(scratch, [manifests, ids, k, recipe.scale.cpus_per_worker])  # what decides the bytes
        work, done = own / "lists", own / "done"
        for folder in (work, done):
            folder.mkdir(parents=True, exist_ok=True)
        if chosen is not None:
            parts = [own / "users.parquet"]
            pq.write_table(chosen, parts[0])
        num_users = sum(pq.read_metadata(part).num_rows for part in parts)
        with _program.cluster():
            load = functools.partial(_model, run, dataset)
            rows = _ranking.recommend(load, parts, items["raw"].combine_chunks(), k, recipe.scale, work, done)
        for path in work.glob(".*"):  # what actors left unfinished
            path.unlink()
        about = {"kind": "recommendations", "run": run.name, "dataset": trained.manifest["dataset"], "k": k, "rows": rows}
        storage.finish(work, about)
        shutil.rmtree(out, ignore_errors=True)
        work.rename(out)
        shutil.rmtree(own)
    with contextlib.suppress(OSError):  # the next one holds it already
        scratch.rmdir()
    _show(out, items, trained.manifest["name"])
    print(f"{rows:,} rows: {out}\nthe run in MLflow: {_tracking.how_to_open(run)}")
    return _results.Recommended(folder=str(out), users=num_users, k=k, rows=rows)


def _own(scratch: Path, asked: Any) -> Path:
    """The folder of one request, as a killed program may have left it; those of others are removed.

    Not one for all: a killed program's actors write for some seconds more, and may do so where nobody takes it for his own.
    """
    own = scratch / hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]
    for folder in scratch.iterdir():
        if folder.is_dir() and folder != own:
            shutil.rmtree(folder, ignore_errors=True)
    return own


def _chosen(parts: list[Path], users: str) -> pa.Table:
    """(id, raw) of the users named by a file of one id per line, or by ids with commas between them."""
    path = Path(users)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else users.split(",")
    texts = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not texts:
        raise InputError(f"--users: got {users!r}, takes a file of ids, one per line, or ids with commas between them")
    wanted = pa.array(texts)
    found = []
    for part in parts:
        table = pq.read_table(part, columns=["id", "raw"])
        found.append(table.filter(pc.is_in(pc.cast(table["raw"], pa.string()), value_set=wanted)))
    chosen = pa.concat_tables(found)
    missing = sorted(set(texts) - set(pc.cast(chosen["raw"], pa.string()).to_pylist()))
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise InputError(f"--users: got {', '.join(missing[:5])}{more}, takes ids of users in the dataset")
    return chosen


def _show(out: Path, items: pa.Table, name: str) -> None:
    """Five users' lists, by title where there is one."""
    k = storage.read_json(out / storage.MANIFEST)["k"]
    first = pq.ParquetFile(min(out.glob("part-*.parquet"))).read_row_group(0).slice(0, EXAMPLES * k)
    names = items["title" if "title" in items.column_names else "raw"].take(pc.index_in(first["item"], items["raw"]))
    lists: dict[str, list[str]] = {}
    for user, item, title in zip(first["user"].to_pylist(), first["item"].to_pylist(), names.to_pylist(), strict=True):
        if str(user) in lists or len(lists) < EXAMPLES:
            lists.setdefault(str(user), []).append(str(item if title is None else title))
    best = {user: titles[:EXAMPLE_K] for user, titles in lists.items()}
    Console().print(tables.recommendations(best, f"{name}: the best {min(k, EXAMPLE_K)} items for {len(best)} users"))


def _model(run: Path, dataset: Path) -> tuple[Scorer, Interactions]:
    known = splits.known(dataset)
    return checkpoint.open_run(run, dataset).scorer(known), known
