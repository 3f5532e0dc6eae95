"""RESULTS.md and README say what the kept results say."""

from __future__ import annotations

import re

import pytest
from matplotlib.figure import Figure

from tests.benchmarks import report
from tests.benchmarks._markdown import ROOT


def test_results_are_made_from_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)  # the pictures are there
    assert (ROOT / "RESULTS.md").read_text(encoding="utf-8") == report.page()


def test_readmes_figures_are_among_the_results() -> None:
    readme, results = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "RESULTS.md"))
    (first,) = re.findall(r"## First results\n(.*?)\n## ", readme, re.DOTALL)
    told = re.findall(r"(?<![\d.])(\.\d{4}|\d+\.\d{2}(?=x)|\d+\.\d(?= s\b))", first)
    assert len(told) > 20
    assert not [figure for figure in told if figure not in results]
