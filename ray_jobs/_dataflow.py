"""Prepares a dataset on a Ray cluster: Ray Data reads and cleans, Ray tasks do the rest, one task for each partition.

    read       parts of files -> rows that can be used, cut by the hash of the user (and quarantine/)
    collect    one shard of users -> rows by (user, time), repeats dropped, local codes
    vocabulary one partition of items -> distinct ids;  then each shard looks its items up
    k-core     rounds: the living items go to every shard, each shard's counts come back, until none dies
    cut        a split by time: its moments are found by counting, then which users and items train has
    write      one shard -> its part of every split and of users.parquet;  then items.parquet

The log is shuffled once, through files on the storage path: on two CPUs and 1 M rows Ray Data's own hash shuffle took 5 s more
(12 s when cold), and a task that runs twice must write the same bytes. The driver holds sums and one integer for each item.
How many partitions there are depends on the source's size alone, so that the result does not depend on the cluster.
"""

from __future__ import annotations

import functools
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from components import storage
from components.config import Recipe
from components.data import cleaning, manifest, partitions, shards, shifted, sources, units, vocabulary
from components.data.cleaning import Counts
from components.data.files import DELIMITERS
from components.data.shards import Core, Numbering, ShardFiles
from components.data.shifted import Shift
from components.data.sources import Part, SourcePlan
from components.data.statistics import DatasetStatistics
from components.data.temporal import Cuts
from components.errors import InputError
from components.split_rules import ShiftedSplit, TemporalSplit
from ray_jobs import _cuts, _program
from ray_jobs._tasks import each

ROWS_PER_SHARD = 1 << 20
SHARDS_PER_ITEM_PART = 8
WORK = ".work"
PROGRESS_SECONDS = 10.0
Report = Callable[[str], None]


@dataclass(frozen=True)
class Sizes:
    """How the work is cut. Shards order the users' ids, so other sizes give another (equally good) numbering."""

    rows_per_shard: int = ROWS_PER_SHARD
    part_bytes: int = sources.PART_BYTES
    part_rows: int = sources.PART_ROWS


def prepare(recipe: Recipe, report: Report = print, sizes: Sizes = Sizes()) -> Path:
    """Writes the recipe's dataset, unless it is there, and returns its folder. `report` gets a line for each stage.

    Raises:
        InputError: the source is not there, not readable or leaves no row; or another process prepares the same dataset.
    """
    plan = sources.inspect(recipe.data)
    folder = manifest.dataset_path(recipe, plan)
    if storage.is_finished(folder):
        report(f"{folder}: current, nothing to do")
        return folder
    with storage.lock(folder):
        if storage.is_finished(folder):  # by whoever held the lock
            report(f"{folder}: current, nothing to do")
            return folder
        _clear(folder)
        try:
            summary = _Preparation(recipe, plan, folder, sizes, report).run()
            if manifest.dataset_path(recipe) != folder:
                raise InputError(f"data.source: {plan.files[0].path} or a file beside it changed while it was read; run again")
        except BaseException:
            _clear(folder)
            raise
        shutil.rmtree(folder / WORK)
        _sweep(folder)
        storage.finish(folder, summary)
    report(f"{folder}: finished")
    return folder


def _clear(folder: Path) -> None:
    """Removes what an earlier run left; the lock stays."""
    for path in folder.iterdir():
        if path.name != storage.LOCK:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def _sweep(folder: Path) -> None:
    """Removes the halves that tasks left whose workers died; their second try wrote the whole."""
    for path in folder.rglob(".*"):
        if path.name != storage.LOCK:
            path.unlink()


class _Preparation:
    """The stages of one dataset, in order."""

    def __init__(self, recipe: Recipe, plan: SourcePlan, folder: Path, sizes: Sizes, report: Report) -> None:
        self.recipe, self.plan, self.folder, self.sizes = recipe, plan, folder, sizes
        self.work = folder / WORK
        self.num_shards = max(1, -(-plan.estimated_rows // sizes.rows_per_shard))
        self.num_item_parts = -(-self.num_shards // SHARDS_PER_ITEM_PART)
        self.shards = [ShardFiles(self.work, n) for n in range(self.num_shards)]
        self.vocabularies = [self.work / "vocabulary" / f"{n:05d}.arrow" for n in range(self.num_item_parts)]
        self.bad_files = {file.path: file.reason for file in plan.bad}
        self._report, self._since = report, time.monotonic()

    def report(self, stage: str, message: str) -> None:
        now = time.monotonic()
        self._report(f"{stage:<10} {message} ({now - self._since:.1f} s)")
        self._since = now

    def run(self) -> dict[str, Any]:
        """Everything up to the manifest, which it returns."""
        counts = self._read()
        manifest.refuse_if_empty(counts.kept, counts, "cleaning")
        if self.recipe.data.split.by == "given":
            manifest.refuse_if_empty(counts.splits["train"], counts, "cleaning that is in train")
        names = manifest.split_names(counts, self.recipe.data.split)
        distinct = self._collect(names, counts)
        offsets = self._vocabulary()
        rounds, alive, users, degree = self._k_core(int(offsets[-1]))
        manifest.refuse_if_empty(rounds[-1]["rows"], counts, "k-core", rounds)
        rule, law, cut = self.recipe.data.split, None, {}
        known = alive
        if isinstance(rule, ShiftedSplit):
            law = shifted.law(rule, degree[alive])
        elif isinstance(rule, TemporalSplit):
            core = Core(alive, self.recipe.data.k_core.users, counts.float_time)
            found = _cuts.find(rule, self.plan.time_kind, self.shards, core, rounds[-1]["users"], rounds[-1]["rows"])
            law, cut = found.cuts, found.describe()
            if law.drop_unknown:
                known, users = found.known, found.users
            self.report("cut", found.line())
        new_id = np.where(known, np.cumsum(known) - 1, np.where(alive, shards.UNKNOWN, shards.DEAD)).astype(np.int32)
        statistics = self._write(new_id, users, counts.float_time, names, law)
        manifest.refuse_if_empty(statistics.rows["train"], counts, "k-core that is in train", rounds)
        titled = self._write_items(offsets, new_id, statistics)
        found = {"split": cut, "bad_files": self.bad_files, "time_units": dict(counts.times)}
        return manifest.compose(self.recipe, self.plan, self.folder.name, counts, distinct, rounds, statistics, titled, found)

    def _read(self) -> Counts:
        tasks = dict(enumerate(self.plan.tasks(self.sizes.part_bytes, self.sizes.part_rows)))
        data = self.recipe.data
        done: dict[int, dict[str, Any]] = {}  # of each part
        todo = tasks
        while todo:
            found, bad = self._read_tasks(todo)
            done |= found
            if bad and data.on_bad_file == "fail":
                raise InputError(next(iter(bad.values())))
            self.bad_files |= bad
            # again, without it, what read a bad file beside others or read a part of it before it was found to be bad
            todo = {
                n: [part for part in parts if part.file.path not in self.bad_files]
                for n, parts in tasks.items()
                if any(part.file.path in bad for part in parts)
            }
        parts = [part for n in tasks for part in tasks[n] if part.file.path not in self.bad_files]
        self._number_lines(parts, {part.index: done[part.index]["lines"] for part in parts})
        counts = sum((_counts(done[part.index]["counts"]) for part in parts), Counts())
        filtered, refused = counts.filtered.total(), counts.quarantined.total()
        self.report("read", f"{counts.read:,} rows = {counts.kept:,} kept + {filtered:,} filtered + {refused:,} quarantined")
        for line in units.warnings(counts.times, str(data.columns.time), data.time_units == "seconds"):
            self._report(f"warning: {line}")
        if self.bad_files:
            number, reason = len(self.plan.files) + len(self.plan.bad), next(iter(self.bad_files.values()))
            self._report(f"warning: {len(self.bad_files):,} of {number:,} files put aside, as {reason}")
        return counts

    def _read_tasks(self, tasks: dict[int, list[Part]]) -> tuple[dict[int, dict[str, Any]], dict[str, str]]:
        """(what each part had, why each bad file is), of the tasks that read none."""
        told = time.monotonic()
        job = _ReadJob(self.recipe, self.plan, self.work, self.num_shards)
        _program.quiet_data()
        rows = ray.data.from_items([{"task": n} for n in tasks], override_num_blocks=len(tasks))
        read = functools.partial(_read_batch, tasks=ray.put(tasks), job=job)
        back: dict[int, dict[str, Any]] = {}
        for row in rows.map_batches(read, batch_size=1, batch_format="pyarrow").iter_rows():
            back[row["task"]] = json.loads(row["result"])
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                self._report(f"{'read':<10} {len(back)} of {len(tasks)} tasks")
        assert len(back) == len(tasks), f"{len(tasks)} tasks were made, {len(back)} came back"
        done = {int(part): found for n in sorted(back) for part, found in back[n].get("parts", {}).items()}
        return done, {path: reason for n in sorted(back) for path, reason in back[n].get("bad", {}).items()}

    def _number_lines(self, parts: list[Part], lines: dict[int, int]) -> None:
        """Moves refused rows to quarantine/, their lines counted from the beginning of each file."""
        before: Counter[str] = Counter()
        jobs = []
        for part in parts:
            path = part.file.path
            if _refused(self.work, part.index).exists():
                header = part.file.format in DELIMITERS
                out = self.folder / "quarantine" / f"part-{part.index:05d}.parquet"
                jobs.append((_refused(self.work, part.index), out, before[path] + header))
            before[path] += lines[part.index]
        for _ in each(cleaning.move_quarantine, jobs):
            pass

    def _collect(self, names: list[str], counts: Counts) -> int:
        pieces = sorted((self.work / "pieces").glob("*.arrow"))
        arguments = [(pieces, files, self.recipe.data.repeats, names, self.num_item_parts) for files in self.shards]
        distinct = sum(rows for _, rows in each(shards.collect, arguments))
        shutil.rmtree(self.work / "pieces")
        self.report("collect", f"{distinct:,} rows in {self.num_shards} shards, {counts.kept - distinct:,} repeats dropped")
        return distinct

    def _vocabulary(self) -> np.ndarray:
        """Offsets of the item partitions' codes."""
        shard_items = [files.items for files in self.shards]
        arguments = [(shard_items, n, path) for n, path in enumerate(self.vocabularies)]
        found = dict(each(vocabulary.merge, arguments))
        offsets = np.cumsum([0] + [found[n] for n in range(self.num_item_parts)])
        for _ in each(shards.encode, [(files, self.vocabularies) for files in self.shards]):
            pass
        self.report("vocabulary", f"{offsets[-1]:,} items")
        return offsets

    def _k_core(self, num_items: int) -> tuple[list[dict[str, int]], np.ndarray, list[int], np.ndarray]:
        """(each round's survivors, which items live, the users of each shard, the rows of each living item)."""
        rule = self.recipe.data.k_core
        alive = np.ones(num_items, bool)
        rounds: list[dict[str, int]] = []
        while True:
            ref = ray.put(alive)
            total = np.zeros(num_items, np.int64)
            users, rows = [0] * self.num_shards, 0
            for n, result in each(shards.count, [(files, ref, rule.users) for files in self.shards]):
                total[result.codes] += result.counts
                users[n], rows = result.users, rows + result.rows
            left = alive & (total >= rule.items)
            rounds.append({"users": sum(users), "items": int((alive & (total > 0)).sum()), "rows": rows})
            if (left == alive).all() or not rows:
                break
            alive = left
        self.report(
            "k-core", "{users:,} users, {items:,} items, {rows:,} rows".format(**rounds[-1]) + f", {len(rounds)} rounds"
        )
        return rounds, alive, users, total

    def _write(
        self, new_id: np.ndarray, users: list[int], float_time: bool, names: list[str], law: Cuts | Shift | None
    ) -> DatasetStatistics:
        ref, law_ref = ray.put(new_id), ray.put(law)
        data, seed = self.recipe.data, self.recipe.seed
        numbering = [Numbering(first, float_time, names) for first in [0, *np.cumsum(users)[:-1].tolist()]]
        arguments = [(files, self.folder, data, seed, numbering[n], ref, law_ref) for n, files in enumerate(self.shards)]
        statistics = DatasetStatistics(np.zeros(int(new_id.max()) + 1, np.int64))
        for _, shard in each(shards.finish, arguments):
            statistics.add(shard)
        self.report("write", ", ".join(f"{rows:,} {name}" for name, rows in statistics.rows.items()))
        for line in statistics.leaks():
            self._report(f"warning: data.split.by: {self.recipe.data.split.by} leaks time: {line}; temporal does not")
        return statistics

    def _write_items(self, offsets: np.ndarray, new_id: np.ndarray, statistics: DatasetStatistics) -> int:
        arguments = []
        for n, path in enumerate(self.vocabularies):
            mine = new_id[offsets[n] : offsets[n + 1]]
            degree = np.where(mine >= 0, statistics.degree[mine], 0)
            out = self.folder / "items.parquet" / f"part-{n:05d}.parquet"
            arguments.append((path, mine, degree, self.recipe.data.titles, self.recipe.data.encoding, out))
        titled = sum(count for _, count in each(vocabulary.finish, arguments))
        self.report("items", f"{len(statistics.degree):,} items" + (f", {titled:,} with a title" if titled else ""))
        return titled


@dataclass(frozen=True)
class _ReadJob:
    """What every reading task knows."""

    recipe: Recipe
    plan: SourcePlan
    work: Path
    num_shards: int


def _read_batch(batch: pa.Table, *, tasks: Any, job: _ReadJob) -> pa.Table:
    """Ray Data's map: reads, cleans and cuts the batch's parts and returns their counts."""
    indices = batch["task"].to_pylist()
    results = [json.dumps(_read_task(n, ray.get(tasks)[n], job)) for n in indices]
    return pa.table({"task": indices, "result": results})


def _read_task(index: int, parts: list[Part], job: _ReadJob) -> dict[str, Any]:
    """One piece of the shuffle from several parts; none where a file of them is bad."""
    data = job.recipe.data
    kept = [cleaning.kept_schema(data, job.plan).empty_table()]
    found: dict[int, dict[str, Any]] = {}
    bad: dict[str, str] = {}
    for part in parts:
        refused = [cleaning.QUARANTINE.empty_table()]
        counts, lines = Counts(), 0
        try:
            for block in cleaning.clean_part(part, data, job.plan):
                kept.append(block.kept)
                refused.append(block.refused)
                counts, lines = counts + block.counts, block.last_line
        except InputError as error:  # as a value: an exception would come back wrapped, after retries
            bad[part.file.path] = str(error)
            continue
        refusals = pa.concat_tables(refused)
        if refusals.num_rows:
            partitions.write_parquet(refusals, _refused(job.work, part.index))
        found[part.index] = {"counts": vars(counts), "lines": lines}
    if bad:
        return {"bad": bad}
    table = pa.concat_tables(kept)
    shard = partitions.of(table["user"], job.num_shards)
    partitions.write(table, shard, job.num_shards, job.work / "pieces" / f"{index:05d}.arrow")
    return {"parts": found}


def _refused(work: Path, part: int) -> Path:
    return work / "refused" / f"{part:05d}.parquet"


def _counts(found: dict[str, Any]) -> Counts:
    counters = {name: Counter(found[name]) for name in ("filtered", "quarantined", "splits", "times")}
    return Counts(**{**found, **counters})
