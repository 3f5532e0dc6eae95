"""What a newcomer does: MovieLens-100K from the raw log to ranked lists."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from pipelines import movielens

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "pipelines" / "recipes" / "ml100k_mf_ssm.yaml"


def program(module: str, folder: Path, *changes: str) -> str:
    """Everything that a program prints."""
    settings = [f"--set={change}" for change in (f"scale.storage_path={folder / 'runs'}", *changes)]
    command = [sys.executable, "-m", module, str(RECIPE), *settings]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_demo_beats_most_popular_and_does_not_prepare_twice(tmp_path: Path) -> None:
    source = movielens.fetch(tmp_path)
    changes = [f"data.source={source / 'ml-100k.inter'}", f"data.titles.source={source / 'ml-100k.item'}"]
    told = program("pipelines.local", tmp_path, *changes, "training.epochs=12")
    for line in (
        "1/7 check",
        "2/7 prepare",
        "4/7 train",
        "5/7 evaluate",
        "6/7 register",
        "7/7 recommend",
        "most popular",
        "ease",
        "mlflow server",
    ):
        assert line in told
    (run,) = (tmp_path / "runs" / "runs").iterdir()
    metrics = json.loads((run / "evaluation" / "test" / "metrics.json").read_text())["metrics"]
    assert metrics["model"]["recall@20"] > 1.3 * metrics["most popular"]["recall@20"]
    assert set(metrics) == {"model", "most popular", "ease"}
    lists = pl.read_parquet(run / "recommendations" / "*.parquet")
    assert lists.group_by("user").len()["len"].unique().to_list() == [20]
    titles = pl.read_parquet(run.parents[1] / "datasets" / "*" / "items.parquet" / "*.parquet")
    assert titles["title"].null_count() == 0

    again = program("ray_jobs.prepare", tmp_path, *changes)
    assert "current, nothing to do" in again
    assert len(list((tmp_path / "runs" / "datasets").iterdir())) == 1
