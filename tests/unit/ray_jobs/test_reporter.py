"""MLflow's password expires: a training goes on and nothing is lost, register ends in a line; what is said names no secret."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from components.errors import InputError
from ray_jobs import _mlflow, _program, _registration, _reporter, _tracking
from tests import worlds

OLD, NEW = "0ld-s3cret", "n3w-s3cret"


class Server:
    """Answers as MLflow behind a password does. `password` is the one that is good now, `loss` what was logged, by step."""

    def __init__(self) -> None:
        self.password, self.loss, self.refused = OLD, {}, 0
        of = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
                good = "Basic " + base64.b64encode(f"me:{of.password}".encode()).decode()
                if self.headers["Authorization"] != good:
                    of.refused += 1
                    self.send_error(401)
                    return
                of.loss |= {each["step"]: each["value"] for each in body.get("metrics", [])}
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            do_GET = do_POST = _answer

            def log_message(self, format: str, *args: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.http.server_address[1]}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", OLD)
    monkeypatch.setattr(_reporter, "RETRY_SECONDS", 0.05)
    made = Server()
    threading.Thread(target=made.http.serve_forever, daemon=True).start()
    yield made
    made.http.shutdown()
    made.http.server_close()


def entry(step: int) -> dict[str, Any]:
    return {"time": time.time(), "step": step, "metrics": {"loss": 1 / step}}


def wait_for(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.01)


def test_training_goes_on_and_every_epoch_arrives_once_the_password_is_good_again(server: Server, tmp_path: Path) -> None:
    reporter = _reporter.Reporter(_tracking.TrackedRun(server.uri, "0" * 32), tmp_path, max_failures=0)
    reporter.after_report(None, [{"history": [entry(1)]}], None)
    wait_for(lambda: server.loss == {1: 1.0})
    server.password = NEW
    for step in (2, 3):
        reporter.after_report(None, [{"history": [entry(step)]}], None)  # returns although it is refused
    wait_for(lambda: server.refused > 2)
    assert [each["step"] for each in _tracking.read_history(tmp_path)] == [1, 2, 3], "kept, whatever MLflow takes"
    (notice,) = _reporter.read_notices(tmp_path)
    assert notice.startswith(f"MLflow at {server.uri} refuses (MlflowException: ") and " 401 " in notice
    assert str(tmp_path / _tracking.HISTORY) in notice
    server.password = OLD
    wait_for(lambda: server.loss == {1: 1.0, 2: 1 / 2, 3: 1 / 3})
    wait_for(lambda: len(_reporter.read_notices(tmp_path)) == 2)
    assert not any(secret in line for secret in (OLD, NEW) for line in _reporter.read_notices(tmp_path))


def test_the_driver_says_where_the_metrics_are_kept_and_ends_well(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracked = _tracking.TrackedRun(server.uri, "0" * 32)
    _tracking.append_history(tmp_path, [entry(1)])
    server.password = NEW
    _tracking.end(tracked, tmp_path, "FINISHED")
    assert server.refused == 2, "the end, and the metrics: each once, for it would not pass"
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"MLflow at {server.uri} refuses (") and " 401 " in said
    assert said.endswith(f"what it lacks is kept in {tmp_path / _tracking.HISTORY}")
    assert OLD not in said


def test_register_ends_in_a_line_and_goes_on_once_the_password_is_good_again(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    tracked = _tracking.TrackedRun(server.uri, "0" * 32)

    def set_tag() -> int:
        _registration._send(tracked, "set_model_version_tag", "shop", "1", "gate", "refused")
        return 0

    server.password = NEW
    assert _program.guarded(set_tag) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: tracking.uri: MLflow at {server.uri} refuses (") and " 401 " in said
    assert not any(secret in said for secret in (OLD, NEW))
    server.password = OLD
    assert _program.guarded(set_tag) == 0


def test_register_says_that_mlflow_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_mlflow, "PATIENCE_SECONDS", 0.0)
    with pytest.raises(
        InputError, match=r"^tracking.uri: MLflow at http://127.0.0.1:9 does not answer \(.*\); the same command"
    ):
        _registration._send(_tracking.TrackedRun("http://127.0.0.1:9", "0" * 32), "get_run", "0" * 32)


def test_credentials_go_to_no_server_but_the_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes into a run's folder would get the password of whoever evaluates or registers it."""
    recipe = worlds.recipe(tracking={"uri": "http://mlflow:5000"})
    links = {"tracking_uri": "http://evil.example", "run_id": "0" * 32}
    (tmp_path / _tracking.LINKS).write_text(json.dumps(links))
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", OLD)
    with pytest.raises(
        InputError, match=r"^tracking.uri: got http://mlflow:5000, takes http://evil.example, where .* is tracked"
    ):
        _tracking.attach_by(recipe, tmp_path)
    (tmp_path / _tracking.LINKS).write_text(json.dumps({**links, "tracking_uri": "http://mlflow:5000/"}))
    assert _tracking.attach_by(recipe, tmp_path).run_id == "0" * 32
