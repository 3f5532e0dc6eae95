"""Programs submitted to a cluster of real nodes: found again by their id, followed, left, stopped; and what goes wrong."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from components import config
from components.errors import InputError
from ray_jobs import _package, _reporter, _submission, _tracking
from tests.integration import nodes, submitting, training
from tests.integration.nodes import Nodes
from tests.integration.preparing import ROOT, write_log
from tests.integration.submitting import Submit, Terminal
from tests.integration.training import MlflowServer, Tracked, free_port

USER, PASSWORD = "ann-of-the-tests", "hush-hush-5417"
CREDENTIALS = {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": PASSWORD}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("submit")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[MlflowServer]:
    server = MlflowServer(folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def recipe(folder: Path) -> str:
    """A file outside of the tree."""
    log = write_log(folder / "log.csv", rows=3000)
    return str(training.recipe_file(folder / "tiny.yaml", training.recipe(log, folder / "store")))


@pytest.fixture(scope="module")
def ray_nodes(folder: Path) -> Iterator[Nodes]:
    with nodes.cluster(folder) as started:
        yield started


@pytest.fixture(autouse=True)
def _places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    for name in submitting.PLACES:
        monkeypatch.delenv(name, raising=False)


def test_a_job_is_started_once_and_goes_on_without_its_followers(
    ray_nodes: Nodes, server: MlflowServer, recipe: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering = threading.Event()  # the job asks MLflow, and does not end before
    with (
        submitting.asking_for(USER, PASSWORD, behind=server.uri, answering=answering) as uri,
        submitting.watching_commands([PASSWORD, "_ray_pkg_"]) as on_command_lines,
    ):
        asked = ["check", recipe, "--address", ray_nodes.address, "--submission-id", "once"]
        here = {"MLFLOW_TRACKING_URI": uri, **CREDENTIALS}
        one, other = Submit(tmp_path / "one", *asked, **here), Terminal(*asked, **here)
        other.shows("running  ")
        assert other.press_ctrl_c() == 130
        answering.set()
        assert one.end() == 0, one.log
    assert f"follow     python -m ray_jobs.submit follow once --address {ray_nodes.address}" in other.text
    assert f"stop       python -m ray_jobs.submit stop once --address {ray_nodes.address}" in other.text
    started = [text for text in (one.said, other.text) if "started    with" in text]
    found = [text for text in (one.said, other.text) if "found      it was submitted before" in text]
    assert len(started) == len(found) == 1
    assert re.search(r"started    with \d\.\d MiB in \d+ files of ", started[0])
    assert "job        once" in one.said
    assert f"dashboard  {ray_nodes.address}/#/jobs/once" in one.said
    assert f"MLflow     {uri}" in one.said
    assert "3: each sees the source, shares the storage path and reaches MLflow" in one.log
    assert "result:" not in one.log, "it is for programs"
    assert not (folder / "store").exists(), "check leaves nothing behind"

    (line,) = [line for line in other.text.splitlines() if line.startswith("follow     ")]
    again = Submit(tmp_path / "again", *shlex.split(line)[4:])
    assert again.end() == 0
    assert again.log == one.log

    client = _submission.connect(ray_nodes.address)
    job = client.get_job_info("once")
    assert on_command_lines == {"_ray_pkg_"}, "the jobs' processes were seen, and no password"
    told = [one.log, one.said, other.text, again.said, job.entrypoint, str(job.runtime_env), str(job.metadata)]
    assert [text for text in told if PASSWORD in text or USER in text] == []
    for secret in (USER, PASSWORD):
        assert submitting.files_with(ray_nodes.temporary, secret) == []
    assert submitting.files_with(ray_nodes.temporary, "HARDNEG_SEALED") != [], "Ray logs a job's environment"

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    changed = config.load(recipe, ["training.epochs=3"])
    with pytest.raises(InputError, match="^--submission-id: got once, which is a job of another program, recipe or arguments"):
        _submission.submit(client, "check", changed, submission_id="once", working_dir=None)


def test_a_job_that_fails_tells_why_and_how(ray_nodes: Nodes, server: MlflowServer, recipe: str, tmp_path: Path) -> None:
    at = ["--address", ray_nodes.address]
    failed = Submit(tmp_path / "it", "train", recipe, *at, "--submission-id", "it", MLFLOW_TRACKING_URI=server.uri)
    assert failed.end() == 2
    assert failed.log.splitlines()[-1].startswith("error: dataset /")
    assert "failed, exit code 2: it" in failed.said
    assert "Traceback" not in failed.log + failed.said
    client = _submission.connect(ray_nodes.address)
    ended = _submission.follow(client, "it", lambda line: None)
    assert (ended.status, ended.exit_code, ended.result) == ("FAILED", 2, None)
    assert ended.lines == failed.log.splitlines()
    assert _submission.next_id(client, "it") == "it-2"
    assert _submission.next_id(client, "new") == "new"
    assert _submission.stop(client, "it") == "FAILED", "it had ended before"


def test_a_job_is_stopped(ray_nodes: Nodes, tmp_path: Path) -> None:
    at = ["--address", ray_nodes.address]
    _submission.connect(ray_nodes.address).submit_job(entrypoint="sleep 600", submission_id="long-a")
    stopped = Submit(tmp_path / "a", "follow", "long-a", *at)
    stopped.says("state      running")
    stop = Submit(tmp_path / "stop", "stop", "long-a", *at)
    assert stop.end() == 0
    assert "long-a: STOPPED" in stop.said
    assert stopped.end() == 143
    client = _submission.connect(ray_nodes.address)
    assert _submission.next_id(client, "long-a") == "long-a-2"
    assert _submission.stop_all(client, "long-") == []
    with pytest.raises(InputError, match=f"^lung-a: no such job at {ray_nodes.address} .*; running there: none"):
        _submission.stop(client, "lung-a")


def test_a_job_of_ray_s_own_client_takes_a_server_too(ray_nodes: Nodes, recipe: str, folder: Path) -> None:
    client = _submission.connect(ray_nodes.address)
    job = client.submit_job(entrypoint=f"python -m ray_jobs.check {recipe}", runtime_env={"working_dir": str(ROOT)})
    ended = _submission.follow(client, job, lambda line: None)
    assert ended.exit_code == 2
    assert f"error: tracking.uri: got sqlite:///{folder}/store/mlflow.db, takes the URI of an MLflow server" in ended.lines[-1]


def test_a_dropped_connection_costs_no_line(ray_nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    client = _submission.connect(ray_nodes.address)
    job = client.submit_job(entrypoint="for n in 1 2 3 4 5 6; do echo line $n; sleep 0.7; done; exit 5")
    ask, calls = client.get_job_logs, iter(range(1000))

    def dropped(submission_id: str) -> str:
        if next(calls) % 3:
            raise ConnectionResetError("connection reset by peer")
        return ask(submission_id)

    monkeypatch.setattr(client, "get_job_logs", dropped)
    lines: list[str] = []
    ended = _submission.follow(client, job, lines.append)
    assert ended.exit_code == 5
    assert [line for line in lines if line.startswith("line ")] == [f"line {n}" for n in range(1, 7)]


def test_both_versions_of_ray_are_named_where_they_differ(ray_nodes: Nodes, monkeypatch: Any, capsys: Any) -> None:
    _submission.connect(ray_nodes.address)
    assert capsys.readouterr().err == ""
    theirs = ray.__version__
    monkeypatch.setattr(ray, "__version__", "2.58.1")
    _submission.connect(ray_nodes.address)
    assert f"warning: Ray is 2.58.1 here and {theirs} on the cluster" in capsys.readouterr().err


def test_the_address_is_the_one_that_was_given(ray_nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    assert _submission.connect(f"{ray_nodes.address}/").get_address() == ray_nodes.address


def test_a_head_that_does_not_answer(server: MlflowServer, recipe: str, tmp_path: Path, monkeypatch: Any) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    away = Submit(tmp_path / "away", "check", recipe, "--address", nobody, MLFLOW_TRACKING_URI=server.uri)
    assert away.end() == 2
    assert f"error: --address: tried {nobody}, which does not answer (ConnectionRefusedError: " in away.said
    assert "takes the URL of a running head's dashboard" in away.said
    assert len(away.said.splitlines()) == 1
    with pytest.raises(
        InputError, match=r"--address: tried http://no-such-head.invalid:8265, which does not answer \(gaierror"
    ):
        _submission.connect("http://no-such-head.invalid:8265")
    with pytest.raises(InputError, match="^--address: got 'head:8265', takes the URL of a head's dashboard"):
        _submission.connect("head:8265")
    with pytest.raises(InputError, match=f"{server.uri}"):
        _submission.connect(server.uri)
    monkeypatch.setattr(_submission, "CONNECT_SECONDS", 0.5)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", free_port()))
        deaf.listen()
        with pytest.raises(InputError, match="which does not answer"):
            _submission.connect(f"http://127.0.0.1:{deaf.getsockname()[1]}")


def test_a_tree_too_large_is_said_before_anything_is_sent(recipe: str, tmp_path: Path) -> None:
    for name in ("components", "ray_jobs", ".rayignore"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    with (tmp_path / "table.npy").open("wb") as file:
        file.truncate(120 * 2**20)
    command = [sys.executable, "-m", "ray_jobs.submit", "check", recipe, "--address", "http://127.0.0.1:9"]
    own = {**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    done = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "takes at most 100.0 MiB; name in .rayignore what a job does not need" in done.stderr
    assert "120.0 MiB  table.npy" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("beyond", "fits"), [(-(2**16), True), (2**16, False)])
def test_the_limit_is_ray_s(
    beyond: int,
    fits: bool,
    ray_nodes: Nodes,
    server: MlflowServer,
    recipe: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (tmp_path / "table.npy").open("wb") as file:
        file.truncate(_package.LIMIT + beyond)
    monkeypatch.setattr(_package, "LIMIT", 2**40)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    client, given, name = _submission.connect(ray_nodes.address), config.load(recipe), f"of{beyond}"
    if fits:
        assert _submission.submit(client, "check", given, submission_id=name, working_dir=tmp_path)
        _submission.stop(client, name)
    else:
        with pytest.raises(InputError):
            _submission.submit(client, "check", given, submission_id=name, working_dir=tmp_path)


TOKEN = "0f" * 32


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """One node of two CPUs, which wants a token."""
    folder = tmp_path_factory.mktemp("guarded")
    with nodes.cluster(folder, worker_cpus=(), head_cpus=2, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN) as started:
        yield started


@pytest.mark.slow
def test_a_token_that_is_missing_or_wrong(guarded: Nodes, server: MlflowServer, recipe: str, tmp_path: Path) -> None:
    asked = ["check", recipe, "--address", guarded.address]
    nobody: dict[str, str | None] = {"MLFLOW_TRACKING_URI": server.uri, "RAY_AUTH_MODE": None, "HOME": str(tmp_path)}
    for name, here, told in (
        ("missing", {}, "401, the cluster takes a token and none was sent; takes RAY_AUTH_MODE=token (here: not set)"),
        ("empty", {"RAY_AUTH_MODE": "token"}, "RAY_AUTH_MODE=token here, and no token in RAY_AUTH_TOKEN, the file"),
        ("wrong", {"RAY_AUTH_TOKEN": "ab" * 32}, "403, the token that was sent is not the cluster's (expired, or of another"),
    ):
        refused = Submit(tmp_path / name, *asked, **{**nobody, **here})
        assert refused.end() == 2, name
        assert told in refused.said
        assert len(refused.said.splitlines()) == 1


@pytest.mark.slow
def test_training_behind_a_token_and_a_password_beside_its_driver(
    guarded: Nodes, server: MlflowServer, recipe: str, folder: Path, tmp_path: Path
) -> None:
    """The driver holds one of the two CPUs, so one worker fits, and no second."""
    (tmp_path / "token").write_text(TOKEN)
    with submitting.asking_for(USER, PASSWORD, behind=server.uri) as uri:
        here = {
            "MLFLOW_TRACKING_URI": uri,
            "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
            "RAY_AUTH_MODE": None,
            **CREDENTIALS,
        }
        at = [recipe, "--address", guarded.address, "--set", "scale.driver_cpus=1"]
        prepared = Submit(tmp_path / "prepare", "prepare", *at, **here)
        assert prepared.end() == 0, prepared.log
        wide = Submit(tmp_path / "wide", "train", *at, **here)
        assert wide.end() == 2, wide.log
        assert "error: scale.num_workers: got 2 of 1 CPU each, takes at most 1 on this cluster" in wide.log
        job = Submit(tmp_path / "train", "train", *at, "--set", "scale.num_workers=1", **here)
        assert job.end() == 0, job.log
    (run,) = training.runs(folder / "store")
    tracked = Tracked(run, server.uri)
    assert tracked.status == "FINISHED"
    history = _tracking.read_history(run)
    assert tracked.history("loss") == [(entry["step"], entry["metrics"]["loss"]) for entry in history]
    assert _reporter.read_notices(run) == [], "its controller had the password too"
    assert f"MLflow     {uri}/#/experiments/{tracked.run.info.experiment_id}/runs/{tracked.run_id}" in job.said
    assert TOKEN not in job.said + job.log


HIDING = 'mount -t tmpfs none "$0" && mount --bind "$1" /etc/hosts && shift 1 && exec "$@"'


@pytest.mark.slow
def test_check_names_the_node_that_sees_neither_the_files_nor_mlflow(
    ray_nodes: Nodes, server: MlflowServer, folder: Path, tmp_path: Path
) -> None:
    """A node in a mount namespace of its own, with an empty folder in the place of the shared one, and another localhost."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("takes the right to make mount namespaces (unshare -m)")
    shared = folder / "shared"
    shared.mkdir()
    (tmp_path / "hosts").write_text("127.0.0.99 localhost\n")
    log = write_log(shared / "log.csv", rows=1500)
    file = training.recipe_file(tmp_path / "hidden.yaml", training.recipe(log, shared / "store"))
    hiding = ["unshare", "-m", "bash", "-c", HIDING, str(shared), str(tmp_path / "hosts")]
    ip = ray_nodes.add(1, before=hiding)
    uri = server.uri.replace("127.0.0.1", "localhost")
    found = Submit(tmp_path / "it", "check", str(file), "--address", ray_nodes.address, MLFLOW_TRACKING_URI=uri)
    try:
        assert found.end() == 2, found.log
    finally:
        ray_nodes.nodes.pop().stop()
    errors = [line for line in found.log.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    for error, key, got in zip(
        sorted(errors),
        ("data.source", "scale.storage_path", "tracking.uri"),
        (log, shared / "store", uri),
        strict=True,
    ):
        assert error.startswith(f"error: {key}: got {got}, takes ")
        assert error.endswith(f"(on {ip})")
    assert "No such file or directory" in min(errors)
    assert "ConnectionRefusedError" in max(errors)
    assert list(shared.iterdir()) == [log], "nothing is left behind"
