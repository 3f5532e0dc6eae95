"""The page of a comparison: what is on it, and how the runs' MLflow gets it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from components import storage
from components.evaluation import comparison
from ray_jobs import _mlflow, _tracking
from tests.unit.ray_jobs.test_compare import Make, compared, make, recipe
from tests.unit.reports.test_page import Reader

__all__ = ["make"]  # a fixture


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "RESAMPLES", 300)


def link(run: Path, tracking_uri: str, run_id: str) -> None:
    links = {"dataset": "d", "tracking_uri": tracking_uri, "experiment_id": "7", "run_id": run_id}
    storage.write_json(run / _tracking.LINKS, links)


def read(folder: Path) -> Reader:
    found = Reader()
    found.feed((folder / "compare.html").read_text(encoding="utf-8"))
    assert found.open == []
    return found


def signed(value: float) -> str:
    return re.sub(r"^([+-])0", r"\1", f"{value:+.4f}")


def test_it_has_every_number_run_and_picture(make: Make, tmp_path: Path) -> None:
    runs = [make(recipe(seed=seed), noise=0.8) for seed in (1, 2)]
    runs += [make(recipe(0.3, seed, name="warm"), noise=0.4) for seed in (1, 2)]
    link(runs[0], "http://127.0.0.1:9", "a" * 32)
    about = compared(tmp_path, *runs)
    (folder,) = (tmp_path / "comparisons").iterdir()
    page = read(folder)
    assert len(page.loads) == 2
    assert all(each.startswith("data:image/png;base64,") for each in page.loads), "it stands alone"
    assert page.leads == [f"http://127.0.0.1:9/#/experiments/7/runs/{'a' * 32}"]
    words = set(page.words)
    assert {"small", "warm", "recall@20", "ndcg@20"} <= words
    for system in about["systems"]:
        for found in system["metrics"].values():
            assert f"{found['mean']:.4f} ± {found['deviation']:.4f}" in words
            assert {f"{value:.4f}" for value in found["by_seed"].values()} <= words
    for found in about["differences"]["warm"].values():
        assert signed(found["value"]) in words
        for low, high in (found["over_users"], found["over_seeds_and_users"]):
            assert f"{signed(low)} to {signed(high)}" + " *" * (low > 0 or high < 0) in words
    assert {run.name for run in runs} <= words
    text = " ".join(page.words)
    for said in (f"split {about['split']}", f"dataset {about['dataset']}", f"{about['users']} users", "Few seeds (2)"):
        assert said in text
    (footer,) = (each for each in page.words if each.startswith("Made by "))
    assert footer.endswith(f"at commit {_tracking.commit()}.")
    assert f"-m ray_jobs.compare {' '.join(map(str, runs))} --split test --metric recall@20 --metric ndcg@20" in footer


def test_each_runs_mlflow_gets_it(make: Make, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow = _mlflow.client(uri)
    experiment = mlflow.create_experiment("compared", artifact_location=(tmp_path / "artifacts").as_uri())
    runs = [make(recipe()), make(recipe(0.3)), make(recipe(0.4))]
    ids = [mlflow.create_run(experiment).info.run_id for _ in runs[:2]]
    for run, run_id in zip(runs, ids, strict=False):
        link(run, uri, run_id)
    compared(tmp_path, *runs)
    (folder,) = (tmp_path / "comparisons").iterdir()
    for run_id in ids:
        assert [each.path for each in mlflow.list_artifacts(run_id, "comparisons")] == [f"comparisons/{folder.name}"]
        kept = tmp_path / "artifacts" / run_id / "artifacts" / "comparisons" / folder.name / "compare.html"
        assert kept.read_bytes() == (folder / "compare.html").read_bytes()


def test_credentials_go_to_no_mlflow_that_a_folder_names(
    make: Make, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(_mlflow, "trouble", lambda uri: asked.append(uri) or "away")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3cret")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9/")
    runs = [make(recipe(temperature)) for temperature in (0.1, 0.2, 0.3)]
    file = f"sqlite:///{tmp_path}/mlflow.db"
    for run, uri in zip(runs, ["http://elsewhere:5000", "http://127.0.0.1:9", file], strict=True):
        link(run, uri, "a" * 32)
    compared(tmp_path, *runs)
    assert asked == ["http://127.0.0.1:9", file]
    assert "MLflow at http://elsewhere:5000 is not asked (the credentials" in capsys.readouterr().err


def test_an_mlflow_that_is_away_or_gone_is_named_once(make: Make, tmp_path: Path, capsys: Any) -> None:
    runs = [make(recipe(temperature)) for temperature in (0.1, 0.2, 0.3, 0.4)]
    gone = f"sqlite:///{tmp_path}/gone/mlflow.db"
    for run, uri in zip(runs, ["http://127.0.0.1:9", gone] * 2, strict=True):
        link(run, uri, "a" * 32)
    compared(tmp_path, *runs)
    (folder,) = (tmp_path / "comparisons").iterdir()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert re.match(rf"MLflow at http://127.0.0.1:9 does not answer \(.*refused.*\); the page is kept in {folder}", said[0])
    assert said[1].startswith(f"MLflow at {gone} does not answer (there is no such file)")
    assert not (tmp_path / "gone").exists()
