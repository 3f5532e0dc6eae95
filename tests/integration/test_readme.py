"""README's own commands: from `make cluster` to a tuned, registered model, on real servers that nobody else has."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components import storage
from pipelines import movielens
from tests.integration import planted
from tests.integration.postgres import require_cluster
from tests.integration.preparing import ROOT

CHAPTER = "Your own cluster"


def blocks(chapter: str) -> list[str]:
    """The shell blocks of one of README's chapters."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (body,) = re.findall(rf"^## {chapter}\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)
    found = re.findall(r"^```sh\n(.*?)^```", body, re.DOTALL | re.MULTILINE)
    assert len(found) >= 3
    return found


def cloned(folder: Path) -> Path:
    """The project, with an environment that has all that its Makefile would install."""
    clone = folder / "clone"
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(".git", ".venv", "runs", ".*_cache"))
    (clone / ".venv").mkdir()
    for path in Path(sys.prefix).iterdir():
        if path.name not in ("core", "cluster", "dev"):
            (clone / ".venv" / path.name).symlink_to(path.resolve())
    for stamp in ("core", "cluster"):
        (clone / ".venv" / stamp).touch()
    return clone


class Shell:
    """Runs lines in the clone, as a person without other servers would; `told` is all that they printed."""

    def __init__(self, folder: Path, clone: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
        self.own, self.clone, self.told = kept | {"HOME": str(folder)}, clone, ""

    def run(self, lines: str, **environment: str) -> int:
        """The exit code."""
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", lines],
            cwd=self.clone,
            env=self.own | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=1200,
        )
        self.told += done.stdout
        return done.returncode


LOAD = """
import json, sys, mlflow, pandas
model = mlflow.pyfunc.load_model("models:/ml100k_mf_ssm_search@champion")
print("listed", json.dumps(model.predict(pandas.DataFrame({"user": ["196"]}), params={"k": 5})["items"][0]))
"""


@pytest.mark.slow
def test_from_make_cluster_to_a_tuned_and_registered_model_and_nobody_sees_a_secret(tmp_path: Path) -> None:
    require_cluster()
    clone = cloned(tmp_path)
    movielens.fetch(clone / "runs" / "sources")  # once for all tries; README's own line finds it
    *chapter, end = blocks(CHAPTER)
    assert "make cluster-down" in end
    shell, up = Shell(tmp_path, clone), clone / "runs" / "cluster"
    try:
        assert shell.run("".join(chapter)) == 0, shell.told[-5000:]
        words = planted.secrets(up) | {"another": "gu3ssed-w0rd"}
        said = shell.told
        assert shell.run(f". runs/cluster/env\npython -c '{LOAD}'") == 0, shell.told[-5000:]
        recipe = re.findall(r"^RECIPE=(\S+)", "".join(chapter), re.MULTILINE)[0]
        refused = f"set +x; . runs/cluster/env\nMLFLOW_TRACKING_PASSWORD=$WRONG python -m ray_jobs.submit check {recipe}"
        assert shell.run(refused, WRONG=words["another"]) == 2, "of a password that is no longer good"
        folders = [clone / "runs" / name for name in ("datasets", "searches", "runs")]  # of a whole run, tracebacks and all
        assert planted.seen(up, said, words, *folders) == []
        shown = re.sub(r"^\+.*$", "", shell.told, flags=re.MULTILINE)  # what bash itself repeats of the lines
        assert [what for what, word in words.items() if word in shown] == []
        assert shell.run(end) == 0, shell.told[-5000:]
    finally:
        subprocess.run(["make", "cluster-down"], cwd=clone, env=shell.own, check=True, capture_output=True)
    told = shell.told
    assert "3: each sees the source, shares the storage path and reaches MLflow" in told
    assert told.count("succeeded, exit code 0") == 6, "five jobs, and one of them followed again"
    assert "3 trials" in told
    assert "most popular" in told
    assert "ml100k_mf_ssm_search version 1 is champion: there was no champion" in told
    (listed,) = re.findall(r"^listed (.*)$", told, re.MULTILINE)
    assert len(set(json.loads(listed))) == 5
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
