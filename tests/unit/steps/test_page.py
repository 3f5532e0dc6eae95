"""The page: means and spreads over seeds, worked out by hand."""

from __future__ import annotations

from pathlib import Path

from components.steps.page import markdown
from ray_jobs._results import Evaluated, Tuned
from tests.integration import training

RECIPE = training.recipe(Path("/log.csv"), Path("/store"))


def evaluated(run: str, recall: float, url: str | None = None) -> Evaluated:
    metrics = {"model": {"recall@20": recall, "ndcg@20": 0.5}, "most popular": {"recall@20": 0.1, "ndcg@20": 0.05}}
    return Evaluated(run=f"/store/runs/{run}", split="test", metrics=metrics, mlflow_url=url)


def test_seeds_have_a_mean_and_a_spread() -> None:
    page = markdown(RECIPE, [evaluated("a", 0.30, "http://mlflow/a"), evaluated("b", 0.34, "http://mlflow/b")], None)
    assert page.startswith("# tiny\n")
    assert "2 seeds" in page
    assert "| metric | model | most popular |" in page
    assert "| recall@20 | 0.3200 ± 0.0283 (0.3000 to 0.3400) | 0.1000 ± 0.0000 (0.1000 to 0.1000) |" in page
    assert "| b | 0.3400 | 0.5000 | [open](http://mlflow/b) |" in page
    assert "Search" not in page


def test_one_seed_has_no_spread() -> None:
    page = markdown(RECIPE, [evaluated("a", 0.30)], None)
    assert "one seed" in page
    assert "| recall@20 | 0.3000 | 0.1000 |" in page
    assert "| a | 0.3000 | 0.5000 | in a file |" in page


def test_a_search_shows_its_best_trial() -> None:
    tuned = Tuned(
        folder="/store/searches/a",
        file="/store/searches/a/best.yaml",
        recipe="{}",
        trial="a1_00003",
        ended={"finished": 8, "failed": 2},
        metric="ndcg@20",
        best_value=0.25,
        mlflow_run_id="0",
        mlflow_url="http://mlflow/search",
    )
    page = markdown(RECIPE, [evaluated("a", 0.30)], tuned)
    _, _, search = page.partition("## Search\n")
    assert "| best trial | ndcg@20 on valid, seen items masked | trials | MLflow |" in search
    assert "| a1_00003 | 0.2500 | 8 finished, 2 failed | [open](http://mlflow/search) |" in search
    assert {line.count("|") for line in search.splitlines() if line} == {5}


def test_tables_are_markdown() -> None:
    tables = [line for line in markdown(RECIPE, [evaluated("a", 0.3)], None).splitlines() if line.startswith("|")]
    assert len(tables) == 7
    assert {line.count("|") for line in tables[:4]} == {4}
    assert {line.count("|") for line in tables[4:]} == {5}
