"""A page is well formed, loads nothing from elsewhere, and shows texts as they are."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from components.reports.page import Link, Page


class Reader(HTMLParser):
    """What a browser would make of it: text, attributes that load something, and whether every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name == "src" or (name == "href" and tag != "a")]
        self.leads += [value or "" for name, value in attrs if name == "href" and tag == "a"]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_a_page_stands_alone(tmp_path: Path) -> None:
    Figure().savefig(tmp_path / "plot.png")
    page = Page("MF & <LightGCN>")
    page.heading("Differences")
    page.text("a < b")
    page.table(["", "recall@20"], [["<script>alert(1)</script>", ".1"], ["mf", ".2"]])
    page.picture(tmp_path / "plot.png", 'a "curve"')
    text = page.html("made by a test")
    read = Reader()
    read.feed(text)
    assert read.open == []
    assert len(read.loads) == 1
    assert read.loads[0].startswith("data:image/png;base64,")
    assert {"MF & <LightGCN>", "a < b", "<script>alert(1)</script>", "mf", ".2", "made by a test"} <= set(read.words)
    assert not re.search(r"<script|https?://|@import|url\(", text)


def test_a_cell_may_lead_to_the_web_and_nowhere_else() -> None:
    page = Page("links")
    page.table(["run"], [[Link("a & b", 'http://mlflow:5000/#/runs/1?a="b"&c')]])
    read = Reader()
    read.feed(page.html(""))
    assert read.open == read.loads == []
    assert read.leads == ['http://mlflow:5000/#/runs/1?a="b"&c']
    assert "a & b" in read.words
    with pytest.raises(AssertionError, match="javascript:alert"):
        page.table(["run"], [[Link("run", "javascript:alert(1)")]])
