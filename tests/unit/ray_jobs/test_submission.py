"""What a job is made of, and what is made of its log."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components import config
from components.errors import InputError
from ray_jobs import _credentials, _results, _submission, _tracking
from tests.unit.test_config import GOOD

SECRETS = {"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": "pä$$ 'word\""}


@pytest.fixture(autouse=True)
def _server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    for name in _credentials.NAMES:
        monkeypatch.delenv(name, raising=False)


def test_the_recipe_travels_in_the_environment_and_comes_back_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = config.parse({**GOOD, "data": {"source": "/logs/it's a log.csv"}})
    variables = _submission.environment(recipe)
    assert variables["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    command = shlex.split(_submission.entry_point("train", ["--seeds", "1 2"]))
    assert command == ["python", "-m", "ray_jobs.train", "env:HARDNEG_RECIPE", "--seeds", "1 2"]
    assert config.load(command[3]) == recipe
    assert config.load(command[3], ["training.epochs=3"]).training.epochs == 3


def test_a_recipe_that_is_not_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="^recipe env:NOWHERE_AT_ALL: no such environment variable"):
        config.load("env:NOWHERE_AT_ALL")
    monkeypatch.setenv("HALF", '{"name": ')
    with pytest.raises(InputError, match="^recipe env:HALF: not YAML"):
        config.load("env:HALF")


def test_a_recipe_that_tracks_into_a_file_or_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [f"/logs/part-{n:06d}.csv" for n in range(6000)]
    with pytest.raises(InputError, match=r"^recipe small: got 1\d\d,\d\d\d bytes as JSON, takes at most 100,000"):
        _submission.environment(config.parse({**GOOD, "data": {"source": files}}))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(InputError, match="^tracking.uri: got sqlite:///"):
        _submission.environment(config.parse(GOOD))


@pytest.mark.parametrize("where", ["tracking.uri", "MLFLOW_TRACKING_URI"])
def test_a_password_in_a_uri_is_refused_and_not_repeated(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "https://ann:hush@mlflow"
    if where == "MLFLOW_TRACKING_URI":
        monkeypatch.setenv(where, uri)
    with pytest.raises(InputError, match=f"^{where}: got a URI with a password in it") as caught:
        _tracking.uri(config.parse({**GOOD, "tracking": {"uri": uri if where == "tracking.uri" else None}}))
    assert "hush" not in str(caught.value)


def test_credentials_travel_in_halves_that_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    sealed, pad = _credentials.seal(_credentials.here())
    assert _credentials.seal(_credentials.here()) != (sealed, pad), "a pad is used once"
    assert {len(bytes.fromhex(half)) for half in (*sealed.values(), *pad.values())} == {len(json.dumps(SECRETS))}
    told = json.dumps([sealed, pad])
    assert not any(value in told or value.encode().hex() in told for value in SECRETS.values())

    program = f"from ray_jobs import _credentials as c; c.unseal(); assert c.here() == {SECRETS!r}, c.here()"
    job = {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {}, "metadata": pad})}
    subprocess.run([sys.executable, "-c", program], env={**sealed, **job}, cwd=Path(__file__).parents[3], check=True)


def test_without_credentials_nothing_is_sealed_or_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _credentials.seal(_credentials.here()) == ({}, {})
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": None}))
    _credentials.unseal()
    assert _credentials.here() == {}


def test_a_result_is_told_by_jobs_alone(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    result = _results.Evaluated(run="/runs/a", split="test", metrics={"model": {"recall@20": 0.25}}, mlflow_url=None)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    _results.tell(result)
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    _results.tell(result)
    (line,) = capsys.readouterr().out.splitlines()
    assert _results.Evaluated.model_validate(_results.read(line)) == result
    assert _results.read("result: none") is None


def test_a_result_goes_to_the_file_that_is_named_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = _results.Checked(recipe="a", data="b", dataset="/ä")
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setenv("HARDNEG_RESULT", str(tmp_path / "told"))
    _results.tell(result)
    assert _results.Checked.model_validate_json((tmp_path / "told").read_text(encoding="utf-8")) == result
    assert capsys.readouterr().out == ""


def test_a_log_is_told_line_by_line_whatever_pieces_it_comes_in() -> None:
    lines = [f"line {n}" for n in range(30)]
    text = "\n".join([*lines[:12], 'result: {"k": 5}', *lines[12:]]) + "\nlast, without an end"
    for step in (1, 7, len(text)):
        told: list[str] = []
        log = _submission._Log(told.append)
        for end in range(0, len(text) + 1, step):
            log.grow(text[:end])
        assert told[-1] != "last, without an end", "it may go on"
        log.grow(text, whole=True)
        assert told == [*lines, "last, without an end"]
        assert list(log.lines) == told[-20:]
        assert log.result == {"k": 5}


@pytest.mark.parametrize("call", ["get_job_info", "get_job_logs"])
def test_a_token_that_expires_while_a_job_is_followed_is_said_in_a_line(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobDetails

    class Client:
        """Of a head that takes the token for two looks."""

        def __init__(self) -> None:
            self.asked = 0

        def get_address(self) -> str:
            return "http://head:8265"

        def get_job_info(self, submission_id: str) -> JobDetails:
            self.asked += 1
            self.refuse("get_job_info")
            return JobDetails.model_validate({"type": "SUBMISSION", "status": "RUNNING", "entrypoint": "x"})

        def get_job_logs(self, submission_id: str) -> str:
            self.refuse("get_job_logs")
            return "epoch 1\n" * self.asked

        def refuse(self, asked_for: str) -> None:
            if asked_for == call and self.asked > 2:
                raise AuthenticationError("Authentication failed: Forbidden: Invalid authentication token")

    monkeypatch.setattr(_submission, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(_submission, "LOST_SECONDS", 1e9)  # it is not waited for: it would not pass
    client: Any = Client()
    told: list[str] = []
    said = r"^--address: http://head:8265: 403, the token that was sent is not the cluster's \(expired, or"
    with pytest.raises(InputError, match=said) as caught:
        _submission.follow(client, "mine", told.append)
    assert told == ["epoch 1", "epoch 1"]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [("SUCCEEDED", 0, 0), ("FAILED", 3, 3), ("FAILED", None, 1), ("FAILED", -9, 137), ("STOPPED", None, 143), ("FAILED", 0, 1)],
)
def test_exit_codes_are_those_of_a_shell(status: str, code: int | None, expected: int) -> None:
    from ray.job_submission import JobDetails

    about = {"type": "SUBMISSION", "status": status, "entrypoint": "x", "driver_exit_code": code}
    details = JobDetails.model_validate(about)
    assert _submission._exit_code(details) == expected


def test_ids_are_new_each_time() -> None:
    recipe = config.parse(GOOD)
    ids = {_submission.new_id("train", recipe) for _ in range(20)}
    assert len(ids) == 20
    assert all(found.startswith("small-train-") for found in ids)
