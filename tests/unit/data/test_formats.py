"""JSON lines, compressed text, folders that are columns, files that are not alike, and files that cannot be read."""

from __future__ import annotations

import errno
import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from components.data import lines, locations, readers, sources
from components.data.files import SourceFile
from components.errors import InputError
from tests.unit.data.cleaned import clean, file
from tests.unit.data.test_sources import inspect, table

CODECS = {".gz": "gzip", ".zst": "zstd"}


def compress(data: bytes, suffix: str) -> bytes:
    return gzip.compress(data) if suffix == ".gz" else pa.Codec("zstd").compress(data).to_pybytes()


def test_json_lines_are_rows_of_text(tmp_path: Path) -> None:
    rows = [{"user_id": "007", "item_id": 12345678901234567890}, {"item_id": "x", "user_id": 7.0, "more": [1]}]
    text = "\ufeff" + "\n\n".join(json.dumps(row) for row in rows) + "\r\n"
    result = clean(file(tmp_path, text, "log.jsonl"))
    assert result.pairs == [("007", "12345678901234567890"), ("7", "x")]
    assert result.counts.read == 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"user_id": 1, "item_id": 2', "not JSON"),
        ("[1, 2]", "not a JSON object"),
        ("3", "not a JSON object"),
        ('{"user_id": true, "item_id": 2}', "user_id is neither text nor a number"),
        ('{"user_id": 1, "item_id": [2]}', "item_id is neither text nor a number"),
        ('{"user_id": 1}', "item_id is null"),
        ('{"user_id": "", "item_id": 2}', "user_id is empty"),
        ('{"user_id": 1, "item_id": 2, "rating": NaN}', "rating is not finite"),
        ('{"user_id": 1, "item_id": 2, "rating": "high"}', "rating is not a number"),
        ('{"user_id": "\\ud800", "item_id": 2, "rating": 3}', "user_id is not Unicode"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_line_that_is_no_object_of_the_log_is_refused_alone(tmp_path: Path, line: str, reason: str) -> None:
    good = '{"user_id": 5, "item_id": 6, "rating": 1.5}'
    result = clean(file(tmp_path, f"{good}\n{line}\n{good}\n", "log.ndjson"), keep=[{"column": "rating", "at_least": 1}])
    assert result.pairs == [("5", "6")] * 2
    assert [(row["line"], row["reason"], row["raw"]) for row in result.refused] == [(2, reason, line)]


@pytest.mark.parametrize("name", ["log.jsonl", "log.csv", "log.parquet"])
def test_a_fault_that_passes_is_not_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Put aside for it, the file would be missing for good."""
    fault: list[Exception] = []

    def fails(*_: Any, **__: Any) -> Any:
        raise fault[0]

    monkeypatch.setattr(readers, "lines_of", fails)
    monkeypatch.setattr(readers.pq, "ParquetFile", fails)
    given = SourceFile(str(tmp_path / name), name.partition(".")[2], None, 10, 0, ("user_id",))
    for error, raised in (
        (OSError(errno.EIO, "a disk"), OSError),
        (pa.ArrowMemoryError("no memory"), MemoryError),
        (OSError("cut off"), InputError),
    ):
        fault[:] = [error]
        with pytest.raises(raised):
            list(readers.read(readers.whole(given), ["user_id"], "utf-8"))


@pytest.mark.parametrize("name", ["log.jsonl", "log.csv", "log.parquet"])
@pytest.mark.parametrize(
    ("fault", "times", "message"),
    [
        (OSError(errno.EIO, "a disk"), 2, None),
        (OSError(errno.ESTALE, "a server"), 99, "got no data in 4 tries, takes a storage that answers: .*a server"),
        (MemoryError("no memory"), 99, "got no data in 4 tries, takes a storage that answers: no memory"),
        (PermissionError(errno.EACCES, "denied"), 1, "got permission denied, takes a file that this user may read"),
    ],
)
def test_a_fault_of_the_storage_makes_no_bad_file_when_sources_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fault: Exception, times: int, message: str | None
) -> None:
    if name == "log.parquet":
        table(tmp_path, name, user_id=[1], item_id=[1])
    else:
        file(tmp_path, '{"user_id": 1, "item_id": 1}\n' if name == "log.jsonl" else "user_id,item_id\n1,1\n", name)
    located, faults = locations.locate, [fault] * times

    class Faulty(fs.LocalFileSystem):
        def open_input_file(self, path: str) -> Any:
            if faults:
                raise faults.pop()
            return super().open_input_file(path)

    monkeypatch.setattr(locations, "locate", lambda place: (Faulty(), located(place)[1]))
    monkeypatch.setattr(locations, "PAUSE_SECONDS", 0.0)
    if message is None:
        assert len(inspect(tmp_path, on_bad_file="quarantine").files) == 1
        return
    with pytest.raises(locations.StorageError, match=rf"^data\.source: .*{name}: {message}"):
        inspect(tmp_path, on_bad_file="quarantine")


def test_bytes_that_are_no_text_are_refused_in_json(tmp_path: Path) -> None:
    path = file(tmp_path, b'{"user_id": "a", "item_id": 1}\n{"user_id": "Jos\xe9", "item_id": 1}\n', "log.jsonl")
    assert clean(path).reasons == ["not utf-8"]
    assert clean(path, encoding="latin-1").pairs == [("a", "1"), ("José", "1")]


@pytest.mark.parametrize(
    ("written", "read"),
    [("5.0", "5"), ("5.00", "5"), ("5e0", "5"), ("1.5E1", "15"), ("-0.0", "0"), ("5.10", "5.10"), ("1e-3", "1e-3")],
)
def test_an_integer_of_json_is_one_id_however_it_was_written(tmp_path: Path, written: str, read: str) -> None:
    assert clean(file(tmp_path, f'{{"user_id": {written}, "item_id": 1}}', "log.jsonl")).pairs == [(read, "1")]


def long_json(**last: Any) -> str:
    """More than what is looked at before reading, and in the last line keys that no other has."""
    rows = [{"user_id": n, "item_id": n % 7} for n in range(4000)]
    return "\n".join(json.dumps(row) for row in [*rows, {"user_id": "x", "item_id": 1, **last}])


def test_a_key_that_comes_late_is_read(tmp_path: Path) -> None:
    path = file(tmp_path, long_json(rating=5), "log.jsonl")
    assert path.stat().st_size > sources.HEAD_BYTES
    found = clean(path, part_bytes=20_000, keep=[{"column": "rating", "at_least": 4}])
    assert found.pairs == [("x", "1")]
    assert found.counts.quarantined == {"rating is null": 4000}


def test_a_file_whose_first_rows_lack_a_user_is_read_where_another_has_it(tmp_path: Path) -> None:
    file(tmp_path, '{"user_id": "y", "item_id": 2}', "a.jsonl")
    file(tmp_path, long_json(uid="z").replace("user_id", "uid", 4000), "b.jsonl")
    found = clean(tmp_path)
    assert found.pairs == [("y", "2"), ("x", "1")]
    assert found.counts.quarantined == {"user_id is null": 4000}


def test_a_key_that_every_row_must_have_is_in_the_first_lines(tmp_path: Path) -> None:
    path = file(tmp_path, long_json(t=5), "log.jsonl")
    with pytest.raises(
        InputError, match=r"data\.columns\.time: got 't', not in the first lines of .*; takes one of user_id, it"
    ):
        inspect(path, columns={"time": "t"})
    short = file(tmp_path, '{"user_id": 1, "item_id": 2}', "short.jsonl")
    with pytest.raises(InputError, match=r"data\.keep\.0\.column: got 'rating', not in .*short\.jsonl; takes one of"):
        inspect(short, keep=[{"column": "rating", "at_least": 4}])


def test_a_first_line_may_be_long(tmp_path: Path) -> None:
    long = json.dumps({"user_id": 1, "text": "x" * 3 * sources.HEAD_BYTES, "item_id": 2})
    path = file(tmp_path, f'{long}\n{{"user_id": 3, "item_id": 4}}\n', "log.jsonl")
    assert clean(path, part_bytes=1000).pairs == [("1", "2"), ("3", "4")]
    with pytest.raises(
        InputError, match=r"one\.jsonl: got no JSON object in its first lines, takes one in each line, of at most"
    ):
        inspect(file(tmp_path, "[" + "1," * (5 << 20) + "1]", "one.jsonl"))


def test_a_file_without_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"log\.jsonl: got no JSON object in its first lines"):
        inspect(file(tmp_path, "user_id,item_id\n1,2\n", "log.jsonl"))


LOGS = {
    "log.csv": "user_id,item_id\n" + "".join(f"u{n},{n % 7}\n" for n in range(3000)),
    "log.tsv": "user_id\titem_id\n" + "".join(f"u{n}\t{n % 7}\n" for n in range(3000)),
    "log.inter": "user_id:token\titem_id:token\n" + "".join(f"u{n}\t{n % 7}\n" for n in range(3000)),
    "log.jsonl": "".join(json.dumps({"user_id": f"u{n}", "item_id": n % 7}) + "\n" for n in range(3000)),
    "train.txt": "".join(f"u{n} {n % 7}\n" for n in range(3000)),
}


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("name", LOGS)
def test_a_compressed_file_is_the_file(tmp_path: Path, name: str, suffix: str) -> None:
    plain = clean(file(tmp_path / "plain", LOGS[name], name), part_bytes=500)
    other = clean(file(tmp_path, compress(LOGS[name].encode(), suffix), name + suffix), part_bytes=500)
    assert other.kept.equals(plain.kept)
    assert len(plain.kept) == 3000
    assert [f.split for f in other.plan.files] == [f.split for f in plain.plan.files]


@pytest.mark.parametrize("suffix", CODECS)
def test_rows_of_a_compressed_file_are_before_those_of_the_next(tmp_path: Path, suffix: str) -> None:
    """Also where it is a thousand times as large as it looks."""
    dense = "user_id,item_id\n" + "1,2\n" * 400_000
    file(tmp_path, compress(dense.encode(), suffix), f"a.csv{suffix}")
    file(tmp_path, "user_id,item_id\n3,4\n", "b.csv")
    users = clean(tmp_path).kept["user"]
    assert (len(users), users[400_000].as_py(), users[0].as_py()) == (400_001, "3", "1")


@pytest.mark.parametrize("suffix", CODECS)
def test_a_compressed_file_that_is_cut_off_is_named(tmp_path: Path, suffix: str) -> None:
    random = np.random.default_rng(0).integers(0, 10**9, (60_000, 2))
    data = compress(("user_id,item_id\n" + "".join(f"{u},{i}\n" for u, i in random)).encode(), suffix)
    path = file(tmp_path, data[: len(data) // 2], f"log.csv{suffix}")
    with pytest.raises(InputError, match=rf"log\.csv\{suffix}: not readable \(cut off\?\)"):
        clean(path)


@pytest.mark.parametrize("suffix", CODECS)
def test_a_suffix_that_lies_is_named(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(InputError, match=rf"log\.csv\{suffix}: "):
        inspect(file(tmp_path, "user_id,item_id\n1,2\n", f"log.csv{suffix}"))


def test_folders_of_hive_are_columns(tmp_path: Path) -> None:
    for day, country in (("2020-01-01", "a%2Fb"), ("2020-01-02", "__HIVE_DEFAULT_PARTITION__")):
        folder = tmp_path / f"day={day}" / f"item_id={country}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"user_id": [1, 2]}), folder / "part.parquet")
    result = clean(tmp_path, columns={"time": "day"})
    assert result.pairs == [(1, "a/b"), (2, "a/b")]
    assert result.reasons == ["item_id is null"] * 2
    assert result.kept["time"].to_pylist() == [1_577_836_800_000_000] * 2
    with pytest.raises(InputError, match=r"data\.columns\.time: got 'when', not in .*; takes one of user_id, day, item_id"):
        inspect(tmp_path, columns={"time": "when"})


def test_folders_above_a_source_are_no_columns(tmp_path: Path) -> None:
    path = file(tmp_path, "user_id,item_id\n1,2\n", "run=5/log.csv")
    for source in (path, path.parent):
        with pytest.raises(InputError, match=r"data\.columns\.time: got 'run', not in .*; takes one of user_id, item_id$"):
            inspect(source, columns={"time": "run"})
    assert clean(tmp_path, columns={"time": "run"}).kept["time"].to_pylist() == [5]


def test_a_files_own_column_is_not_its_folders(tmp_path: Path) -> None:
    file(tmp_path, "user_id,item_id\n1,2\n", "item_id=9/log.csv")
    assert clean(tmp_path).pairs == [("1", "2")]


def test_rows_of_files_that_lack_a_column_are_refused_by_that_reason(tmp_path: Path) -> None:
    table(tmp_path, "a.parquet", user_id=[1], item_id=[1], t=[5], rating=[4])
    table(tmp_path, "b.parquet", user_id=[2, 3], item_id=[1, 2], t=[6, 7])
    table(tmp_path, "c.parquet", user_id=[4], item_id=[1])
    result = clean(tmp_path, columns={"time": "t"}, keep=[{"column": "rating", "at_least": 1}])
    assert result.pairs == [(1, 1)]
    assert result.counts.quarantined == {"rating is not in the file": 2, "t is not in the file": 1}
    assert clean(tmp_path).counts.kept == 4
    table(tmp_path, "d.parquet", user_id=[1], item=[1])
    with pytest.raises(InputError, match=r"data\.columns\.item: got 'item_id', not in .*d\.parquet"):
        clean(tmp_path)


def test_nullable_integers_keep_every_digit(tmp_path: Path) -> None:
    ids = pa.array([2**60 + 1, None, -(2**63), 2**53 + 1], pa.int64())
    table(tmp_path, "a.parquet", user_id=ids, item_id=ids)
    result = clean(tmp_path)
    assert result.pairs == [(n, n) for n in (2**60 + 1, -(2**63), 2**53 + 1)]
    table(tmp_path, "b.parquet", user_id=["x"], item_id=[7])
    mixed = clean(tmp_path)
    assert mixed.kept["user"].to_pylist() == [str(2**60 + 1), str(-(2**63)), str(2**53 + 1), "x"]
    assert mixed.plan.item_type == "int64"


def test_a_bad_file_among_many_is_named_or_put_aside(tmp_path: Path) -> None:
    for n in range(200):
        table(tmp_path, f"{n:03d}.parquet", user_id=[n], item_id=[1])
    bad = tmp_path / "117.parquet"
    bad.write_bytes(bad.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"117\.parquet: not a readable Parquet file"):
        inspect(tmp_path)
    plan = inspect(tmp_path, on_bad_file="quarantine")
    assert [Path(each.path).name for each in plan.bad] == ["117.parquet"]
    assert len(plan.files) == 199
    assert plan.describe()[-1]["reason"] == plan.bad[0].reason
    assert [Path(f.path).name for f in plan.files] == [f"{n:03d}.parquet" for n in range(200) if n != 117]


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "train.txt", "log.csv.gz"])
def test_a_file_without_line_ends_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Wherever its parts begin; what is before its last line end is found, and the file is bad."""
    monkeypatch.setattr(lines, "LONGEST_LINE", 1000)
    monkeypatch.setattr(lines, "BLOCK_BYTES", 500)
    header = "user_id,item_id\n1,2\n" if ".csv" in name else '{"user_id": 1, "item_id": 2}\n' if "json" in name else "1 2\n"
    content = (header + "3,4\r" * 2000).encode()
    path = file(tmp_path, gzip.compress(content) if name.endswith("gz") else content, name)
    split: dict[str, Any] = {"split": {"by": "given"}} if name == "train.txt" else {}
    for part_bytes in (300, 1 << 20):
        with pytest.raises(InputError, match=rf"{name}: got no end of a line in the 1,000 bytes from [\d,]+ on, takes lines"):
            clean(path, part_bytes=part_bytes, **split)
    if ".csv" in name:
        path = file(tmp_path, gzip.compress(content[20:]) if name.endswith("gz") else content[20:], name)
        with pytest.raises(InputError, match=r"got no end of a line in the 1,000 bytes from 0 on"):
            inspect(path)


def test_bad_files_alone_are_no_source(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        file(tmp_path, "PAR1 and no more", name)
    with pytest.raises(InputError, match=r"a\.parquet: not a readable Parquet file.* \(2 of 2 files are bad\)"):
        inspect(tmp_path, on_bad_file="quarantine")


def test_a_recipe_that_does_not_name_the_rule_keeps_its_fingerprint(tmp_path: Path) -> None:
    data: dict[str, Any] = {"source": str(tmp_path)}
    rules = sources.Data.model_validate(data)
    assert "on_bad_file" not in rules.settled()
    assert sources.Data.model_validate({**data, "on_bad_file": "quarantine"}).settled()["on_bad_file"] == "quarantine"


def test_small_files_share_a_task_and_no_task_has_more_than_a_part(tmp_path: Path) -> None:
    for n in range(50):
        file(tmp_path, "user_id,item_id\n" + "1,2\n" * (n % 13 + 1), f"{n:02d}.csv")
    plan = inspect(tmp_path)
    tasks = plan.tasks(part_bytes=100)
    assert [part for task in tasks for part in task] == plan.parts(part_bytes=100)
    sizes = [sum(part.stop - part.start for part in task) for task in tasks]
    assert max(sizes) <= 100
    assert len(tasks) < 25
    assert all(first + second > 100 - 13 * 4 for first, second in itertools.pairwise(sizes))
