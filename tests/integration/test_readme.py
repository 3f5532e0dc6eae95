"""README's own commands: the cluster in five minutes, on ports and with processes that nobody else has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from components import storage
from pipelines import movielens
from tests.integration.preparing import ROOT

GAVE_UP, ATTEMPTS = "The current node timed out during startup", 3  # Ray's limit of 30 s, on a loaded machine
CHAPTER = "Your own cluster in five minutes"
ALONE = "ip link set lo up && mkdir -p /tmp/ray && mount -t tmpfs none /tmp/ray"


def commands(chapter: str) -> str:
    """The shell blocks of one of README's chapters."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (body,) = re.findall(rf"^## {chapter}\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"^```sh\n(.*?)^```", body, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 3
    return "\n".join(blocks)


def alone(*command: str) -> list[str]:
    """A command with a network, processes and a /tmp/ray of its own: README stops every Ray process of the machine."""
    own = [
        "unshare",
        *([] if os.geteuid() == 0 else ["--map-root-user"]),
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount",
        "--mount-proc",
    ]
    return [*own, "bash", "-c", f'{ALONE} && exec "$@"', "alone", *command]


@pytest.mark.slow
def test_the_cluster_in_five_minutes(tmp_path: Path) -> None:
    if subprocess.run(alone("true"), capture_output=True, check=False).returncode:
        pytest.skip("takes the right to make namespaces (unshare) and iproute2")
    clone = tmp_path / "clone"
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(".git", ".venv", "runs", ".*_cache"))
    (clone / ".venv").symlink_to(ROOT / ".venv")
    movielens.fetch(clone / "runs" / "sources")  # it has no network there; README's own line finds it
    (tmp_path / "script").write_text(commands(CHAPTER))
    script = alone("bash", "-euxo", "pipefail", str(tmp_path / "script"))
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))} | {
        "HOME": str(tmp_path)
    }
    told, code = "", 1
    for _ in range(ATTEMPTS):
        done = subprocess.run(
            script, cwd=clone, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=1200
        )
        told, code = done.stdout, done.returncode
        if GAVE_UP not in told:
            break
    assert code == 0, told[-5000:]
    assert "3: each sees the source, shares the storage path and reaches MLflow" in told
    assert told.count("succeeded, exit code 0") == 5, "four jobs, and one of them followed again"
    assert told.count("epoch 12 of 12 ") == 2
    assert "most popular" in told
    assert "/2.0 CPU" in told, "ray status"
    (run,) = (clone / "runs" / "runs").iterdir()
    assert storage.open_finished(run, "run")["epochs"] == 12
    assert storage.read_json(run / "evaluation" / "test" / "metrics.json")["metrics"]["model"]["recall@20"] > 0.25
    tracked = re.findall(r"^MLflow     (http://127\.0\.0\.1:5000/#/experiments/\d+/runs/[0-9a-f]{32})$", told, re.MULTILINE)
    assert len(set(tracked)) == 1
    assert len(tracked) == 3, "after training, following and evaluating"
    assert len((tmp_path / ".ray" / "auth_token").read_text()) >= 32
