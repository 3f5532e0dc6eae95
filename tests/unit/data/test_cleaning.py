"""Every row is kept, filtered or refused with its reason, whatever bytes it is made of."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.data.cleaned import clean, file

HEADER = "user_id,item_id,rating,t\n"


def parquet(folder: Path, **columns: Any) -> Path:
    path = folder / "log.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_text_where_a_number_belongs_is_refused(tmp_path: Path) -> None:
    rows = "a,x,5,1\na,y,five,2\na,z,,3\nb,x,nan,4\nb,y,inf,5\nb,z,4.5e0,6\n"
    result = clean(file(tmp_path, HEADER + rows), keep=[{"column": "rating", "at_least": 4}])
    assert result.pairs == [("a", "x"), ("b", "z")]
    assert result.reasons == ["rating is not a number", "rating is empty", "rating is not finite", "rating is not finite"]
    assert [row["raw"] for row in result.refused] == ["a,y,five,2", "a,z,,3", "b,x,nan,4", "b,y,inf,5"]
    assert [row["line"] for row in result.refused] == [2, 3, 4, 5]


def test_a_row_that_fails_a_rule_is_filtered_and_not_refused(tmp_path: Path) -> None:
    rows = "a,x,5,9\na,y,3,9\na,z,4,1\nb,x,2,oops\n"
    rules = [{"column": "rating", "at_least": 4}, {"column": "t", "above": 1}]
    result = clean(file(tmp_path, HEADER + rows), keep=rules)
    assert result.pairs == [("a", "x")]
    assert result.counts.filtered == {"rating at least 4": 1, "t above 1": 1}
    assert result.counts.quarantined == {"t is not a number": 1}
    assert result.counts.read == 4


@pytest.mark.parametrize(("at_least", "above", "left"), [(0, None, 2), (None, 0, 1), (-1, None, 3), (None, 1, 0)])
def test_bounds_are_closed_and_open(tmp_path: Path, at_least: float | None, above: float | None, left: int) -> None:
    path = parquet(tmp_path, user_id=[1, 2, 3], item_id=[1, 2, 3], q=[-1, 0, 1])
    assert clean(path, keep=[{"column": "q", "at_least": at_least, "above": above}]).counts.kept == left


def test_null_and_empty_users_and_items_are_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path, user_id=["a", None, "", "b"], item_id=[1, 2, 3, None])
    result = clean(path)
    assert result.pairs == [("a", 1)]
    assert result.counts.quarantined == {"user_id is null": 1, "user_id is empty": 1, "item_id is null": 1}
    text = clean(file(tmp_path, "user_id,item_id\n,1\na,\na,1\n"))
    assert text.pairs == [("a", "1")]
    assert text.reasons == ["user_id is empty", "item_id is empty"]


def test_nan_and_infinite_times_are_refused(tmp_path: Path) -> None:
    times = [1.5, float("nan"), float("inf"), float("-inf"), None, 1e30]
    result = clean(parquet(tmp_path, user_id=[1] * 6, item_id=list(range(6)), t=times), columns={"time": "t"})
    assert result.pairs == [(1, 0)]
    assert result.reasons == ["t is not finite"] * 3 + ["t is null", "t is out of range"]
    text = clean(file(tmp_path, HEADER + "a,x,1,1.5\na,y,1,NaN\na,z,1,-inf\na,w,1,\na,v,1,soon\n"), columns={"time": "t"})
    assert text.pairs == [("a", "x")]
    assert text.reasons == ["t is not finite", "t is not finite", "t is empty", "t is not a number"]


@pytest.mark.parametrize(("kind", "empty"), [(pa.string_view(), ""), (pa.binary_view(), b"")])
def test_ids_of_views_are_text(tmp_path: Path, kind: pa.DataType, empty: Any) -> None:
    ids = pa.array([b"a" * 20, None, empty, b"\xff", b"b"] if kind == pa.binary_view() else ["a" * 20, None, empty, "b"], kind)
    result = clean(parquet(tmp_path, user_id=ids, item_id=list(range(len(ids)))))
    assert result.pairs == [("a" * 20, 0), ("b", len(ids) - 1)]
    assert result.reasons[:2] == ["user_id is null", "user_id is empty"]


def test_negative_and_huge_ids_are_ids(tmp_path: Path) -> None:
    ids = [-1, -(2**63), 2**63 - 1, 2**53 + 1, 0]
    result = clean(parquet(tmp_path, user_id=pa.array(ids, pa.int64()), item_id=pa.array(ids, pa.int64())))
    assert result.pairs == list(zip(ids, ids, strict=True))
    unsigned = clean(parquet(tmp_path, user_id=pa.array([0, 2**64 - 1], pa.uint64()), item_id=[1, 2]))
    assert unsigned.pairs == [("0", 1), (str(2**64 - 1), 2)]
    text = clean(file(tmp_path, "user_id,item_id\n-1,123456789012345678901234567890\n"))
    assert text.pairs == [("-1", "123456789012345678901234567890")]


@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.inter"])
def test_ids_of_text_are_kept_as_written(tmp_path: Path, name: str) -> None:
    fields = [["007", "0001"], ["7", "1"], ["1e3", " x "], ["é", "0x1F"]]
    between = "," if name == "log.csv" else "\t"
    header = ["user_id:token", "item_id:token"] if name == "log.inter" else ["user_id", "item_id"]
    path = file(tmp_path, "".join(between.join(row) + "\n" for row in [header, *fields]), name)
    assert clean(path).pairs == [tuple(row) for row in fields]


def test_integers_with_nulls_written_as_floats_stay_integers(tmp_path: Path) -> None:
    result = clean(parquet(tmp_path, user_id=[1.0, 2.5, float("nan"), 2.0**60, -3.0], item_id=[1, 2, 3, 4, 5]))
    assert result.pairs == [(1, 1), (-3, 5)]
    assert result.reasons == ["user_id is not a whole number"] * 3


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("last", [True, False])
def test_byte_order_marks_and_line_ends_change_nothing(tmp_path: Path, end: str, mark: str, last: bool) -> None:
    text = mark + end.join(["user_id,item_id,rating", "a,x,5", "", "b,y,4"]) + (end if last else "")
    result = clean(file(tmp_path, text), keep=[{"column": "rating", "at_least": 4}])
    assert result.pairs == [("a", "x"), ("b", "y")]
    assert not result.refused
    assert result.counts.read == 2


def test_latin_1_is_refused_as_utf_8_and_read_as_latin_1(tmp_path: Path) -> None:
    path = file(tmp_path, "user_id,item_id,title\nJosé,x,é\nAna,y,é\n".encode("latin-1"))
    result = clean(path)
    assert result.pairs == [("Ana", "y")], "a column that nobody reads may hold any bytes"
    assert result.reasons == ["user_id is not UTF-8 (data.encoding: latin-1 may read it)"]
    assert result.refused[0]["raw"] == r"Jos\xe9,x,\xe9"
    assert clean(path, encoding="latin-1").pairs == [("José", "x"), ("Ana", "y")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a", "wrong number of fields (the header has 2)"),
        ("a,b,c", "wrong number of fields (the header has 2)"),
        ("   ", "wrong number of fields (the header has 2)"),
        ('"a,b', "a quote is not closed in its line"),
        ("a\rb,c", "a carriage return inside the line"),
    ],
)
def test_a_line_that_is_no_row_is_refused_alone(tmp_path: Path, line: str, reason: str) -> None:
    result = clean(file(tmp_path, f'user_id,item_id\nu,x\n{line}\nv,"y, z"\n'.encode()))
    assert result.pairs == [("u", "x"), ("v", "y, z")]
    assert result.refused == [{"file": str(tmp_path / "log.csv"), "line": 2, "reason": reason, "raw": line}]


def test_a_quote_that_opens_late_swallows_no_line(tmp_path: Path) -> None:
    result = clean(file(tmp_path, 'user_id,item_id\nu,x\nx","y\nv,z\nw,"q"\n'))
    assert [pair for pair in result.pairs if pair[0] in "uvw"] == [("u", "x"), ("v", "z"), ("w", "q")]
    assert result.counts.read == 4


def test_quotes_mean_nothing_in_tab_separated_text(tmp_path: Path) -> None:
    assert clean(file(tmp_path, 'user_id\titem_id\n"a\tx\nb\ty"\n', "log.tsv")).pairs == [('"a', "x"), ("b", 'y"')]


@pytest.mark.parametrize("neighbour", [b"v,z", b'"\xff",z'])  # beside the second the fast parser cannot be used
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_only_a_line_with_quotes_is_too_long_whatever_its_neighbours(tmp_path: Path, neighbour: bytes, encoding: str) -> None:
    quoted, plain, longest = (b'"' + b"q" * 131_073 + b'",y', b"p" * 131_073 + b",y", b'"' + b"\xe9" * 131_068 + b'",y')
    path = file(tmp_path, b"user_id,item_id\n" + b"\n".join([b"u,x", neighbour, quoted, plain, longest]) + b"\n")
    result = clean(path, encoding=encoding)
    assert [row["line"] for row in result.refused if "quotes" in row["reason"]] == [3]
    assert "a line with quotes of more than 131,072 bytes" in result.reasons
    assert {"u", "p" * 131_073} <= {user for user, _ in result.pairs}
    assert ("é" * 131_068 in {user for user, _ in result.pairs}) == (encoding == "latin-1")
    result.counts.check()


def test_random_bytes_never_crash_and_add_up(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for n in range(30):
        body = random.choice(np.frombuffer(b'ab1,,,\n\n"\r\xff\x00;-.e', np.uint8), 400).tobytes()
        path = file(tmp_path, b"user_id,item_id,rating,t\n" + body, f"{n}.csv")
        result = clean(path, part_bytes=64, keep=[{"column": "rating", "above": 0}], columns={"time": "t"})
        result.counts.check()
        lines = [line for line in body.split(b"\n") if line not in (b"", b"\r")]
        assert result.counts.read == len(lines), f"seed 0, file {n}"


def test_parts_of_text_hold_each_row_once(tmp_path: Path) -> None:
    rows = [f"u{n % 7},{'i' * (n % 13)}{n}" for n in range(100)]
    path = file(tmp_path, "user_id,item_id\r\n" + "\r\n".join(rows))
    together = clean(path)
    assert [",".join(pair) for pair in together.pairs] == rows
    for part_bytes in (1, 7, 64, 1000):
        apart = clean(path, part_bytes=part_bytes)
        assert apart.kept.equals(together.kept), part_bytes


def test_lightgcn_lines_are_rows_of_one_user(tmp_path: Path) -> None:
    file(tmp_path, "0 10 011\n1\n\n2 10 \n", "train.txt")
    file(tmp_path, "1 10", "test.txt")
    result = clean(tmp_path, split={"by": "given"})
    rows = zip(*(result.kept[name].to_pylist() for name in ("user", "item", "split")), strict=True)
    assert list(rows) == [("1", "10", "test"), ("0", "10", "train"), ("0", "011", "train"), ("2", "10", "train")]


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    result = clean(
        parquet(tmp_path, user_id=[1] * 4, item_id=[1, 2, 3, 4], split=["train", "test_ood", "dev", None]),
        split={"by": "given"},
    )
    assert result.kept["split"].to_pylist() == ["train", "test_ood"]
    assert result.reasons == ["split is none of train, valid, test, valid_NAME, test_NAME", "split is null"]
    assert result.counts.splits == {"train": 1, "test_ood": 1}


# times --------------------------------------------------------------------------------------------------------------


def times(path: Path) -> list[float]:
    kept = clean(path, columns={"time": "t"}).kept
    fractions = kept["fraction"].to_pylist() if "fraction" in kept.column_names else [0] * len(kept)
    return [w + f for w, f in zip(kept["time"].to_pylist(), fractions, strict=True)]


def test_integers_keep_every_digit(tmp_path: Path) -> None:
    nanoseconds = [1_600_000_000_123_456_789, 1_600_000_000_123_456_788, -5]
    path = parquet(tmp_path, user_id=[1] * 3, item_id=[1, 2, 3], t=nanoseconds)
    assert clean(path, columns={"time": "t"}).kept["time"].to_pylist() == nanoseconds
    text = "".join(f"a,{n},1,{t}\n" for n, t in enumerate(nanoseconds))
    assert clean(file(tmp_path, HEADER + text), columns={"time": "t"}).kept["time"].to_pylist() == nanoseconds


def test_floats_come_back_exactly(tmp_path: Path) -> None:
    values = [1598921185.279, -0.25, 0.0, 1e15 + 0.125]
    assert times(parquet(tmp_path, user_id=[1] * 4, item_id=[1, 2, 3, 4], t=values)) == values
    result = clean(file(tmp_path, HEADER + "a,x,1,1598921185.279\na,y,1,3\n"), columns={"time": "t"})
    assert result.counts.float_time
    assert result.kept["time"].to_pylist() == [1598921185, 3]


def test_dates_are_microseconds(tmp_path: Path) -> None:
    moment = datetime(2020, 2, 29, 12, 30, 15, 250_000, tzinfo=UTC)
    micros = int(moment.timestamp() * 1e6)
    column = pa.array([moment], pa.timestamp("ns", "UTC"))
    assert times(parquet(tmp_path, user_id=[1], item_id=[1], t=column)) == [micros]
    written = [
        "2020-02-29T12:30:15.250",
        "2020-02-29 12:30:15.250000",
        "2020-02-29T13:30:15.250+01:00",
        "2020-02-29T12:30:15.250Z",
    ]
    for text in written:
        assert times(file(tmp_path, HEADER + f"a,x,1,{text}\n")) == [micros], text
    result = clean(file(tmp_path, HEADER + "a,x,1,2020-02-29\na,y,1,2020-02-30\na,z,1,123\n"), columns={"time": "t"})
    assert result.pairs == [("a", "x")]
    assert result.reasons == ["t is not a date"] * 2


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.timestamp("s"), 2**53),
        (pa.timestamp("ms", "UTC"), -(2**61)),
        (pa.timestamp("ms"), 2**61),
        (pa.date32(), 2**31 - 1),
    ],
)
def test_dates_that_microseconds_cannot_hold_are_refused(tmp_path: Path, kind: pa.DataType, value: int) -> None:
    number = pa.int32() if kind == pa.date32() else pa.int64()
    column = pa.array([value, 7, None], number).cast(kind)
    result = clean(parquet(tmp_path, user_id=[1, 2, 3], item_id=[1, 2, 3], t=column), columns={"time": "t"})
    assert result.pairs == [(2, 2)]
    assert result.reasons == ["t is out of range", "t is null"]
