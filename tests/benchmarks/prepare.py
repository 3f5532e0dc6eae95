"""Rows per second and peak memory of prepare beside one polars process that does the same, whole and stage by stage.

python -m tests.benchmarks.prepare [--rows 1000000 10000000 20000000] [--nodes 2 4] [--quick] [--keep]

Input: 16 Parquet files of int64 user, item and time, generated. Items by Zipf's law, p_r ~ 1 / r over rows / 200 items;
users by p_r ~ r^-0.5 over rows / 40 users; times uniform over a year, in seconds. Work: dedupe, 10-core, ids, leave-one-out,
Parquet. Both are programs, timed from start to end (Ray's start included); both must leave equally many rows. Where polars is
killed for want of memory, that is told in place of its figures: it offers itself to the kernel first.

Memory of a tree of processes is looked at twice a second, as the sum of the proportional set sizes (a page that n processes
share counts 1/n to each). What lies between two looks is bounded by the kernel's own high-water marks: the largest of any one
process, which for polars is the exact peak, and their sum over all that lived at a look, which counts a shared page n times.
Nodes are `ray start` processes of one CPU each on this machine, on 1M rows: bytes are those of the loopback (objects and all
of Ray's own talk) and those written to the storage path (the shuffle and the dataset), which of a shared one cross the
network twice. --quick: 1M rows, no nodes. 100M rows take 10 GB of disk and are asked for by --rows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from components import storage
from tests.benchmarks import _common, _memory

SEED, FILES, CORE = 1, 16, 10
YEAR = 365 * 86_400
LOOK_SECONDS = 0.5
NODE_ROWS = 1_000_000
ROOT = Path(__file__).parents[2]
STAGES = "inspect|read|gather|collect|vocabulary|k-core|write|titles|items|report"
STAGE = re.compile(rf"^({STAGES}) .*\((\d+\.\d) s\)$", re.MULTILINE)
LAW = "items by p_r ~ 1 / r over rows / 200, users by p_r ~ r^-0.5 over rows / 40, times uniform over a year"
MIDDLE, LARGE, SMALL = 20_000_000, 100_000_000, 10_000_000
LIMITS = {"times_polars": {str(MIDDLE): 3.0, str(LARGE): 1.5}, "gib": {str(LARGE): 6.0}, "rate_of_small": 0.8}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    runs = []
    for rows in [1_000_000] if arguments.quick else arguments.rows:
        with tempfile.TemporaryDirectory(prefix="hardneg-prepare-", dir=arguments.folder) as folder:
            runs.append(_one(rows, Path(folder)))
    with tempfile.TemporaryDirectory(prefix="hardneg-nodes-", dir=arguments.folder) as folder:
        on_nodes = [] if arguments.quick else _on_nodes(Path(folder), arguments.nodes)
    figures = {"law": LAW, "limits": LIMITS, "runs": runs, "verdicts": verdicts(runs), "nodes": on_nodes}
    for verdict in figures["verdicts"]:
        _common.say(f"{verdict['what']}: {verdict['got']:.2f}, limit {verdict['limit']}: {verdict['holds']}")
    return {"seeds": [SEED], "figures": figures}


def verdicts(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each limit whose sizes were run: what it is of, what was got, and whether that holds."""
    of = {run["log_rows"]: run for run in runs}
    found: list[dict[str, Any]] = []

    def tell(what: str, got: float, limit: float, holds: bool) -> None:
        found.append({"what": what, "got": got, "limit": limit, "holds": holds})

    for rows, limit in LIMITS["times_polars"].items():
        ratio = of[int(rows)]["times_polars"] if int(rows) in of else None
        if ratio is not None:
            tell(f"times polars at {int(rows):,} rows, at most", ratio, limit, ratio <= limit)
    for rows, limit in LIMITS["gib"].items():
        if int(rows) in of:
            peak = of[int(rows)]["prepare"]["peak_gib"]
            tell(f"GiB of the tree at {int(rows):,} rows, at most", peak, limit, peak <= limit)
    if SMALL in of and LARGE in of:
        large, small = (of[rows]["prepare"]["rows_per_second"] for rows in (LARGE, SMALL))
        limit = LIMITS["rate_of_small"]
        tell(f"rows/s at {LARGE:,} of those at {SMALL:,}, at least", large / small, limit, large / small >= limit)
    return found


def _one(rows: int, folder: Path) -> dict[str, Any]:
    write_log(folder / "log", rows)
    _common.say(f"{rows:,} rows are written")
    ours, polars = prepared(folder), _polars(folder)
    _tell(rows, "prepare", ours)
    if "ended" in polars:
        _common.say(f"{rows:,} rows, polars: {polars['ended']} at {polars['peak_gib']:.2f} GiB")
        return {"log_rows": rows, "prepare": ours, "polars": polars, "times_polars": None}
    assert ours["rows"] == polars["rows"], f"prepare left {ours['rows']}, polars {polars['rows']}"
    _tell(rows, "polars", polars)
    ratio = ours["total_seconds"] / polars["total_seconds"]
    return {"log_rows": rows, "prepare": ours, "polars": polars, "times_polars": ratio}


def _tell(rows: int, name: str, one: dict[str, Any]) -> None:
    one["rows_per_second"] = rows / one["total_seconds"]
    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in one["seconds"].items())
    _common.say(f"{rows:,} rows, {name}: {one['total_seconds']:.1f} s ({stages}), {one['peak_gib']:.2f} GiB")


def _on_nodes(folder: Path, counts: list[int]) -> list[dict[str, Any]]:
    """The same preparation on clusters of several node processes: the same files, and the bytes that went between them."""
    from tests.integration import nodes  # imports Ray: not needed otherwise

    write_log(folder / "log", NODE_ROWS)
    found: list[dict[str, Any]] = []
    made: set[str] = set()
    for count in counts:
        place = folder / str(count)
        place.mkdir()
        with nodes.cluster(place, [1] * (count - 1), head_cpus=1, PYTHONPATH=str(ROOT)) as cluster:
            before = _loopback()
            one = prepared(folder, place, RAY_ADDRESS=cluster.gcs, RAY_AUTH_MODE="disabled")
            loopback = _loopback() - before
        made.add(json.dumps(one.pop("files"), sort_keys=True))
        about = {"nodes": count, "loopback_bytes": loopback, "log_rows": NODE_ROWS}
        found.append({**about, **{name: one[name] for name in ("total_seconds", "seconds", "peak_gib", "written_bytes")}})
        _common.say(f"{count} nodes: {one['total_seconds']:.1f} s, {loopback:,} bytes over the loopback")
    assert len(made) <= 1, "the bytes of the dataset depend on the number of nodes"
    return found


def _loopback() -> int:
    return psutil.net_io_counters(pernic=True)["lo"].bytes_sent


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


def prepared(folder: Path, place: Path | None = None, **environment: str) -> dict[str, Any]:
    """Of the log in `folder`, into `place` (by default there)."""
    place = place or folder
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
        "scale": {"storage_path": str(place / "runs")},
    }
    path = place / "prepared.json"
    path.write_text(json.dumps(recipe))
    run = watched([sys.executable, "-m", "ray_jobs.prepare", str(path)], environment)
    run.require()
    (dataset,) = (place / "runs" / "datasets").iterdir()
    manifest = storage.open_finished(dataset, "dataset")
    stages = {stage: float(took) for stage, took in STAGE.findall(run.errors)}
    return {
        **run.memory(),
        "total_seconds": run.seconds,
        "seconds": {**stages, "start and end": run.seconds - sum(stages.values())},
        "worker_gib": {stage: peak / 2**30 for stage, peak in run.workers.items()},
        "written_bytes": run.written,
        "rows": manifest["rows"],
        "files": {name: entry["sha256"] for name, entry in manifest["files"].items()} if environment else {},
    }


def _polars(folder: Path) -> dict[str, Any]:
    """Its figures, or how it ended."""
    arguments = [str(folder / "log"), str(folder / "polars"), str(CORE)]
    run = watched([sys.executable, "-m", "tests.benchmarks._polars_prepare", *arguments])
    memory = {**run.memory(), "peak_gib": run.largest / 2**30}  # one process: its own mark, as last seen
    if run.code:
        return {**memory, "total_seconds": run.seconds, "ended": run.ended()}
    found = json.loads(run.output.splitlines()[-1])
    memory["peak_gib"] = found.pop("peak") / 2**30
    rest = {"start and end": run.seconds - sum(found["seconds"].values())}
    return {**memory, "total_seconds": run.seconds, **found, "seconds": {**found["seconds"], **rest}}


@dataclass
class Watched:
    """A program that ended, and the bytes that looks at this process's children (its own, and a cluster's) saw meanwhile."""

    command: list[str]
    code: int = 0
    late: bool = False  # killed because it took too long
    seconds: float = 0.0
    output: str = ""
    errors: str = ""
    peak: int = 0  # the largest sum of proportional set sizes
    bound: int = 0  # the largest sum of high-water marks
    largest: int = 0  # the largest high-water mark
    workers: dict[str, int] = field(default_factory=dict)  # of Ray's workers' proportional set sizes, by stage, the largest
    written: int = 0  # to storage, by all of them, as last seen of each

    def require(self) -> None:
        """Raises RuntimeError where it failed."""
        if self.code:
            raise RuntimeError(f"{' '.join(self.command)} ended with {self.code}: {self.errors[-2000:]}")

    def ended(self) -> str:
        """How, where it failed."""
        if self.late:
            return f"not done after {self.seconds:,.0f} s"
        return f"killed by signal {-self.code}" if self.code < 0 else (self.errors.strip().splitlines() or ["failed"])[-1][:200]

    def memory(self) -> dict[str, float]:
        return {f"{name}_gib": getattr(self, name) / 2**30 for name in ("peak", "bound", "largest")}


def watched(command: list[str], environment: Mapping[str, str] | None = None, limit: float = math.inf) -> Watched:
    """Runs a program and looks at its memory; it is killed if it takes more than `limit` seconds."""
    run, started = Watched(command), time.perf_counter()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **(environment or {})}, **pipes)  # pyright: ignore
    ended, looks = threading.Event(), _Looks(run, process, started + limit)
    threads = [threading.Thread(target=each) for each in (lambda: looks.until(ended), lambda: _lines(process, looks))]
    for thread in threads:
        thread.start()
    assert process.stdout is not None
    with process.stdout:
        run.output = process.stdout.read()
    run.code, run.seconds = process.wait(), time.perf_counter() - started
    ended.set()
    for thread in threads:
        thread.join()
    run.written = sum(looks.written.values())
    return run


def _lines(process: subprocess.Popen[str], looks: _Looks) -> None:
    """What is told on stderr, as it comes: a stage's last line ends it."""
    assert process.stderr is not None
    with process.stderr:
        for line in process.stderr:
            looks.run.errors += line
            if told := STAGE.match(line):
                looks.run.workers[told[1]] = looks.worker
                looks.worker = 0


class _Looks:
    """At the memory of all of this process's children, and at the clock."""

    def __init__(self, run: Watched, process: subprocess.Popen[str], limit: float) -> None:
        self.run, self.worker, self._process, self._limit = run, 0, process, limit
        self.written: dict[int, int] = {}

    def until(self, ended: threading.Event) -> None:
        while not ended.wait(LOOK_SECONDS):
            self._look()
            if not self.run.late and time.perf_counter() > self._limit:
                self.run.late = True
                self._process.kill()

    def _look(self) -> None:
        sizes, marks = 0, 0
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                size = process.memory_full_info().pss
                mark = _memory.mark(process.pid)
                if process.name().startswith("ray::"):
                    self.worker = max(self.worker, size)
                self.written[process.pid] = process.io_counters().write_bytes
                sizes, marks = sizes + size, marks + mark
                self.run.largest = max(self.run.largest, mark)
        self.run.peak, self.run.bound = max(self.run.peak, sizes), max(self.run.bound, marks)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, SMALL, MIDDLE])
    parser.add_argument("--nodes", type=int, nargs="*", default=[2, 4], help="clusters of so many node processes")
    parser.add_argument("--folder", help="where the log and what is made of it lie for a while")


if __name__ == "__main__":
    sys.exit(_common.main("prepare", __doc__ or "", measure, _arguments))
