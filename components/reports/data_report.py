"""What a prepared dataset is like, for people: a page that stands alone, and its pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components import storage
from components.data import activity
from components.data.long_tail import PowerLaw
from components.data.statistics import DatasetStatistics
from components.evaluation import popularity_shift
from components.reports import data_plots
from components.reports.page import Page

PAGE = "report.html"


def write(folder: Path, about: Mapping[str, Any], statistics: DatasetStatistics) -> None:
    """Writes the page and the pictures into `folder`, from counts alone: the same dataset, the same bytes.

    Args:
        about: the dataset's manifest.
        statistics: what its `statistics` were made of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page = Page(f"Dataset {about['fingerprint']}")
    sizes = f"{about['counts']['left']:,} rows of {about['num_users']:,} users and {about['num_items']:,} items"
    density = f"density {about['statistics']['density']:.3%}"
    page.text(f"{sizes}, {density}. The rules are in manifest.json, beside the folder of this page.")
    _stages(page, about, folder)
    _splits(page, about, folder)
    _long_tail(page, about, statistics, folder)
    _lengths(page, about, statistics, folder)
    times = {name: statistics.activity[name] for name in about["rows"] if name in statistics.activity}
    if (shown := activity.shown(times) if times else None) is not None:
        page.heading("Activity over time")
        data_plots.activity(shown, folder / "activity.png")
        page.picture(folder / "activity.png", "Rows of each split over time")
    _shift(page, statistics, folder)
    storage.write_text(folder / PAGE, page.html(f"Made by python -m ray_jobs.prepare from dataset {about['fingerprint']}"))


def _stages(page: Page, about: Mapping[str, Any], folder: Path) -> None:
    counts, before = about["counts"], about["before_k_core"]
    page.heading("From the log to the dataset")
    page.table(["", "rows", "users", "items"], _stage_rows(about))
    stages = [before, *counts["k_core_rounds"]]
    if stages[-1] != before:
        page.text("What is left after each round of the k-core, which stops when a round takes nothing.")
        data_plots.k_core(stages, folder / "k_core.png")
        page.picture(folder / "k_core.png", "Rows, users and items left after each round of the k-core")


def _stage_rows(about: Mapping[str, Any]) -> Iterator[list[str]]:
    counts = about["counts"]
    yield ["read", f"{counts['read']:,}", "", ""]
    for what in ("filtered", "quarantined"):
        for rule, number in sorted(counts[what].items()):
            yield [f"{what}: {rule}", f"-{number:,}", "", ""]
    yield ["repeats of a user and an item", f"-{counts['repeats']:,}", "", ""]
    named = [("before the k-core", about["before_k_core"])]
    named += [(f"k-core, round {n}", stage) for n, stage in enumerate(counts["k_core_rounds"], 1)]
    for name, stage in named:
        yield [name, *(f"{stage[key]:,}" for key in ("rows", "users", "items"))]
    for name, number in counts["unknown"].items():
        if number:
            yield [f"{name}: user or item not in train", f"-{number:,}", "", ""]
    yield ["left", f"{counts['left']:,}", f"{about['num_users']:,}", f"{about['num_items']:,}"]


def _splits(page: Page, about: Mapping[str, Any], folder: Path) -> None:
    rows, found = about["rows"], about["statistics"]
    page.heading("Splits")
    page.text(
        "Of each split that is held out: users and items that have a row in train, too, and those that have none (cold); cold "
        "rows, whose user or item is; and rows whose user has the same item in train."
    )
    header = ["", "rows", "%", "users", "in train", "cold", "items", "in train", "cold", "cold rows", "same in train"]
    page.table(header, _split_rows(about))
    cold = {
        name: {
            **{kind: (held[f"{kind}_not_in_train"], held[kind]) for kind in ("users", "items")},
            "rows": (found["cold_rows"][name], rows[name]),
        }
        for name, held in found["held_out"].items()
        if rows[name]
    }
    data_plots.splits(rows, cold, folder / "splits.png")
    page.picture(folder / "splits.png", "Rows of each split, and what of those that are held out train does not know")
    if found["times"]:
        page.text(
            "From when to when the splits are, as the log counts time, and how many rows are earlier than a row of "
            "their user in train."
        )
        spans = ((name, found["times"][name]) for name in rows if name in found["times"])
        cells = ([name, str(span["first"]), str(span["last"]), f"{span['behind']:,}"] for name, span in spans)
        page.table(["", "first", "last", "earlier"], cells)


def _split_rows(about: Mapping[str, Any]) -> Iterator[list[str]]:
    found, left = about["statistics"], about["counts"]["left"]
    for name, number in about["rows"].items():
        cells = [f"{number:,}", f"{100 * number / left:.2f}"]
        if name not in found["held_out"]:
            users = about["num_users"] - found["users_without_train_rows"]
            items = about["num_items"] - found["items_without_train_rows"]
            yield [name, *cells, f"{users:,}", "", "", f"{items:,}", "", "", "", ""]
            continue
        held = found["held_out"][name]
        for kind in ("users", "items"):
            cold = held[f"{kind}_not_in_train"]
            cells += [f"{held[kind]:,}", f"{held[kind] - cold:,}", f"{cold:,}"]
        yield [name, *cells, f"{found['cold_rows'][name]:,}", f"{held['rows_also_in_train']:,}"]


def _long_tail(page: Page, about: Mapping[str, Any], statistics: DatasetStatistics, folder: Path) -> None:
    popularity = about["statistics"]["popularity"]
    law = PowerLaw(**popularity["power_law"]) if popularity["power_law"] else None
    page.heading("Long tail")
    page.text(
        f"In train the most popular 1 % of the items have {popularity['top_1_percent_share']:.1%} of the rows, the most "
        f"popular 10 % have {popularity['top_10_percent_share']:.1%}; Gini's coefficient is {popularity['gini']:.3f}; "
        f"{about['statistics']['items_without_train_rows']:,} items have no row there."
    )
    if law is not None:
        page.text(
            f"Exponent {law.exponent:.3f}: of the {law.items:,} items with x >= {law.start:,} rows, a share proportional to "
            f"x^-{law.exponent:.3f} has x rows; by rank, rows fall as rank^{law.slope:.3f}. Fitted by maximum likelihood "
            f"(discrete), from the number of rows on for which law and items lie closest: Kolmogorov and Smirnov's distance is "
            f"{law.distance:.4f} (Clauset, Shalizi, Newman 2009, arXiv 0706.1062)."
        )
    data_plots.long_tail(statistics.degree, law, folder / "long_tail.png")
    page.picture(folder / "long_tail.png", "Rows of items in train by rank, on logarithmic axes, and the fitted power law")


def _lengths(page: Page, about: Mapping[str, Any], statistics: DatasetStatistics, folder: Path) -> None:
    page.heading("History lengths")
    page.text("Rows of a user in train: the mean, and the least length that so many users do not exceed.")
    found = about["statistics"]["history_length"]
    values = [f"{value:,.2f}" if name == "mean" else f"{value:,}" for name, value in found.items()]
    page.table(["", *found], [["rows", *values]])
    data_plots.history_lengths(statistics.lengths, folder / "history_lengths.png")
    page.picture(folder / "history_lengths.png", "Shares of users by their rows in train")


def _shift(page: Page, statistics: DatasetStatistics, folder: Path) -> None:
    degree_I = statistics.degree
    held = {name: rows for name, rows in statistics.held.items() if rows.any()}
    shares = {name: popularity_shift.shares(rows, degree_I) for name, rows in {"train": degree_I, **held}.items()}
    if not held:
        return
    divergences = {name: popularity_shift.divergence(shares["train"], own) for name, own in shares.items() if name != "train"}
    page.heading("Popularity shift")
    page.text(
        "Items are in ten groups by their rows in train, each of about as many rows, the least popular first; a split of its "
        "popularity has a tenth of its rows in each. JS is the divergence of Jensen and Shannon between a split's shares q and "
        "train's p: the mean of sum p log2(p / m) and sum q log2(q / m), m = (p + q) / 2; 0 is train's, 1 the farthest."
    )
    header = ["", *("not in train", *(str(n) for n in range(1, 11))), "JS"]
    rows = ([name, *(f"{share:.2%}" for share in own), _js(divergences.get(name))] for name, own in shares.items())
    page.table(header, rows)
    data_plots.popularity_shift(shares, divergences, folder / "popularity_shift.png")
    page.picture(folder / "popularity_shift.png", "Shares of each split's rows by the items' popularity in train")


def _js(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
