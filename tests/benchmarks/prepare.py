"""Rows per second and peak memory of prepare beside one polars process that does the same, whole and stage by stage.

python -m tests.benchmarks.prepare [--rows 1000000 10000000 20000000] [--quick] [--keep]

Input: 16 Parquet files of int64 user, item and time, generated. Items by Zipf's law, p_r ~ 1 / r over rows / 200 items;
users by p_r ~ r^-0.5 over rows / 40 users; times uniform over a year, in seconds. Work: dedupe, 10-core, ids, leave-one-out,
Parquet. Both are programs, timed from start to end (Ray's start included); both must leave equally many rows. Memory is the sum
of the proportional set sizes (a page that n processes share counts 1/n to each) of the process and all its children, looked at
twice a second. --quick: 1M rows. 100M rows take 10 GB of disk and are asked for by --rows.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from components import storage
from tests.benchmarks import _common

SEED, FILES, CORE = 1, 16, 10
YEAR = 365 * 86_400
LOOK_SECONDS = 0.5
ROOT = Path(__file__).parents[2]
STAGE = re.compile(r"^(read|gather|collect|vocabulary|k-core|write|items|report) .*\((\d+\.\d) s\)$", re.MULTILINE)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    figures = []
    for rows in [1_000_000] if arguments.quick else arguments.rows:
        with tempfile.TemporaryDirectory(prefix="hardneg-prepare-", dir=arguments.folder) as folder:
            figures.append(_one(rows, Path(folder)))
    return {"seeds": [SEED], "figures": figures}


def _one(rows: int, folder: Path) -> dict[str, Any]:
    write_log(folder / "log", rows)
    _common.say(f"{rows:,} rows are written")
    ours, polars = _prepare(folder), _polars(folder)
    assert ours["rows"] == polars["rows"], f"prepare left {ours['rows']}, polars {polars['rows']}"
    for name, one in (("prepare", ours), ("polars", polars)):
        one["rows_per_second"] = rows / one["total_seconds"]
        stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in one["seconds"].items())
        _common.say(f"{rows:,} rows, {name}: {one['total_seconds']:.1f} s ({stages}), {one['peak_gib']:.2f} GiB")
    ratio = ours["total_seconds"] / polars["total_seconds"]
    return {"log_rows": rows, "prepare": ours, "polars": polars, "times_polars": ratio}


def write_log(folder: Path, rows: int) -> None:
    """File by file: none of the log is held whole."""
    folder.mkdir()
    laws = {"user_id": (max(1, rows // 40), 0.5), "item_id": (max(1, rows // 200), 1.0)}
    ends = {name: np.cumsum(np.arange(1, count + 1, dtype=np.float64) ** -power) for name, (count, power) in laws.items()}
    edges = np.linspace(0, rows, FILES + 1).astype(np.int64)
    for n, size in enumerate(np.diff(edges)):
        random = np.random.default_rng([SEED, n])
        ranks = {name: np.searchsorted(end, random.random(size) * end[-1], side="right") for name, end in ends.items()}
        columns = {name: rank.astype(np.int64) * 1_000_003 + 7 for name, rank in ranks.items()}  # no contiguous ids
        table = pa.table({**columns, "t": random.integers(1_600_000_000, 1_600_000_000 + YEAR, size)})
        pq.write_table(table, folder / f"part-{n:02d}.parquet")


def _prepare(folder: Path) -> dict[str, Any]:
    recipe = {
        "name": "prepared",
        "data": {
            "source": str(folder / "log"),
            "columns": {"time": "t"},
            "k_core": {"users": CORE, "items": CORE},
            "split": {"by": "leave_one_out"},
        },
        "encoder": {"name": "mf"},
        "loss": {"name": "sampled_softmax"},
        "negatives": [{"name": "in_batch"}],
        "scale": {"storage_path": str(folder / "runs")},
    }
    path = folder / "prepared.json"
    path.write_text(json.dumps(recipe))
    seconds, peak, _, errors = watched([sys.executable, "-m", "ray_jobs.prepare", str(path)])
    (dataset,) = (folder / "runs" / "datasets").iterdir()
    stages = {stage: float(took) for stage, took in STAGE.findall(errors)}
    return {
        "total_seconds": seconds,
        "seconds": {**stages, "start and end": seconds - sum(stages.values())},
        "peak_gib": peak / 2**30,
        "rows": storage.open_finished(dataset, "dataset")["rows"],
    }


def _polars(folder: Path) -> dict[str, Any]:
    arguments = [str(folder / "log"), str(folder / "polars"), str(CORE)]
    seconds, peak, output, _ = watched([sys.executable, "-m", "tests.benchmarks._polars_prepare", *arguments])
    found = json.loads(output.splitlines()[-1])
    rest = {"start and end": seconds - sum(found["seconds"].values())}
    return {"total_seconds": seconds, "peak_gib": peak / 2**30, **found, "seconds": {**found["seconds"], **rest}}


def watched(command: list[str]) -> tuple[float, int, str, str]:
    """(seconds, the largest sum of its processes' memory, stdout, stderr) of a program.

    Raises:
        RuntimeError: it failed.
    """
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        peaks, ended = [0], threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, peaks, ended))
        watcher.start()
        output, errors = process.communicate()
        seconds = time.perf_counter() - started
        ended.set()
        watcher.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {errors[-2000:]}")
    return seconds, max(peaks), output, errors


def _watch(pid: int, peaks: list[int], ended: threading.Event) -> None:
    while not ended.wait(LOOK_SECONDS):
        try:
            top = psutil.Process(pid)
            peaks.append(sum(map(_memory, [top, *top.children(recursive=True)])))
        except psutil.NoSuchProcess:
            return


def _memory(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000, 20_000_000])
    parser.add_argument("--folder", help="where the log and what is made of it lie for a while")


if __name__ == "__main__":
    sys.exit(_common.main("prepare", __doc__ or "", measure, _arguments))
