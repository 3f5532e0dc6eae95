"""Prepares a dataset on a Ray cluster: Ray Data reads and cleans, Ray tasks do the rest, one task for each partition.

    read       parts of files -> rows that can be used, cut by the hash of the user (and quarantine/)
    gather     of a large log: pieces of groups of shards -> pieces of shards, so that no shard opens every piece
    collect    one shard of users -> rows by (user, time), repeats dropped, local codes
    vocabulary one partition of items -> distinct ids, and the place of each shard's items among them
    k-core     rounds: the living items go to every shard, each shard's counts come back, until none dies
    cut        a split by time: its moments are found by counting, then which users and items train has
    write      one shard -> its part of every split and of users.parquet
    titles     the file of titles, cut by the hash of the item
    items      one partition -> its part of items.parquet

The log is shuffled once (twice above OPENED shards), through files on the storage path: on two CPUs and 1 M rows Ray Data's own
hash shuffle took 5 s more (12 s when cold), and a task that runs twice must write the same bytes. The driver holds sums, a few
numbers for each item and the counts of each file. How many partitions there are depends on the source's size alone, so that the
result does not depend on the cluster. A stage that is finished is recorded (components.data.records), and not done again by
whoever comes after a kill.
"""

from __future__ import annotations

import functools
import itertools
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

from components import storage
from components.config import Recipe
from components.data import accounts, manifest, reading, shards, shifted, sources, units, vocabulary
from components.data.cleaning import Counts
from components.data.locations import StorageError
from components.data.manifest import WORK
from components.data.partitions import Fan
from components.data.reading import Reading
from components.data.records import Records
from components.data.shards import Core, Numbering, ShardFiles
from components.data.shifted import Shift
from components.data.sources import SourcePlan
from components.data.statistics import DatasetStatistics
from components.data.temporal import Cuts
from components.errors import FullError, InputError, reason
from components.split_rules import ShiftedSplit, TemporalSplit
from ray_jobs import _cuts, _reading
from ray_jobs._cuts import Found
from ray_jobs._tasks import Made, Report, Stage

FORM = 2  # raised when the same stages leave other files to those that follow
ROWS_PER_SHARD = 1 << 20
SMALL, LEAST_SHARDS = 8, 16  # from an eighth of a shard's rows on no task has more than an eighth of the log: mostly a 16th
SHARDS_PER_ITEM_PART, LEAST_ITEM_PARTS, MOST_ITEM_PARTS = 8, 8, 64
OPENED = 256  # pieces that a shard is taken out of without being gathered first


@dataclass(frozen=True)
class Sizes:
    """How the work is cut. Shards order the users' ids, so other sizes give another (equally good) numbering."""

    rows_per_shard: int = ROWS_PER_SHARD
    part_bytes: int = sources.PART_BYTES
    part_rows: int = sources.PART_ROWS
    opened: int = OPENED

    def shards(self, rows: int) -> int:
        """Of a log of so many rows, as it is known before it is read."""
        return max(LEAST_SHARDS, -(-rows // self.rows_per_shard)) if rows > self.rows_per_shard // SMALL else 1

    def of(self, rows: int) -> Sizes:
        """For such a log: what a task of reading keeps before it writes and the block that it reads are a 16th of it each."""
        share = rows // LEAST_SHARDS
        if self.shards(rows) == 1:
            return self
        bytes_ = min(self.part_bytes, share * sources.BYTES_PER_ROW)
        return replace(self, part_rows=min(self.part_rows, share), part_bytes=bytes_)


def prepare(recipe: Recipe, report: Report = print, sizes: Sizes = Sizes(), plan: SourcePlan | None = None) -> Path:
    """Writes the recipe's dataset, unless it is there, and returns its folder. `report` gets lines of each stage; `plan` is
    the source as it was just found.

    What a killed or interrupted process finished is taken over. After a mistake in what was given nothing is left.

    Raises:
        InputError: the source is not there, not readable or leaves no row; or another process prepares the same dataset.
        FullError: there is no room on the storage path.
    """
    plan = plan or sources.inspect(recipe.data)
    folder = manifest.dataset_path(recipe, plan)
    if manifest.is_current(folder):
        report(f"{folder}: current, nothing to do")
        return folder
    with storage.lock(folder):
        if manifest.is_current(folder):  # by whoever held the lock
            report(f"{folder}: current, nothing to do")
            return folder
        records = Records(folder, folder / WORK, {"form": FORM, "fingerprint": folder.name, "sizes": asdict(sizes)})
        try:
            summary, files = _Preparation(recipe, plan, folder, sizes, report, records).run()
            for half in folder.glob("*/.*"):  # of a worker that died: the second try wrote the whole
                half.unlink()
            storage.write_manifest(folder, summary, files)
        except StorageError:  # S3, for now
            records.clear()
            raise
        except FullError as error:
            records.clear()
            raise FullError(f"{error}; finished stages are kept for the next try: delete {folder} to be rid of them") from None
        except InputError:
            records.forget()
            raise
        except BaseException:
            records.clear()
            raise
        shutil.rmtree(folder / WORK, ignore_errors=True)
    report(f"{folder}: finished")
    return folder


class _Preparation:
    """The stages of one dataset, in order."""

    def __init__(self, recipe: Recipe, plan: SourcePlan, folder: Path, sizes: Sizes, report: Report, records: Records) -> None:
        self.recipe, self.plan, self.folder, self.report, self.records = recipe, plan, folder, report, records
        self.sizes = sizes.of(plan.estimated_rows)
        self.work = folder / WORK
        self.num_shards = sizes.shards(plan.estimated_rows)
        self.fan = Fan(self.num_shards, sizes.opened)
        parts = -(-self.num_shards // SHARDS_PER_ITEM_PART)
        if self.num_shards > 1:
            parts = min(max(LEAST_ITEM_PARTS, parts), MOST_ITEM_PARTS)
        self.vocabularies, self.places = (
            [self.work / name / f"{n:05d}.arrow" for n in range(parts)] for name in ("vocabulary", "places")
        )
        self.shards = [ShardFiles(self.work, n) for n in range(self.num_shards)]

    def run(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Everything up to the manifest, which it returns, and the entry of each file as its writer gave it."""
        rule = self.recipe.data.split
        made = [_in_work("pieces"), "quarantine", accounts.BESIDE]
        read = self._stage("read", self._read, made, [_in_work("refused")], self.plan.rows)
        counts, bad = Counts.of(read["counts"]), read["bad"]
        self._warn(counts, bad)
        manifest.refuse_if_empty(counts.kept, counts, "cleaning", bad_files=list(bad.values()))
        if rule.by == "given":
            manifest.refuse_if_empty(counts.splits["train"], counts, "cleaning that is in train")
        names = manifest.split_names(counts, rule)
        pieces: list[list[str]] = [read["pieces"]]
        last = _in_work("pieces")
        if self.fan.width > 1:
            gather = functools.partial(self._gather, read["pieces"])
            pieces = self._stage("gather", gather, [_in_work("gathered")], [last], counts.kept)["pieces"]
            last = _in_work("gathered")
        made = [_in_work(name) for name in ("rows", "users", "items")]
        collected = self._stage("collect", functools.partial(self._collect, pieces, names), made, [last], counts.kept)
        made, gone = ([_in_work(name) for name in each] for each in (("vocabulary", "codes"), ("items", "places")))
        offsets = self._stage("vocabulary", self._vocabulary, made, gone, 2 * sum(collected["items"]), "ids")["offsets"]
        num_items = offsets[-1]
        core = self._stage("k-core", functools.partial(self._k_core, num_items, collected["rows"]))
        shutil.rmtree(self.work / "living", ignore_errors=True)
        rounds, alive, users = core["rounds"], core["alive"], core["users"]
        manifest.refuse_if_empty(rounds[-1]["rows"], counts, "k-core", rounds)
        known, law, cut = alive, None, {}
        if isinstance(rule, ShiftedSplit):
            law = shifted.law(rule, core["degree"][alive])
        elif isinstance(rule, TemporalSplit):
            left = Core(alive, self.recipe.data.k_core.users, counts.float_time)
            found = Found.of(self._stage("cut", functools.partial(self._cut, rule, left, rounds[-1])))
            law, cut = found.cuts, found.describe()
            if law.drop_unknown:
                known, users = found.known, found.users
        new_id = np.where(known, np.cumsum(known) - 1, np.where(alive, shards.UNKNOWN, shards.DEAD)).astype(np.int32)
        write = functools.partial(self._write, new_id, users, counts.float_time, names, law)
        written = self._stage("write", write, ["users.parquet", *names], (), rounds[-1]["rows"])
        statistics = DatasetStatistics.of(written)
        for line in statistics.leaks(self.plan.time_kind):
            self.report(f"warning: data.split.by: {rule.by} leaks time: {line}; temporal does not")
        manifest.refuse_if_empty(statistics.rows["train"], counts, "k-core that is in train", rounds)
        titles = None
        if self.recipe.data.titles:
            names_of = self._stage("titles", self._titles, [_in_work("titles")])["names"]
            titles = [self.work / "titles" / each for each in names_of]
        items = functools.partial(self._items, offsets, new_id, statistics, titles)
        last = self._stage("items", items, ["items.parquet"], (), num_items, "items")
        distinct = sum(collected["rows"])
        before = {"users": collected["users"], "items": num_items, "rows": distinct}
        more = {"split": cut, "bad_files": bad, "time_units": dict(counts.times), "by_file": read["by_file"]}
        more["before_k_core"] = before
        name = self.folder.name
        summary = manifest.compose(self.recipe, self.plan, name, counts, distinct, rounds, statistics, last["titled"], more)
        files = {**read["files"], **written["files"], **last["files"], **self._write_report(summary, statistics)}
        assert len(written["files"]) == self.num_shards * (len(names) + 1), "a file of each shard in every split and of users"
        return summary, files

    def _stage(
        self,
        name: str,
        body: Callable[[Stage], Made],
        outputs: Sequence[str] = (),
        removes: Sequence[str] = (),
        total: int | None = None,
        unit: str = "rows",
    ) -> dict[str, Any]:
        """What the stage found out, now or when it was finished before."""
        if (found := self.records.next(name)) is not None:
            self.report(f"{name:<10} was finished before")
            return found
        with Stage(name, self.report, total, unit) as stage:
            values, message = body(stage)
        self.records.add(name, values, outputs, removes)
        self.report(stage.line(message))
        found = self.records.next(name)
        assert found is not None, f"{name} was recorded"
        return found

    def _warn(self, counts: Counts, bad: dict[str, str]) -> None:
        data = self.recipe.data
        for line in units.warnings(counts.times, str(data.columns.time), data.time_units == "seconds"):
            self.report(f"warning: {line}")
        if bad:
            number = len(self.plan.files) + len(self.plan.bad)
            self.report(f"warning: {len(bad):,} of {number:,} files put aside, as {next(iter(bad.values()))}")

    def _read(self, stage: Stage) -> Made:
        job = Reading(self.recipe.data, self.plan.bare(), self.work, self.fan, self.sizes.part_rows)
        made = _reading.run(stage, self.plan, job, self.folder, self.sizes.part_bytes)
        self._refuse_change(sources.changed(self.recipe.data, self.plan))
        return made

    def _refuse_change(self, log: bool = False) -> None:
        """Where the log changed, or the titles."""
        if log or manifest.dataset_path(self.recipe, self.plan) != self.folder:
            raise InputError(f"data.source: {self.plan.files[0].path} or a file beside it changed while it was read; run again")

    def _gather(self, pieces: list[str], stage: Stage) -> Made:
        """A task for each group of shards and `width` pieces, so that it has as many rows as a piece."""
        paths, width = [self.work / "pieces" / name for name in pieces], self.fan.width
        runs = [paths[n : n + width] for n in range(0, len(paths), width)]
        names = [[f"{group:05d}-{n:05d}.arrow" for n in range(len(runs))] for group in range(self.fan.groups)]
        arguments = [
            (run, group, self.fan, self.work / "gathered" / name)
            for group in range(self.fan.groups)
            for run, name in zip(runs, names[group], strict=True)
        ]
        for _, rows in stage.each(reading.gather, arguments):
            stage.advance(rows)
        return {"pieces": names}, f"{len(paths):,} pieces, {self.fan.groups} groups of {width} shards"

    def _collect(self, pieces: list[list[str]], names: list[str], stage: Stage) -> Made:
        gathered, width = self.fan.width > 1, self.fan.width
        groups = [[self.work / ("gathered" if gathered else "pieces") / name for name in group] for group in pieces]
        places = [(groups[n // width], n % width) if gathered else (groups[0], n) for n in range(self.num_shards)]
        rules = (self.recipe.data.repeats, names, len(self.vocabularies))
        arguments = [(*place, files, *rules) for place, files in zip(places, self.shards, strict=True)]
        rows, items, users, taken = [0] * self.num_shards, [0] * self.num_shards, 0, 0
        for n, found in stage.each(shards.collect, arguments):
            rows[n], items[n], users, taken = found.rows, found.items, users + found.users, taken + found.taken
            stage.advance(found.taken)
        message = f"{sum(rows):,} rows in {self.num_shards} shards, {taken - sum(rows):,} repeats dropped"
        return {"rows": rows, "items": items, "users": users}, message

    def _vocabulary(self, stage: Stage) -> Made:
        """Where the codes of each item partition begin, and where those of the last end."""
        shard_items = [files.items for files in self.shards]
        jobs = [(shard_items, n, *paths) for n, paths in enumerate(zip(self.vocabularies, self.places, strict=True))]
        distinct = [0] * len(jobs)
        for n, found in stage.each(vocabulary.merge, jobs):
            distinct[n] = found.items
            stage.advance(found.taken)
        offsets = [0, *itertools.accumulate(distinct)]
        for _, items in stage.each(shards.encode, [(files, self.places, offsets[:-1]) for files in self.shards]):
            stage.advance(items)
        return {"offsets": offsets}, f"{offsets[-1]:,} items"

    def _k_core(self, num_items: int, shard_rows: list[int], stage: Stage) -> Made:
        """Each round's survivors, which items live, the users of each shard, the rows of each living item."""
        rule = self.recipe.data.k_core
        alive = np.ones(num_items, bool)
        rounds: list[dict[str, int]] = []
        shrunk = [False] * self.num_shards
        while True:
            stage.begin(f"round {len(rounds) + 1}", sum(shard_rows))
            ref = ray.put(alive)
            total = np.zeros(num_items, np.int64)
            users, rows = [0] * self.num_shards, 0
            jobs = [(files, ref, rule.users, small) for files, small in zip(self.shards, shrunk, strict=True)]
            for n, result in stage.each(shards.count, jobs):
                total[result.codes] += result.counts
                users[n], rows, shrunk[n] = result.users, rows + result.rows, result.shrunk
                stage.advance(shard_rows[n])
            left = alive & (total >= rule.items)
            rounds.append({"users": sum(users), "items": int((alive & (total > 0)).sum()), "rows": rows})
            if (left == alive).all() or not rows:
                break
            alive = left
        message = "{users:,} users, {items:,} items, {rows:,} rows".format(**rounds[-1]) + f", {len(rounds)} rounds"
        return {"rounds": rounds, "alive": alive, "users": users, "degree": total}, message

    def _cut(self, rule: TemporalSplit, core: Core, left: dict[str, int], stage: Stage) -> Made:
        found = _cuts.find(stage, rule, self.plan.time_kind, self.shards, core, left["users"], left["rows"])
        return found.values(), found.line()

    def _write(
        self,
        new_id: np.ndarray,
        users: list[int],
        float_time: bool,
        names: list[str],
        law: Cuts | Shift | None,
        stage: Stage,
    ) -> Made:
        ref, law_ref = ray.put(new_id), ray.put(law)
        data, seed = self.recipe.data, self.recipe.seed
        numbering = [Numbering(first, float_time, names) for first in [0, *np.cumsum(users)[:-1].tolist()]]
        arguments = [(files, self.folder, data, seed, numbering[n], ref, law_ref) for n, files in enumerate(self.shards)]
        statistics = DatasetStatistics(np.zeros(int(new_id.max()) + 1, np.int64))
        files: dict[str, Any] = {}
        for _, (shard, made) in stage.each(shards.finish, arguments):
            statistics.add(shard)
            files |= made
            stage.advance(sum(shard.rows.values()) + sum(shard.dropped.values()))
        return {**statistics.values(), "files": files}, ", ".join(f"{statistics.rows[name]:,} {name}" for name in names)

    def _titles(self, stage: Stage) -> Made:
        """The file of titles, read once and cut by the items' partitions."""
        data = self.recipe.data
        job = (data.titles, data.encoding, self.plan.item_type, len(self.vocabularies), self.work / "titles")
        ((_, names),) = stage.each(vocabulary.cut_titles, [job])
        self._refuse_change()
        return {"names": names}, str(data.titles and data.titles.source)

    def _items(
        self,
        offsets: list[int],
        new_id: np.ndarray,
        statistics: DatasetStatistics,
        titles: list[Path] | None,
        stage: Stage,
    ) -> Made:
        arguments = []
        for n, path in enumerate(self.vocabularies):
            mine = new_id[offsets[n] : offsets[n + 1]]
            degree = np.where(mine >= 0, statistics.degree[mine], 0)
            out = self.folder / "items.parquet" / f"part-{n:05d}.parquet"
            arguments.append((path, n, mine, degree, titles, out))
        titled, files = 0, {}
        for n, (count, entry) in stage.each(vocabulary.finish, arguments):
            titled, files[f"items.parquet/part-{n:05d}.parquet"] = titled + count, entry
            stage.advance(offsets[n + 1] - offsets[n])
        return {"titled": titled, "files": files}, f"{len(statistics.degree):,} items" + (
            f", {titled:,} with a title" if titled else ""
        )

    def _write_report(self, summary: dict[str, Any], statistics: DatasetStatistics) -> dict[str, Any]:
        """The entries of its files."""
        from components.reports import data_report  # matplotlib: every task of Ray Data imports this file

        folder, since = self.folder / storage.REPORT, time.monotonic()
        try:
            data_report.write(folder, summary, statistics)
        except Exception as error:  # what a picture stumbles on ends no preparation
            shutil.rmtree(folder, ignore_errors=True)
            self.report(f"warning: no data report: {reason(error)}")
            return {}
        self.report(f"{'report':<10} {folder / data_report.PAGE} ({time.monotonic() - since:.1f} s)")
        return {f"{storage.REPORT}/{path.name}": storage.entry(path) for path in folder.iterdir()}


def _in_work(name: str) -> str:
    return f"{WORK}/{name}"
