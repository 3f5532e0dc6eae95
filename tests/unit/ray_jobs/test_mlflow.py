"""What MLflow refuses is made acceptable in one place; calls are made again where that may help, and only there."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos import databricks_pb2 as codes
from mlflow.utils import validation
from sqlalchemy.exc import OperationalError

from ray_jobs import _mlflow

WHERE = "http://127.0.0.1:9"
ODD = [*"@%#()[]{}+=,;'\"\\|<>?*&^~`$\n\t\0\ud800é中/ "]
PATHS = ["", ".", "..", "/", "//", "/a", "a/", "a//b", "./a", "../a", "a/../b", "..a", "...", ".../a", "a/./b", "/.a"]
NAMES = ["recall@20", "a" * 250, "a" * 251, "é" * 300, *PATHS, *ODD, *(f"a{each}b" for each in ODD)]


class Clock:
    """Moves when somebody sleeps."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """No real client, and no real pauses."""
    clock = Clock()
    monkeypatch.setattr(_mlflow, "client", lambda uri: f"client of {uri}")
    monkeypatch.setattr(_mlflow, "time", clock)
    yield clock
    _mlflow._away.clear()


@pytest.mark.parametrize("name", NAMES)
def test_every_name_becomes_one_that_mlflow_takes(name: str) -> None:
    taken = _mlflow.metric_name(name)
    validation._validate_metric(taken, 1.0, 1, 1)
    validation._validate_param_name(taken)
    validation._validate_tag_name(taken)
    assert len(taken) <= validation.MAX_ENTITY_KEY_LENGTH
    assert _mlflow.metric_name(taken) == taken, "what MLflow takes stays as it is"


def test_names_that_mlflow_takes_stay_as_they_are_and_long_ones_stay_apart() -> None:
    for name in ("loss", "system/node_0/cpu_percent", "loss.temperature", "a b:c-d", "a" * 250, "höhe"):
        assert _mlflow.metric_name(name) == name
    assert _mlflow.metric_name("valid_recall@20") == "valid_recall_at_20"
    assert _mlflow.metric_name("a" * 300) != _mlflow.metric_name("a" * 301)


def test_values_are_cut_where_mlflow_would_refuse_them_and_say_so() -> None:
    for length in (0, 5999, 6000, 6001, 100_000):
        taken = _mlflow.text("x" * length)
        assert len(taken) == min(length, validation.MAX_PARAM_VAL_LENGTH)
        assert taken.endswith("…") == (length > validation.MAX_PARAM_VAL_LENGTH)
    assert _mlflow.text("long name", 5) == "long…"
    odd = _mlflow.text("a\0b\ud800c é中")
    assert odd.encode("utf-8").decode("utf-8") == odd
    assert "\0" not in odd
    assert (odd[0], odd[2], odd[4:]) == ("a", "b", "c é中")


def test_numbers_stay_and_what_is_not_finite_is_nan() -> None:
    for value in (0.0, -0.0, 1.5, 5e-324, 1.7976931348623157e308, 3):
        assert _mlflow.metric_value(value) == value
    assert all(math.isnan(_mlflow.metric_value(value)) for value in (math.inf, -math.inf, math.nan))


def test_mlflow_itself_takes_what_is_left_of_the_worst(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow = _mlflow.client(uri)
    run_id = mlflow.create_run(mlflow.create_experiment("odd")).info.run_id
    names = sorted({_mlflow.metric_name(name) for name in NAMES})
    worst = _mlflow.text("\0\ud800" * 10_000)
    mlflow.log_batch(
        run_id,
        metrics=[Metric(name, _mlflow.metric_value(math.inf), 1, 1) for name in names],
        params=[Param(name, worst) for name in names[:40]],
        tags=[RunTag(name, worst) for name in names[:40]],
    )
    data = mlflow.get_run(run_id).data
    assert set(names) <= data.metrics.keys()
    assert all(math.isnan(value) for value in data.metrics.values())
    assert {data.params[name] for name in names[:40]} == {worst} == {data.tags[name] for name in names[:40]}


def failing(errors: list[Exception]) -> Callable[[Any], str]:
    def call(client: str) -> str:
        if errors:
            raise errors.pop(0)
        return client

    return call


def answer(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(response=response)


def refused(code: Any, message: str = "no") -> RestException:
    return RestException({"error_code": codes.ErrorCode.Name(code), "message": message})


PASSING = [
    MlflowException("API request to http://127.0.0.1:9 failed with exception: connection refused"),
    refused(codes.TEMPORARILY_UNAVAILABLE, "database is locked"),
    refused(codes.BAD_REQUEST, "(psycopg2.errors.UniqueViolation) duplicate key value violates unique constraint"),
    refused(codes.BAD_REQUEST, "QueuePool limit of size 5 overflow 10 reached"),
    refused(codes.REQUEST_LIMIT_EXCEEDED),
    OperationalError("PRAGMA", None, Exception("database is locked")),
    requests.ConnectionError("reset"),
    refused(codes.INTERNAL_ERROR),
    answer(503),
    answer(429),
]
LASTING = [
    refused(codes.INVALID_PARAMETER_VALUE),
    refused(codes.RESOURCE_DOES_NOT_EXIST),
    refused(codes.PERMISSION_DENIED),
    answer(403),
    OSError("no space left"),
    TypeError("a mistake of ours"),
]


@pytest.mark.parametrize("error", PASSING, ids=str)
def test_what_may_pass_is_tried_again(error: Exception) -> None:
    assert _mlflow.patiently(WHERE, failing([error] * 4)) == f"client of {WHERE}"


@pytest.mark.parametrize("error", LASTING, ids=str)
def test_what_will_not_pass_is_not_tried_again(error: Exception) -> None:
    errors = [error] * 2
    with pytest.raises(type(error)):
        _mlflow.patiently(WHERE, failing(errors))
    assert len(errors) == 1, "tried once"


def test_patience_has_an_end_and_is_with_the_outage_not_with_each_call(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    began, away = clock.now, requests.ConnectionError("reset")
    with pytest.raises(requests.ConnectionError):
        _mlflow.patiently(WHERE, failing([away] * 1000))
    waited = clock.now - began
    assert _mlflow.PATIENCE_SECONDS - _mlflow.LONGEST_PAUSE <= waited <= _mlflow.PATIENCE_SECONDS
    assert capsys.readouterr().err.count(f"waiting for MLflow at {WHERE}") == 1
    for _ in range(5):
        with pytest.raises(requests.ConnectionError):
            _mlflow.patiently(WHERE, failing([away] * 1000))
    assert clock.now - began <= _mlflow.PATIENCE_SECONDS, "it is away: nobody waits anew"
    assert _mlflow.patiently("http://elsewhere", failing([away])) == "client of http://elsewhere"
    _mlflow.patiently(WHERE, failing([]))
    assert _mlflow.patiently(WHERE, failing([away] * 3)) == f"client of {WHERE}", "it was back: patience is whole again"


def test_a_server_that_refuses_is_back(clock: Clock) -> None:
    """Patience with the next outage is whole again, however long ago the last one was."""
    refusal = refused(codes.INVALID_PARAMETER_VALUE, "no")
    with pytest.raises(requests.ConnectionError):
        _mlflow.patiently(WHERE, failing([requests.ConnectionError("reset")] * 1000))
    with pytest.raises(type(refusal)):
        _mlflow.patiently(WHERE, failing([refusal]))
    clock.now += 3600
    assert _mlflow.patiently(WHERE, failing([requests.ConnectionError("reset")] * 3)) == f"client of {WHERE}"


def test_a_server_that_answers_that_it_is_busy_is_not_away(clock: Clock) -> None:
    """However long it takes to say so; but nobody asks for ever."""
    busy = refused(codes.BAD_REQUEST, "QueuePool limit reached, connection timed out, timeout 30.00")

    def slowly(errors: list[Exception]) -> Callable[[Any], str]:
        def call(client: str) -> str:
            clock.sleep(30)
            return failing(errors)(client)

        return call

    assert _mlflow.patiently(WHERE, slowly([busy] * 6)) == f"client of {WHERE}"
    errors: list[Exception] = [busy] * 1000
    with pytest.raises(RestException):
        _mlflow.patiently(WHERE, slowly(errors))
    assert len(errors) == 1000 - _mlflow.MOST_TRIES


def test_no_patience_is_one_try() -> None:
    for error in PASSING:
        errors = [error] * 2
        with pytest.raises(type(error)):
            _mlflow.patiently(WHERE, failing(errors), patience=0)
        assert len(errors) == 1


def test_a_file_that_is_not_there_is_trouble_and_not_created(tmp_path: Path) -> None:
    assert _mlflow.trouble(f"sqlite:///{tmp_path}/gone/mlflow.db") == "there is no such file"
    assert list(tmp_path.iterdir()) == []


def test_artifacts_come_by_the_server_though_it_offers_signed_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As MLflow's does wherever its artifacts are in S3, which a job's network need not reach."""
    monkeypatch.undo()
    run_id, asked = "0" * 32, []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            where = f"mlflow-artifacts:/1/{run_id}"
            info = {"run_id": run_id, "experiment_id": "1", "status": "FINISHED", "artifact_uri": where}
            answers = {
                "server-info": {"multipart_downloads_enabled": True, "multipart_uploads_enabled": True},
                "presigned": {"url": "http://127.0.0.1:9/s3", "headers": {}, "file_size": 4},
                "runs/get": {"run": {"info": info, "data": {}}},
                "artifacts?path=": {"files": []},
            }
            (body, *_) = [json.dumps(answer) for what, answer in answers.items() if what in self.path] or ["kept"]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        mlflow = _mlflow.client(f"http://127.0.0.1:{server.server_address[1]}")
        found = mlflow.download_artifacts(run_id, "evaluation/metrics.json", str(tmp_path))
    finally:
        server.shutdown()
        server.server_close()
    assert Path(found).read_text() == "kept"
    assert [path for path in asked if path.endswith("evaluation/metrics.json")]
    assert [path for path in asked if "presigned" in path] == []
