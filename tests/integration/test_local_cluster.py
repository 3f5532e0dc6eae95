"""`make cluster`: real servers of every kind on localhost, which let in who has their secrets, tell none, and end with it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import psycopg2
import pytest
import requests

from infra.local import cluster, processes
from infra.local.processes import Process
from ray_jobs import _mlflow
from tests.integration import planted, submitting, training
from tests.integration.postgres import require_cluster
from tests.integration.preparing import ROOT, write_log
from tests.integration.submitting import Submit

pytestmark = pytest.mark.slow
SECRETS = {"ray-token", "mlflow-password", "mlflow-auth.ini", "postgres-pass", "s3-keys"}
SLEEP = "import time; time.sleep(600)"


class Up(NamedTuple):
    """`said` is all that `up` printed, `here` what its `env` sets."""

    folder: Path
    said: str
    here: dict[str, str]

    @property
    def state(self) -> cluster.State:
        return cluster.State(self.folder)

    def secrets(self) -> dict[str, str]:
        """The words that nobody may see, by what they are."""
        return planted.secrets(self.folder)


def make(action: str, folder: Path) -> str:
    own = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(
        [sys.executable, "-m", "infra.local.cluster", action],
        cwd=folder.parents[1],
        env=own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    require_cluster()
    folder = tmp_path_factory.mktemp("local") / cluster.FOLDER
    try:
        said = make("up", folder)
        names = set(re.findall(r"(\w+)=", (folder / "env").read_text()))
        shown = subprocess.run(
            ["sh", "-c", f". {shlex.quote(str(folder / 'env'))} && env -0"], check=True, capture_output=True, text=True
        )
        values = dict(line.split("=", 1) for line in shown.stdout.split("\0") if line)
        yield Up(folder, said, {name: values[name] for name in names})
    finally:
        make("down", folder)


def family(up: Up) -> set[psutil.Process]:
    return processes._family([part.pid for part in up.state.parts])


def test_what_has_a_link_is_on_localhost_alone(up: Up) -> None:
    """Ray's nodes reach each other on all addresses, behind the token; nothing else does."""
    assert {part.name for part in up.state.running()} == {"postgres", "s3", "mlflow", "ray-1", "ray-2", "ray-3"}
    of_ray = {each.pid for part in up.state.parts if "ray" in part.name for each in processes._family([part.pid])}
    listening = {
        (each.laddr.ip, each.laddr.port, process.pid in of_ray)
        for process in family(up)
        for each in process.net_connections("inet")
        if each.status == psutil.CONN_LISTEN
    }
    linked = {int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", up.said)}
    assert len(linked) == 4
    assert {ip for ip, port, _ in listening if port in linked} == {"127.0.0.1"}
    assert {ip for ip, _, ray in listening if not ray} == {"127.0.0.1"}
    assert make("up", up.folder).startswith("it is up already")


def test_secrets_are_in_files_of_their_owner(up: Up) -> None:
    assert (up.folder / "secrets").stat().st_mode & 0o777 == 0o700
    assert {path.name for path in (up.folder / "secrets").iterdir()} == SECRETS
    assert {path.stat().st_mode & 0o777 for path in (up.folder / "secrets").iterdir()} == {0o600}
    assert all(len(word) >= 16 for word in up.secrets().values())


def test_who_has_no_secret_is_refused(up: Up, tmp_path: Path) -> None:
    recipe = training.recipe_file(tmp_path / "r.yaml", training.recipe(write_log(tmp_path / "log.csv"), tmp_path / "store"))
    asked = ["check", str(recipe), "--address", up.here["RAY_API_SERVER_ADDRESS"]]
    nobody: dict[str, str | None] = {"RAY_AUTH_MODE": None, "RAY_AUTH_TOKEN_PATH": None, "HOME": str(tmp_path)}
    job = Submit(tmp_path / "nobody", *asked, MLFLOW_TRACKING_URI=up.here["MLFLOW_TRACKING_URI"], **nobody)
    assert job.end() == 2
    assert "401, the cluster takes a token and none was sent" in job.said
    raw = requests.post(f"{up.here['RAY_API_SERVER_ADDRESS']}/api/jobs/", json={"entrypoint": "true"}, timeout=30)
    assert raw.status_code == 401

    runs = f"{up.here['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/search?max_results=1"
    password = up.secrets()["password"]
    codes = [requests.get(runs, auth=who, timeout=30).status_code for who in (None, ("admin", "admin"), ("admin", password))]
    assert codes == [401, 401, 200]

    import boto3
    from botocore.exceptions import ClientError

    where = re.findall(r"S3 at (http://\S+),", up.said)[0]
    for key in ("nobody", re.findall(r"id = (\w+)", (up.folder / "secrets" / "s3-keys").read_text())[0]):
        stranger = boto3.client(
            "s3", endpoint_url=where, aws_access_key_id=key, aws_secret_access_key="guessed", region_name="us-east-1"
        )
        with pytest.raises(ClientError, match="InvalidAccessKeyId|SignatureDoesNotMatch"):
            stranger.list_objects_v2(Bucket="mlflow")
    assert requests.get(f"{where}/mlflow?list-type=2", timeout=30).status_code == 403
    host, port = re.findall(r"PostgreSQL at ([\d.]+):(\d+);", up.said)[0]
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(host=host, port=port, user="hardneg", dbname="postgres", password="guessed")


def test_a_job_runs_artifacts_are_kept_and_nobody_sees_a_secret(up: Up, tmp_path: Path) -> None:
    """What is left of a whole chapter of jobs is looked through in test_readme.py; here also every command line meanwhile."""
    recipe = training.recipe_file(tmp_path / "r.yaml", training.recipe(write_log(tmp_path / "log.csv"), tmp_path / "store"))
    words = up.secrets()
    with submitting.watching_commands(list(words.values())) as seen:
        job = Submit(tmp_path / "check", "check", str(recipe), **up.here)
        assert job.end() == 0, job.log
        kept = subprocess.run(
            [sys.executable, "-c", LOGGED], env={**os.environ, **up.here}, check=True, capture_output=True, text=True
        )
    assert "3: each sees the source, shares the storage path and reaches MLflow" in job.log
    assert json.loads(kept.stdout.splitlines()[-1]) == {"read": "kept in S3", "uri": "mlflow-artifacts"}
    assert seen == set(), "on no command line"
    told = [up.said, (up.folder / "env").read_text(), (up.folder / "state.json").read_text(), job.log, job.said]
    for what, word in words.items():
        assert [text for text in told if word in text] == [], what
    assert planted.seen(up.folder, up.said, words, tmp_path) == []


LOGGED = """
import json
from mlflow import MlflowClient
client = MlflowClient()
run = client.create_run("0")
client.log_text(run.info.run_id, "kept in S3", "note.txt")
path = client.download_artifacts(run.info.run_id, "note.txt")
print(json.dumps({"read": open(path).read(), "uri": run.info.artifact_uri.partition(":")[0]}))
"""


def test_the_user_of_jobs_may_do_what_they_do_and_another_may_read(
    up: Up, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users as infra/README.md makes one: all that `register` asks of MLflow, without the rights of its administrator."""
    uri, password = up.here["MLFLOW_TRACKING_URI"], "of-the-team-2718"
    for user in ("hardneg", "another"):
        asked = {"username": user, "password": password}
        made = requests.post(
            f"{uri}/api/2.0/mlflow/users/create", json=asked, auth=("admin", up.secrets()["password"]), timeout=30
        )
        assert made.status_code == 200, made.text
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "hardneg")
    mlflow, kept = _mlflow.client(uri), tmp_path / "metrics.json"
    kept.write_text("{}")
    run = mlflow.create_run(mlflow.create_experiment("team")).info
    mlflow.log_artifact(run.run_id, str(kept), "evaluation/test")
    mlflow.log_artifacts(run.run_id, str(tmp_path), "models/shop")
    mlflow.create_registered_model("shop")
    mlflow.create_model_version("shop", f"{run.artifact_uri}/models/shop", run.run_id, {"run": "a"})
    (version,) = (each.version for each in mlflow.search_model_versions(f"name = 'shop' and run_id = '{run.run_id}'"))
    mlflow.set_registered_model_alias("shop", "champion", version)
    mlflow.set_model_version_tag("shop", version, "gate", "promoted")
    mlflow.update_model_version("shop", version, "champion")

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "another")
    assert str(mlflow.get_registered_model("shop").aliases["champion"]) == str(version)
    assert Path(mlflow.download_artifacts(run.run_id, "evaluation/test/metrics.json", str(tmp_path))).read_text() == "{}"
    for refused in (
        lambda: mlflow.set_registered_model_alias("shop", "challenger", version),
        lambda: mlflow.create_model_version("shop", f"{run.artifact_uri}/models/shop", run.run_id),
        lambda: mlflow.set_tag(run.run_id, "recipe", "b"),
        lambda: mlflow.log_artifact(run.run_id, str(kept), "evaluation/test"),
    ):
        with pytest.raises(Exception, match="403|[Pp]ermission"):
            refused()


def test_down_ends_it_and_nothing_else(up: Up, tmp_path: Path) -> None:
    """The last one: it takes the cluster down."""
    bystander: Process = processes.start("bystander", [sys.executable, "-c", SLEEP], tmp_path / "log", dict(os.environ))
    try:
        before, scratch = family(up), up.state.scratch
        assert len(before) > 12
        assert make("down", up.folder).endswith("no cluster is up any more\n")
        assert [each for each in before if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []
        assert processes.is_alive(bystander)
        assert [path for path in scratch if Path(path).exists()] == []
        assert {path.name for path in up.folder.iterdir()} == {"logs", ".busy"}
        assert "nothing to end" in make("down", up.folder)
    finally:
        processes.end([bystander], grace=0)
