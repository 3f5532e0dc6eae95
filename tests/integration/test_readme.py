"""README's own commands: from `make cluster` to a tuned model, on real servers that nobody else has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from components import storage
from pipelines import movielens
from tests.integration.postgres import require_cluster
from tests.integration.preparing import ROOT

CHAPTER = "Your own cluster"


def commands(chapter: str) -> str:
    """The shell blocks of one of README's chapters."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (body,) = re.findall(rf"^## {chapter}\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"^```sh\n(.*?)^```", body, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 3
    lines = "".join(blocks).splitlines()
    return "\n".join(line for line in lines if "ray_jobs.register" not in line or (ROOT / "ray_jobs" / "register.py").exists())


def cloned(folder: Path) -> Path:
    """The project, with an environment that has all that its Makefile would install."""
    clone = folder / "clone"
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(".git", ".venv", "runs", ".*_cache"))
    (clone / ".venv").mkdir()
    for path in (ROOT / ".venv").iterdir():
        if path.name not in ("core", "cluster", "dev"):
            (clone / ".venv" / path.name).symlink_to(path.resolve())
    for stamp in ("core", "cluster"):
        (clone / ".venv" / stamp).touch()
    return clone


@pytest.mark.slow
def test_from_make_cluster_to_a_tuned_model(tmp_path: Path) -> None:
    require_cluster()
    clone = cloned(tmp_path)
    movielens.fetch(clone / "runs" / "sources")  # once for all tries; README's own line finds it
    (tmp_path / "script").write_text(commands(CHAPTER))
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))} | {
        "HOME": str(tmp_path)
    }
    try:
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", str(tmp_path / "script")],
            cwd=clone,
            env=own,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=1200,
        )
    finally:
        subprocess.run(["make", "cluster-down"], cwd=clone, env=own, check=True, capture_output=True)
    told = done.stdout
    assert done.returncode == 0, told[-5000:]
    assert "3: each sees the source, shares the storage path and reaches MLflow" in told
    assert told.count("succeeded, exit code 0") == 6, "five jobs, and one of them followed again"
    assert "3 trials" in told
    assert "most popular" in told
    assert "no cluster is up any more" in told
    (search,) = (clone / "runs" / "searches").iterdir()
    assert storage.is_finished(search)
    (run,) = (clone / "runs" / "runs").iterdir()
    best = storage.open_finished(run, "run")
    metrics = storage.read_json(run / "evaluation" / "test" / "metrics.json")["metrics"]
    assert metrics["model"]["recall@20"] > 1.3 * metrics["most popular"]["recall@20"]
    assert best["name"] == "ml100k_mf_ssm_search"
    tracked = re.findall(r"^MLflow     (http://127\.0\.0\.1:\d+/#/experiments/\d+/runs/[0-9a-f]{32})$", told, re.MULTILINE)
    assert len(set(tracked)) == 2, "the search's run and the model's"
    assert not (tmp_path / ".ray").exists(), "nobody's own token was made or used"
