"""Blocks as they were written -> rows that can be used, rows that cannot (with the reason), and how many of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components import storage
from components.config import SPLIT_NAME, Data, Rule
from components.data import partitions, readers, sources, units, values
from components.data.arrow import pc
from components.data.files import Part, SourceFile
from components.data.readers import Block
from components.data.sources import SourcePlan

QUARANTINE = pa.schema([("file", pa.string()), ("line", pa.int64()), ("reason", pa.string()), ("raw", pa.string())])


@dataclass
class Counts:
    """read = kept + filtered + quarantined. `times` counts kept rows by the unit that their time looks like (units)."""

    read: int = 0
    kept: int = 0
    filtered: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    times: Counter[str] = field(default_factory=Counter)
    float_time: bool = False

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.read + other.read,
            self.kept + other.kept,
            self.filtered + other.filtered,
            self.quarantined + other.quarantined,
            self.splits + other.splits,
            self.times + other.times,
            self.float_time or other.float_time,
        )

    @classmethod
    def of(cls, values: dict[str, Any]) -> Counts:
        """From what `vars` gave, which went through JSON."""
        counters = {name: Counter(values[name]) for name in ("filtered", "quarantined", "splits", "times")}
        return cls(**{**values, **counters})

    def check(self) -> None:
        total = self.kept + self.filtered.total() + self.quarantined.total()
        assert self.read == total, f"read {self.read} rows, but kept, filtered and quarantined make {total}"


@dataclass(frozen=True)
class Cleaned:
    """`kept`: user, item, [time, [fraction]], [split], in their order. `refused`: file, line (in the part), reason, raw."""

    kept: pa.Table
    refused: pa.Table
    counts: Counts
    last_line: int


def clean_part(part: Part, data: Data, plan: SourcePlan) -> Iterator[Cleaned]:
    """Reads and cleans a part, block by block."""
    names = list(sources.wanted(data, part.file).values())
    for block in readers.read(part, names, data.encoding):
        yield clean(block, data, plan, part)


def clean(block: Block, data: Data, plan: SourcePlan, part: Part) -> Cleaned:
    """Refuses rows that cannot be used, then filters those that fail a rule: a row with both faults is refused."""
    keys = sources.wanted(data, part.file)
    refused = values.Refusals(len(block.line))
    for name in keys.values():
        refused.add(np.full(len(block.line), not part.file.may_have(name)), f"{name} is not in the file")
    user = values.ids(block.columns[keys["data.columns.user"]], keys["data.columns.user"], plan.user_type, refused)
    item = values.ids(block.columns[keys["data.columns.item"]], keys["data.columns.item"], plan.item_type, refused)
    columns: dict[str, pa.Array] = {"user": user, "item": item}
    counts = Counts(read=len(block.line) + len(block.refused))
    is_number = plan.time_kind == "number"
    unit, future = np.zeros(len(block.line), np.int8), np.zeros(len(block.line), bool)
    if (name := keys.get("data.columns.time")) and plan.time_kind:
        whole, fraction, counts.float_time = values.times(block.columns[name], name, plan.time_kind, refused)
        unit = units.of(whole) if is_number else np.full(len(whole), units.NAMES.index("microseconds"), np.int8)
        future = units.later_than(whole, unit, part.file.mtime_ns)
        if is_number and data.time_units == "seconds":
            whole, fraction = units.in_seconds(whole, fraction, unit)
            counts.float_time = bool(fraction[refused.good].any())
        columns["time"] = pa.array(whole)
        if plan.fractions:
            columns["fraction"] = pa.array(fraction)
    if data.split.by == "given":
        columns["split"] = _split(block, keys.get("data.split.column"), sources.file_split(data, part.file), refused)
    passed = _filter(block, data.keep, refused, counts)
    kept = pa.table(columns).filter(pa.array(passed))
    counts.kept = kept.num_rows
    if "time" in columns:
        rows = np.bincount(unit[passed], minlength=len(units.NAMES)).tolist() if is_number else []
        counts.times += Counter(dict(zip(units.NAMES, rows, strict=False))) + Counter(future=int(future[passed].sum()))
    if "split" in columns:
        counts.splits.update({v["values"]: v["counts"] for v in kept["split"].value_counts().to_pylist()})
    table = _refused_rows(block, refused, part.file)
    counts.quarantined.update({v["values"]: v["counts"] for v in table["reason"].value_counts().to_pylist()})
    counts.check()
    return Cleaned(kept, table, counts, block.last_line)


def _split(block: Block, column: str | None, own: str | None, refused: values.Refusals) -> pa.Array:
    if column is None:
        assert own is not None, "a given split comes from a column or a file"
        return pa.array(np.full(len(block.line), own), pa.string())
    refused.add(np.asarray(block.columns[column].is_null()), f"{column} is null")
    text = values.utf8(block.columns[column], column, refused)
    known = pc.match_substring_regex(text, SPLIT_NAME)
    refused.add(~np.asarray(known), f"{column} is none of train, valid, test, valid_NAME, test_NAME")
    return text


def _filter(block: Block, rules: list[Rule], refused: values.Refusals, counts: Counts) -> values.Bools:
    """Which rows are good and pass every rule; each other good row counts against the first rule that it fails."""
    numbers = [values.numbers(block.columns[rule.column], rule.column, refused) for rule in rules]
    passed = refused.good
    for rule, number in zip(rules, numbers, strict=True):
        ok = np.ones(len(number), bool)
        if rule.at_least is not None:
            ok &= number >= rule.at_least
        if rule.above is not None:
            ok &= number > rule.above
        if failed := int((passed & ~ok).sum()):
            counts.filtered[rule_name(rule)] += failed
        passed = passed & ok
    return passed


def rule_name(rule: Rule) -> str:
    """`rating at least 4`, as counts and messages say it."""
    bounds = [("at least", rule.at_least), ("above", rule.above)]
    return f"{rule.column} " + " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)


def _refused_rows(block: Block, refused: values.Refusals, file: SourceFile) -> pa.Table:
    bad = np.flatnonzero(~refused.good)
    lines = [r.line for r in block.refused] + block.line[bad].tolist()
    reasons = [r.reason for r in block.refused] + [refused.reasons[code] for code in refused.codes[bad]]
    raws = [r.raw for r in block.refused] + block.raw(bad)
    table = pa.table({"file": [file.path] * len(lines), "line": lines, "reason": reasons, "raw": raws}, schema=QUARANTINE)
    return table.sort_by("line")


def move_quarantine(source: Path, path: Path, first_line: int) -> dict[str, Any]:
    """Writes a part's refused rows at `path`, their lines counted in the whole source file; returns the file's entry."""
    with pq.ParquetFile(source) as file, partitions.parquet_stream(path, QUARANTINE) as out:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            out.write_table(table.set_column(1, "line", pc.add(table["line"], first_line)))
    return storage.entry(path)
