"""MLflow's pages of a search in Debian's chromium, clicked as a person does: for the browser test, and for README's pictures.

python -m tests.integration.browsing SEARCH FOLDER    SEARCH is a finished search's folder, whose MLflow server runs
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, FrameLocator, Locator, Page, expect, sync_playwright

from components import storage
from components.config import Recipe
from ray_jobs import _found, _search_report, _tracking

PATIENCE = 60_000.0  # milliseconds: a page on a loaded machine
SIZE: Any = {"width": 1280, "height": 800}
TALL: Any = {"width": 1280, "height": 1050}  # a whole picture of the search's page
VISITED = """
    localStorage.setItem('mlflow.workflowType_v1', '"machine_learning"');
    localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
    localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
"""  # "Model training" was clicked once, and the assistant closed: MLflow 3 opens with a view for language models and with it


def require_chromium() -> str:
    """The program's path; where it is not installed the test is skipped, and fails in CI."""
    if found := shutil.which("chromium"):
        return found
    missing = "chromium is not installed: apt-get install -y chromium"
    if "HARDNEG_DATA" in os.environ:
        pytest.fail(missing)
    pytest.skip(missing)  # says what to install; in CI it has failed above


@contextlib.contextmanager
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])  # root has none
        expect.set_options(timeout=PATIENCE)
        yield found
        found.close()


class Pages:
    """Of one search, each as in a new window."""

    def __init__(self, browser: Browser, search: Path) -> None:
        links = storage.read_json(search / _tracking.LINKS)
        self.page: Page = browser.new_page(viewport=SIZE)
        self.page.set_default_timeout(PATIENCE)
        self.page.add_init_script(VISITED)
        self._run_id = links["run_id"]
        self._experiment = f"{links['tracking_uri']}/#/experiments/{links['experiment_id']}"

    def runs(self) -> Locator:
        """Opens the experiment's table of runs; the search's row."""
        self.page.goto(self._experiment)
        expect(self.row(self._run_id)).to_be_visible()
        return self.row(self._run_id)

    def row(self, run_id: str) -> Locator:
        return self.page.locator(f'.ag-pinned-left-cols-container .ag-row[row-id="{run_id}"]')  # its other columns lie apart

    def name(self, run_id: str) -> Locator:
        """The link in a run's row."""
        return self.row(run_id).locator(f'a[href$="/runs/{run_id}"]')

    def unfold(self) -> None:
        """Shows, or hides, the trials below the search in the table of runs."""
        self.row(self._run_id).get_by_role("button").click()

    def search(self) -> None:
        """Opens the search's own page."""
        self.runs()
        self.name(self._run_id).click()
        expect(self.page.get_by_role("tab", name="Artifacts")).to_be_visible()

    def trial(self, run_id: str) -> None:
        """Opens a trial's page."""
        self.runs()
        self.unfold()
        self.name(run_id).click()
        expect(self.page.get_by_role("tab", name="Artifacts")).to_be_visible()

    def artifacts(self) -> None:
        """From a run's page to its artifacts."""
        self.page.get_by_role("tab", name="Artifacts").click()

    def artifact(self, name: str) -> None:
        """Opens a folder, or shows a file, among the artifacts."""
        self.page.get_by_text(name, exact=True).first.click()

    def html(self) -> FrameLocator:
        """The page that the artifacts show."""
        return self.page.frame_locator("iframe")

    def columns(self, names: Sequence[str]) -> None:
        """Shows these in the table of runs, or hides them where they are shown."""
        self.page.get_by_role("button", name="Columns").click()
        for name in names:
            self.page.get_by_placeholder("Search columns").fill(name)
            self.page.locator(".du-bois-light-tree-title").filter(has_text=re.compile(f"^{re.escape(name)}$")).click()
        self.page.keyboard.press("Escape")

    def widen(self, names: Sequence[str]) -> None:
        """Makes columns of the table of runs as wide as what they say."""
        for name in names:
            header = self.page.locator(".ag-header-cell").filter(has_text=name)
            header.locator(".ag-header-cell-resize").dblclick(force=True)  # its handle shows under the mouse alone

    def compare(self, run_ids: Sequence[str], metric: str) -> None:
        """Ticks runs in the table and compares them: parallel coordinates to a metric in the place of MLflow's own choice."""
        for run_id in run_ids:
            self.row(run_id).locator("input.ag-checkbox-input").check()
        self.page.get_by_role("button", name="Compare").click()
        metrics = self.page.get_by_role("combobox").nth(1)
        metrics.click()
        self.page.keyboard.press("Backspace")
        metrics.fill(metric)
        self.page.keyboard.press("Enter")
        self.page.keyboard.press("Escape")
        expect(self.plot()).to_contain_text(metric)

    def plot(self) -> Locator:
        """What Plotly draws."""
        return self.page.locator(".js-plotly-plot")


def ink(place: Locator) -> int:
    """The coloured pixels of a place on the page: lines and points, not text and axes."""
    pixels = np.asarray(Image.open(io.BytesIO(place.screenshot())).convert("RGB")).astype(int)
    return int((np.ptp(pixels, axis=2) > 60).sum())


def run_ids(search: Path, ended: str) -> dict[str, str]:
    """The MLflow runs of the trials that ended so, by their names."""
    runs = [run for run in _found.runs(search) if _found.ended(run) == ended]
    return {run.name: _tracking.attach(run).run_id for run in runs}


def pictures(search: Path, folder: Path) -> None:
    """The table of runs, the search's page among its artifacts, and trials side by side."""
    recipe = Recipe.from_json((search / "recipe.json").read_text(encoding="utf-8"))
    metric = _tracking.metric_name(recipe.training.logged(recipe.training.metric))
    everywhere = run_ids(search, "finished") | run_ids(search, "stopped")
    with browser(require_chromium()) as opened:
        pages = Pages(opened, search)
        pages.runs()
        pages.columns(["Dataset", "Models", "Source", metric, *recipe.search.space])
        pages.widen([metric, *recipe.search.space])
        pages.unfold()
        pages.page.mouse.move(0, 0)
        pages.page.screenshot(path=folder / "search_runs.png")
        pages.compare([*everywhere.values()], metric)
        pages.page.get_by_text("Comparing").first.click()  # away from the list of metrics
        pages.page.screenshot(path=folder / "search_compare.png")
        pages.search()
        pages.artifacts()
        pages.artifact(_search_report.PAGE)
        pages.page.set_viewport_size(TALL)
        expect(pages.html().get_by_role("img").first).to_be_visible()
        pages.page.get_by_text(re.compile("^Path:")).first.evaluate(
            "line => line.style.visibility = 'hidden'"
        )  # of this machine
        pages.page.screenshot(path=folder / "search_page.png")


if __name__ == "__main__":
    pictures(*map(Path, sys.argv[1:]))
