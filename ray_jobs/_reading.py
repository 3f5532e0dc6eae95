"""The first stage of a preparation, by Ray Data: parts of files -> pieces of the shuffle, quarantine/ and accounts."""

from __future__ import annotations

import functools
import itertools
import json
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.data

from components.data import accounts, cleaning, locations, reading, sources
from components.data.cleaning import Counts
from components.data.files import DELIMITERS, PARTS, Part
from components.data.locations import StorageError
from components.data.reading import Reading
from components.data.sources import SourcePlan
from components.errors import FullError, InputError
from ray_jobs import _program
from ray_jobs._tasks import Made, Stage


def run(stage: Stage, plan: SourcePlan, job: Reading, folder: Path, part_bytes: int) -> Made:
    """Reads all of the source; {counts, by_file, bad: {path: reason}, pieces: names, files: entries of what stays}."""
    tasks = dict(enumerate(plan.tasks(part_bytes, job.piece_rows)))
    bad = {file.path: file.reason for file in plan.bad}
    done: dict[int, dict[str, Any]] = {}  # of each task
    failed: Counter[int] = Counter()  # how often a task met a fault that may pass
    todo = tasks
    for number in itertools.count():
        back = _read(stage, replace(job, number=number), todo)
        again = {n: back[n]["again"] for n in back if "again" in back[n]}
        failed.update(again.keys())
        if lasting := [told for n, told in again.items() if failed[n] == locations.TRIES]:
            raise locations.lasting("data.source", lasting[0])
        found = {n: each for n, each in back.items() if n not in again}
        done |= found
        new = {path: reason for n in sorted(found) for path, reason in found[n].get("bad", {}).items()}
        bad |= new
        # again what failed by no fault of a file; and without it, what read a bad file beside others or read a part of it
        # before it was found to be bad
        todo = {
            n: [part for part in parts if part.file.path not in bad]
            for n, parts in tasks.items()
            if n in again or any(part.file.path in new for part in parts)
        }
        if not todo:
            break
        if again:
            time.sleep(locations.PAUSE_SECONDS)
    of_part = {int(index): found for n in tasks for index, found in done[n]["parts"].items()}
    parts = [part for n in tasks for part in tasks[n] if part.file.path not in bad]
    counts_of = [Counts.of(of_part[part.index]["counts"]) for part in parts]
    files = _number_lines(stage, job.work, folder, parts, [of_part[part.index]["lines"] for part in parts])
    by_file = accounts.of_files(((part.file.path, counts) for part, counts in zip(parts, counts_of, strict=True)), bad)
    if len(by_file) > accounts.MOST_LISTED:
        files |= accounts.write_beside(by_file, folder)
    counts = sum(counts_of, Counts())
    filtered, refused = counts.filtered.total(), counts.quarantined.total()
    values = {
        "counts": vars(counts),
        "by_file": by_file if len(by_file) <= accounts.MOST_LISTED else accounts.BESIDE,
        "bad": bad,
        "pieces": [name for n in tasks for name in done[n]["pieces"]],
        "files": files,
    }
    return values, f"{counts.read:,} rows = {counts.kept:,} kept + {filtered:,} filtered + {refused:,} quarantined"


def _read(stage: Stage, job: Reading, tasks: dict[int, list[Part]]) -> dict[int, dict[str, Any]]:
    """What `reading.read` gave of each task."""
    sizes = {n: sum(sources.size_of(part) for part in parts) for n, parts in tasks.items()}
    whole = sum(sizes.values())
    back: dict[int, dict[str, Any]] = {}
    stage.ahead = lambda: job.piece_rows * sum(n not in back for n in job.written())
    _program.quiet_data()
    rows = [{"task": n, "parts": PARTS.dump_json(parts).decode()} for n, parts in tasks.items()]
    results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        functools.partial(_read_batch, job=job), batch_size=1, batch_format="pyarrow"
    )
    batches: Any = iter(results.iter_batches(batch_size=None, batch_format="pyarrow"))
    with reading.gate(job), closing(batches):  # whose end cancels what still runs
        for row in itertools.chain.from_iterable(batch.to_pylist() for batch in batches):
            found = json.loads(row["result"])
            if "full" in found:
                raise FullError(found["full"])
            if "denied" in found:
                raise StorageError(f"data.source: {found['denied']}")
            if "bad" in found and job.data.on_bad_file == "fail":  # the rest need not be read
                raise InputError(next(iter(found["bad"].values())))
            back[row["task"]] = found
            if "again" in found:
                continue
            read = sum(part["counts"]["read"] for part in found.get("parts", {}).values())
            stage.advance(read, sizes[row["task"]] / whole if whole else 0.0)
    assert len(back) == len(tasks), f"{len(tasks)} tasks were made, {len(back)} came back"
    return back


def _read_batch(batch: pa.Table, *, job: Reading) -> pa.Table:
    """Ray Data's map: reads the batch's tasks. What ends it comes back as a value: an exception would be wrapped."""
    results = []
    for row in batch.to_pylist():
        try:
            found = reading.read(row["task"], PARTS.validate_json(row["parts"]), job)
        except FullError as error:
            found = {"full": str(error)}
        except StorageError as error:
            found = {"denied": str(error)}
        except (OSError, MemoryError) as error:
            if not locations.passes(error):
                raise
            found = {"again": f"{type(error).__name__}: {error}"}
        results.append(json.dumps(found))
    return pa.table({"task": batch["task"], "result": results})


def _number_lines(stage: Stage, work: Path, folder: Path, parts: list[Part], lines: list[int]) -> dict[str, Any]:
    """Moves refused rows to quarantine/, their lines counted from the beginning of each file; the entries of what was made."""
    before: Counter[str] = Counter()
    jobs, names = [], []
    for part, number in zip(parts, lines, strict=True):
        path, refused = part.file.path, reading.refused(work, part.index)
        if refused.exists():
            header = part.file.format in DELIMITERS
            names.append(f"quarantine/part-{part.index:05d}.parquet")
            jobs.append((refused, folder / names[-1], before[path] + header))
        before[path] += number
    return {names[n]: entry for n, entry in stage.each(cleaning.move_quarantine, jobs)}
