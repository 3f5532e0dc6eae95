"""The page of a dataset: its numbers are those of the log, counted by polars; it stands alone; its pictures are pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from components.data.statistics import DatasetStatistics, ShardStatistics
from components.reports import data_report
from tests.unit.reports.test_page import Reader

FIRST = 1_500_000_000


def log(splits: dict[str, float], seed: int = 0, rows: int = 4000, users: int = 150, items: int = 300) -> pl.DataFrame:
    """Users uniform, items by Zipf's law, splits drawn; a user's time goes on; some users and items are in no train."""
    random = np.random.default_rng(seed)
    law = 1 / np.arange(1, items + 1)
    frame = pl.DataFrame(
        {
            "user": np.sort(random.integers(0, users, rows)),
            "item": random.choice(items, rows, p=law / law.sum()),
            "split": random.choice(list(splits), rows, p=list(splits.values())),
            "time": FIRST + random.integers(0, 90_000_000, rows),
        }
    )
    held = pl.lit(next(name for name in [*splits][::-1]))
    cold = (pl.col("user") % 20 == 3) | (pl.col("item") % 17 == 5)
    return frame.with_columns(pl.when(cold).then(held).otherwise("split").alias("split"))


def written(folder: Path, frame: pl.DataFrame, names: list[str], has_time: bool = True, **changes: Any) -> Reader:
    """The page that is written from two shards of the log."""
    statistics = DatasetStatistics(np.zeros(int(frame["item"].to_numpy().max()) + 1, np.int64))
    for shard in (frame.filter(pl.col("user") < 60), frame.filter(pl.col("user") >= 60)):
        user = np.unique(shard["user"].to_numpy(), return_inverse=True)[1]
        split = np.array([names.index(name) for name in shard["split"]], np.int8)
        times = shard["time"].to_numpy() if has_time else None
        statistics.add(ShardStatistics.of(user, shard["item"].to_numpy(), split, names, times))
    about = {
        "fingerprint": "0123456789ab",
        "num_users": statistics.users,
        "num_items": len(statistics.degree),
        "rows": dict(statistics.rows),
        "before_k_core": {"users": 1234, "items": 2345, "rows": 34567},
        "counts": {
            "read": 45678,
            "filtered": {"rating at_least 2": 111},
            "quarantined": {"user_id is null": 222},
            "repeats": 333,
            "k_core_rounds": [{"users": 999, "items": 888, "rows": 7777}, {"users": 150, "items": 300, "rows": len(frame)}],
            "unknown": {},
            "left": len(frame),
        },
        "statistics": statistics.describe(),
        **changes,
    }
    data_report.write(folder, about, statistics)
    page = Reader()
    page.feed((folder / data_report.PAGE).read_text(encoding="utf-8"))
    assert page.open == []
    return page


def row(page: Reader, name: str, after: str) -> list[str]:
    """The cells behind `name`, of the first row so called after a heading or a text."""
    at = page.words.index(name, page.words.index(after))
    return page.words[at + 1 :]


def number(value: int) -> str:
    return f"{value:,}"


SPLITS = {
    "ratio": {"train": 0.8, "valid": 0.1, "test": 0.1},
    "one test": {"train": 0.8, "test": 0.2},
    "several tests": {"train": 0.6, "valid": 0.1, "test": 0.1, "test_ood": 0.1, "test_gamma200": 0.1},
}


@pytest.mark.parametrize("splits", SPLITS.values(), ids=SPLITS)
def test_the_numbers_are_those_of_the_log(tmp_path: Path, splits: dict[str, float]) -> None:
    names, frame = [*dict.fromkeys(["train", "valid", "test", *splits])], log(splits)
    page = written(tmp_path / "report", frame, names)
    train = frame.filter(pl.col("split") == "train")
    degree = train.group_by("item").agg(pl.len().alias("rows")).sort("rows", "item")
    for name in names[1:]:
        held = frame.filter(pl.col("split") == name)
        known = pl.col("user").is_in(train["user"].implode()) & pl.col("item").is_in(train["item"].implode())
        same = len(held.join(train.select("user", "item").unique(), on=["user", "item"], how="semi"))
        expected = [len(held), f"{100 * len(held) / len(frame):.2f}"]
        for kind in ("user", "item"):
            own, trains = set(held[kind]), set(train[kind])
            expected += [len(own), len(own & trains), len(own - trains)]
        expected += [len(held.filter(~known)), same]
        cells = [value if isinstance(value, str) else number(value) for value in expected]
        assert row(page, name, "Splits")[: len(cells)] == cells
        if len(held):
            span = [str(held["time"].min()), str(held["time"].max())]
            assert row(page, name, "earlier")[:2] == span
            assert row(page, name, "Popularity shift")[:12] == shift(train, held)
    assert row(page, "train", "Splits")[:4] == [
        number(len(train)),
        f"{100 * len(train) / len(frame):.2f}",
        number(train["user"].n_unique()),
        number(train["item"].n_unique()),
    ]
    lengths = train.group_by("user").len()["len"].extend_constant(0, frame["user"].n_unique() - train["user"].n_unique())
    assert row(page, "rows", "History lengths")[0] == f"{lengths.mean():,.2f}"
    for place, share in {2: 0.25, 3: 0.5, 5: 0.95}.items():
        assert row(page, "rows", "q99")[place] == number(int(np.quantile(lengths, share, method="inverted_cdf")))
    head = degree["rows"].tail(round(frame["item"].max() * 0.1 + 0.1)).sum() / len(train)  # pyright: ignore
    assert f"the most popular 10 % have {head:.1%}" in " ".join(page.words)


def shift(train: pl.DataFrame, held: pl.DataFrame) -> list[str]:
    """Shares by tenths and their divergence, row by row: one counts in each tenth that items as popular as its own lie in."""
    degree = dict(train.group_by("item").len().sort("len", "item").iter_rows())
    tenths, running = {rows: [] for rows in degree.values()}, 0  # by popularity, one for each item of it
    for rows in degree.values():
        running += rows
        tenths[rows].append(-(-running * 10 // len(train)))
    p, q = (np.zeros(11), np.zeros(11))
    for shares, frame in ((p, train), (q, held)):
        for item in frame["item"]:
            own = tenths[degree[item]] if item in degree else [0]
            for tenth in own:
                shares[tenth] += 1 / len(own) / len(frame)
    m = (p + q) / 2
    js = sum(x * np.log2(x / y) for own in (p, q) for x, y in zip(own, m, strict=True) if x) / 2
    return [*(f"{share:.2%}" for share in q), f"{js:.4f}"]


def test_what_preparation_counted_is_there_round_by_round(tmp_path: Path) -> None:
    page = written(tmp_path, log(SPLITS["ratio"]), [*SPLITS["ratio"]])
    for name, cells in {
        "read": ["45,678"],
        "filtered: rating at_least 2": ["-111"],
        "quarantined: user_id is null": ["-222"],
        "repeats of a user and an item": ["-333"],
        "before the k-core": ["34,567", "1,234", "2,345"],
        "k-core, round 1": ["7,777", "999", "888"],
        "k-core, round 2": ["4,000", "150", "300"],
    }.items():
        assert row(page, name, "From the log to the dataset")[: len(cells)] == cells


def test_the_fitted_exponent_is_on_the_page_with_how_it_was_fitted(tmp_path: Path) -> None:
    page = written(tmp_path, log(SPLITS["one test"], rows=40_000, items=2000), ["train", "valid", "test"])
    (text,) = (words for words in page.words if words.startswith("Exponent "))
    exponent = float(text.split()[1].rstrip(":"))
    assert exponent == pytest.approx(2, abs=0.2), "1 + 1 / s of the log's law of ranks, s = 1"
    assert "maximum likelihood" in text
    assert "arXiv 0706.1062" in text


def pictures(folder: Path) -> set[str]:
    for path in folder.glob("*.png"):
        image = imread(path)  # raises where it is no PNG
        assert (image[..., :3].min(axis=-1) < 0.9).mean() > 0.01, f"{path} is empty"
    return {path.stem for path in folder.glob("*.png")}


ALL = {"k_core", "splits", "long_tail", "history_lengths", "activity", "popularity_shift"}


def test_the_page_stands_alone_with_every_picture_that_lies_beside_it(tmp_path: Path) -> None:
    page = written(tmp_path, log(SPLITS["several tests"]), [*SPLITS["several tests"]])
    assert pictures(tmp_path) == ALL
    assert len(page.loads) == len(ALL)
    assert all(each.startswith("data:image/png;base64,") for each in page.loads)
    assert page.leads == []
    text = (tmp_path / data_report.PAGE).read_text(encoding="utf-8")
    assert not re.search(r"<script|https?://|@import|url\(", text)


def test_every_axis_says_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, drawn = Figure.savefig, []
    monkeypatch.setattr(Figure, "savefig", lambda own, path: (drawn.append(own), real(own, path))[1])
    written(tmp_path, log(SPLITS["ratio"]), [*SPLITS["ratio"]])
    assert len(drawn) == len(ALL)
    for own in drawn:
        for axes in own.axes:
            assert axes.get_xlabel()
            labels = [text.get_text() for text in axes.get_yticklabels()]
            assert axes.get_ylabel() or set(labels) <= {*SPLITS["ratio"]}, "bars have their names"


def test_without_times_nothing_is_said_of_time(tmp_path: Path) -> None:
    page = written(tmp_path, log(SPLITS["ratio"]), [*SPLITS["ratio"]], has_time=False)
    assert pictures(tmp_path) == ALL - {"activity"}
    assert not {"Activity over time", "earlier"} & set(page.words)


def test_a_log_without_a_row_that_is_held_out(tmp_path: Path) -> None:
    frame = log(SPLITS["ratio"]).with_columns(split=pl.lit("train"))
    page = written(tmp_path, frame, [*SPLITS["ratio"]])
    assert pictures(tmp_path) == ALL - {"popularity_shift"}
    assert row(page, "test", "Splits")[:2] == ["0", "0.00"]


def test_a_tiny_log(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": [0, 0], "item": [0, 1], "split": ["train", "test"], "time": [5, 5]})
    counts = {"read": 2, "filtered": {}, "quarantined": {}, "repeats": 0, "unknown": {"test": 0}, "left": 2}
    same = {"users": 1, "items": 2, "rows": 2}
    page = written(tmp_path, frame, ["train", "valid", "test"], before_k_core=same, counts={**counts, "k_core_rounds": [same]})
    assert pictures(tmp_path) == ALL - {"activity", "k_core"}
    assert row(page, "test", "Splits")[:9] == ["1", "50.00", "1", "1", "0", "1", "0", "1", "1"]


def test_the_same_counts_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        written(tmp_path / name, log(SPLITS["ratio"]), [*SPLITS["ratio"]])
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == len(ALL) + 1
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes() for name in files)


def test_what_a_user_named_is_shown_as_it_is(tmp_path: Path) -> None:
    name = "test_<b>&$x_1$"
    frame = log(SPLITS["ratio"]).with_columns(pl.col("split").replace({"test": name}))
    rule = "<script>alert(1)</script> at_least 2"
    counts = {"read": 9, "quarantined": {}, "filtered": {rule: 1}, "repeats": 0, "unknown": {}, "left": len(frame)}
    page = written(tmp_path, frame, ["train", "valid", name], counts={**counts, "k_core_rounds": []})
    assert name in page.words
    assert f"filtered: {rule}" in page.words
    assert "<script" not in (tmp_path / data_report.PAGE).read_text(encoding="utf-8")
