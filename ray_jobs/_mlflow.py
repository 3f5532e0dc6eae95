"""MLflow as we call it: names and values that it takes, and calls that are made again where another try may go better."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import math
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from components.errors import reason

PATIENCE_SECONDS = 60.0  # a server that is started again takes 10 to 30, and a request may take 30
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
TRIES_IN_SILENCE, MOST_TRIES = 4, 20  # some 3 s, and more than a minute
LONGEST_NAME = 250
LONGEST_VALUE = 6000  # characters of a parameter; of a tag it takes more
# INTERNAL_ERROR is what MLflow's client says, too, where there was no answer. BAD_REQUEST is all that a database refuses: a
# race that was lost, no connection left in the pool. What a caller got wrong is INVALID_PARAMETER_VALUE.
PASSING = ("INTERNAL_ERROR", "BAD_REQUEST", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED")
SQLITE = "sqlite:///"

SETTINGS = {  # those that somebody made stay
    # artifacts come and go by the server: its signed links lead past it to S3, which a job's network need not reach
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # not each step of creating a database
}
os.environ |= {**SETTINGS, **os.environ}  # here, since it reads some as it is imported, by whatever needs it first

Answer = TypeVar("Answer")
_away: dict[str, float] = {}  # tracking URIs that answer nothing, and since when


def client(tracking_uri: str) -> Any:
    """An MLflow client that gives up within half a minute where a server hangs, at once where there is none.

    It tries once: a request that it sent again by itself, as creating a run, could be carried out twice.
    """
    import mlflow  # slow to import

    if not tracking_uri.startswith(SQLITE):
        return mlflow.MlflowClient(tracking_uri)
    folder = Path(tracking_uri.removeprefix(SQLITE)).parent
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        return mlflow.MlflowClient(tracking_uri)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time: the first client makes a file's tables, and MLflow would let several do so at once, and fail."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # ends with the process
        yield
    finally:
        os.close(descriptor)


def trouble(tracking_uri: str) -> str:
    """Why MLflow cannot be used from here, in a line; empty where it can. A file that is not there is not created."""
    if tracking_uri.startswith(SQLITE) and not Path(tracking_uri.removeprefix(SQLITE)).is_file():
        return "there is no such file"
    try:
        client(tracking_uri).search_experiments(max_results=1)
    except Exception as error:  # whatever it is, it is why
        return reason(error)
    return ""


def patiently(tracking_uri: str, call: Callable[[Any], Answer], patience: float | None = None) -> Answer:
    """`call(client)`, again where that may help, until an outage has lasted `patience` seconds.

    The patience is with the outage, not with the call: who comes when nothing has been answered for so long tries once. A call
    that is refused while others get through ends after as long, and MOST_TRIES.
    """
    patience, first = PATIENCE_SECONDS if patience is None else patience, time.monotonic()
    for tries in itertools.count(1):
        began = time.monotonic()
        try:
            answer = call(client(tracking_uri))
        except Exception as error:
            found = trouble_of(error)
            if found != "away":  # it answers, if not well
                _away.pop(tracking_uri, None)
            since = _away.setdefault(tracking_uri, began) if found == "away" else time.monotonic()
            pause = random.uniform(0.5, 1.0) * min(FIRST_PAUSE * 2**tries, LONGEST_PAUSE)
            has_tried_enough = tries >= MOST_TRIES and time.monotonic() > first + patience
            if found == "lasting" or has_tried_enough or time.monotonic() + pause > since + patience:
                raise
            if tries == TRIES_IN_SILENCE:
                print(f"waiting for MLflow at {tracking_uri} ({reason(error)})", file=sys.stderr)
            time.sleep(pause)
        else:
            _away.pop(tracking_uri, None)
            return answer
    raise AssertionError("it has no end")


def trouble_of(error: Exception) -> str:
    """away: there was no answer. busy: another try may get a better one. lasting: it would be the same."""
    from mlflow.exceptions import MlflowException, RestException
    from requests import HTTPError, RequestException
    from sqlalchemy.exc import OperationalError

    if isinstance(error, MlflowException):
        if error.error_code not in PASSING:
            return "lasting"
        return "away" if error.error_code == "INTERNAL_ERROR" and not isinstance(error, RestException) else "busy"
    if isinstance(error, HTTPError) and error.response is not None:  # of an artifact
        return "busy" if error.response.status_code in (408, 429) or error.response.status_code >= 500 else "lasting"
    if isinstance(error, OperationalError):  # a locked file, before MLflow has made it its own error
        return "busy"
    return "away" if isinstance(error, RequestException) else "lasting"


def complaint(tracking_uri: str, error: Exception) -> str:
    """That nothing reached MLflow, in a line: it does not answer, or it refuses, as it does a password that has expired."""
    did = "refuses" if trouble_of(error) == "lasting" else "does not answer"
    return f"MLflow at {tracking_uri} {did} ({reason(error)})"


def metric_name(name: str) -> str:
    """A metric's or parameter's name as MLflow takes it: recall@20 is recall_at_20, and _ stands for what else it refuses.

    A name of more than LONGEST_NAME characters ends with a digest of the whole.
    """
    taken = re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"))
    taken = "/".join(part for part in taken.split("/") if part not in ("", ".", "..")).lstrip("./") or "_"
    if len(taken) > LONGEST_NAME:
        digest = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
        taken = f"{taken[: LONGEST_NAME - 9]}_{digest}"
    return taken


def metric_value(value: float) -> float:
    """An infinity is sent as NaN, which MLflow keeps as NaN: for an infinity it would keep the largest float, 1.8e308, which
    nobody measured, and which would be first, or last, in every order."""
    return value if math.isfinite(value) else math.nan


def text(value: str, longest: int = LONGEST_VALUE) -> str:
    """A parameter or tag as MLflow and its databases take it: what is too long ends with an ellipsis.

    PostgreSQL takes no NUL, and UTF-8 no half of a pair, as in a file's name that is not text.
    """
    taken = value.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")
    return taken if len(taken) <= longest else f"{taken[: longest - 1]}…"
