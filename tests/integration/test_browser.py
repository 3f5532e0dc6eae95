"""What a person who tunes looks for is on MLflow's pages: of a real search, tracked in a real server, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, expect

from components import storage
from ray_jobs import _dataflow, _found, _search, _search_report, _trials
from tests.integration import browsing, training
from tests.integration.browsing import Pages, ink, run_ids
from tests.integration.preparing import write_log
from tests.integration.training import MlflowServer

TOO_WIDE = 10**12  # terabytes
METRIC = "valid_recall_at_20"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chromium() -> str:
    return browsing.require_chromium()


@pytest.fixture(scope="module")
def searched(chromium: str, cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A search of four trials, the last of which ends out of memory; its server runs."""
    folder = tmp_path_factory.mktemp("browser")
    server = MlflowServer(folder)
    server.start()
    store = folder / "store"
    recipe = training.recipe(
        write_log(folder / "log.csv", rows=3000),
        store,
        search={"space": {"encoder.dim": {"choice": [4, 8, 16, TOO_WIDE]}}, "searcher": "grid"},
        tracking={"uri": server.uri, "experiment": "browsed"},
        training={"batch_size": 256, "epochs": 4},
        scale={"storage_path": str(store), "num_workers": 1},
    )
    try:
        yield _search.run(recipe, _dataflow.prepare(recipe, report=lambda line: None))
    finally:
        server.kill()


@pytest.fixture(scope="module")
def browser(chromium: str, searched: Path) -> Iterator[Browser]:
    with browsing.browser(chromium) as opened:
        yield opened


@pytest.fixture
def pages(browser: Browser, searched: Path) -> Iterator[Pages]:
    pages = Pages(browser, searched)
    yield pages
    pages.page.close()


def line(pages: Pages, name: str) -> Locator:
    """The row of a table on a run's page, by what stands first in it."""
    return pages.page.get_by_role("row").filter(has=pages.page.get_by_text(name, exact=True))


def place(found: Locator) -> Any:
    box = found.bounding_box()
    assert box is not None, "it is not on the page"
    return box


def widths(images: Locator) -> list[int]:
    """Of each image's own pixels: 0 of one that did not load."""
    expect(images.first).to_be_visible()
    return images.evaluate_all("images => Promise.all(images.map(i => i.decode().then(() => i.naturalWidth, () => 0)))")


def test_trials_are_folded_below_their_search(pages: Pages, searched: Path) -> None:
    trials = run_ids(searched, "finished") | run_ids(searched, "failed")
    assert len(trials) == 4
    search = pages.runs()
    assert [pages.row(run_id).count() for run_id in trials.values()] == [0, 0, 0, 0]
    pages.unfold()
    name = place(search.locator("a").first)
    for trial, run_id in trials.items():
        expect(pages.name(run_id)).to_have_text(trial)
        below = place(pages.name(run_id))
        assert below["y"] > name["y"], "it stands under the search"
        assert below["x"] > name["x"], "and further in"
    pages.unfold()
    for run_id in trials.values():
        expect(pages.row(run_id)).to_have_count(0)


def test_a_search_says_what_it_came_to(pages: Pages, searched: Path) -> None:
    pages.search()
    table = pages.page.get_by_role("table").first
    for trial in _found.trials(searched):
        row = table.get_by_role("row").filter(has_text=trial.name)
        expect(row).to_contain_text(trial.ended)
        expect(row).to_contain_text(f"{trial.score:.4f}" if trial.score is not None else "out of memory")
    best = max(trial.score or 0.0 for trial in _found.trials(searched))
    expect(line(pages, f"best_{METRIC}")).to_contain_text(f"{best:.4f}"[:-1])  # MLflow rounds in its own way
    expect(line(pages, "search.searcher")).to_contain_text("grid")
    expect(line(pages, "search.space.encoder.dim.choice")).to_contain_text(str(TOO_WIDE))


def test_pictures_and_page_of_a_search_are_shown(pages: Pages, searched: Path) -> None:
    pages.search()
    pages.artifacts()
    pages.artifact(_search_report.PLOTS)
    drawn = sorted(path.name for path in (searched / _search_report.PLOTS).iterdir())
    assert {"best_so_far.png", "parallel_coordinates.png", "slices.png"} <= {*drawn}
    for name in drawn:
        pages.artifact(name)
        (width,) = widths(pages.page.get_by_role("img", name=f"{_search_report.PLOTS}/{name}"))
        assert width > 0
    pages.artifact(_search_report.PAGE)
    for trial in _found.trials(searched):
        expect(pages.html().get_by_role("row").filter(has_text=trial.name)).to_contain_text(trial.ended)
    shown = widths(pages.html().locator("img"))
    assert len(shown) == len(drawn)
    assert min(shown) > 0


def test_a_failed_trial_says_why(pages: Pages, searched: Path) -> None:
    ((trial, run_id),) = run_ids(searched, "failed").items()
    pages.trial(run_id)
    page = pages.page
    expect(page.get_by_text("Failed", exact=True)).to_be_visible()
    expect(line(pages, "encoder.dim")).to_contain_text(str(TOO_WIDE))
    tags = page.get_by_text("failure", exact=True).locator("..")
    expect(tags).to_contain_text("out of memory")
    told = storage.read_json(searched / _trials.TRIALS / trial / _trials.FAILED)
    expect(page.get_by_text(told["reason"][:60]).first).to_be_visible()
    pages.artifacts()
    pages.artifact(_trials.TRACEBACK)
    expect(page.locator("pre")).to_contain_text("Traceback (most recent call last)")


def test_trials_are_compared(pages: Pages, searched: Path) -> None:
    trials = run_ids(searched, "finished")
    assert len(trials) == 3
    pages.runs()
    pages.unfold()
    pages.compare([*trials.values()], METRIC)
    for trial in trials:
        expect(pages.page.get_by_text(trial, exact=True).first).to_be_attached()
    expect(pages.plot()).to_contain_text("encoder.dim")
    assert ink(pages.plot()) > 200, "its lines are drawn"
    pages.page.get_by_role("tab", name="Scatter Plot").click()
    expect(pages.plot()).to_have_count(1)
    assert ink(pages.plot()) > 50, "a point for each"
