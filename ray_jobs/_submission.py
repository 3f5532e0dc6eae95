"""Programs as Ray jobs: submitted once, followed to their end, stopped. Thin over Ray's job client."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import queue
import re
import secrets
import shlex
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.config import Recipe
from components.errors import InputError, reason
from ray_jobs import _credentials, _package, _results, _runs, _tracking

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient


class AwayError(InputError):
    """No answer that a head gives: it may be back in a moment."""


RECIPE = "HARDNEG_RECIPE"
REQUEST = "hardneg_request"  # in a job's metadata: what was asked for
LONGEST_RECIPE = 100_000  # bytes: it becomes an environment variable, and Linux takes 131,071
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0
LOST_SECONDS = 300.0
LOG_SECONDS = 30.0
POLL_SECONDS = 1.0
STOP_SECONDS = 60.0
SHOWN_LINES = 20
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # Ray's client prefers them to what it is told


# what a job is made of ----------------------------------------------------------------------------------------------


def environment(recipe: Recipe, attempt: str = "") -> dict[str, str]:
    """A job's environment variables; credentials are not among them (ray_jobs._credentials). `attempt` names the run that it is
    to go on with, if an earlier job has begun it.

    Raises:
        InputError: tracking is a file, or the recipe is too long for a variable.
    """
    uri = _tracking.uri(recipe)
    _tracking.require_server(uri)
    text = recipe.to_json()
    if len(text.encode()) > LONGEST_RECIPE:
        raise InputError(
            f"recipe {recipe.name}: got {len(text.encode()):,} bytes as JSON, takes at most {LONGEST_RECIPE:,}; "
            "a folder in data.source is shorter than a list of files"
        )
    own = {_runs.ATTEMPT: attempt} if attempt else {}
    return {RECIPE: text, "MLFLOW_TRACKING_URI": uri, "HARDNEG_COMMIT": _tracking.commit(), **own}


def entry_point(program: str, arguments: Sequence[str] = ()) -> str:
    """The shell command of a job."""
    return shlex.join(["python", "-m", f"ray_jobs.{program}", f"env:{RECIPE}", *arguments])


def new_id(program: str, recipe: Recipe) -> str:
    return f"{recipe.name}-{program}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


# talking to a head --------------------------------------------------------------------------------------------------


def connect(address: str) -> JobSubmissionClient:
    """A client of the Jobs API at the URL of a head's dashboard. Warns on stderr where the cluster's Ray is another one.

    Raises:
        InputError: nothing answers there, it is no Ray, or it wants a token that was not sent, or another one.
    """
    if not re.fullmatch(r"https?://[^/\s]+.*", address):
        raise InputError(f"--address: got {address!r}, takes the URL of a head's dashboard, as http://HEAD:8265")
    import ray
    import requests
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env"):
        logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)  # what is shipped is said here, in one line
    address = address.rstrip("/")
    with _explained(address):
        requests.get(f"{address}/api/version", timeout=CONNECT_SECONDS)  # Ray's client would wait for minutes
        with _unset(*ADDRESS_VARIABLES):
            client = JobSubmissionClient(address)
    theirs = getattr(client, "_server_ray_version", None) or ray.__version__
    if theirs != ray.__version__:
        print(f"warning: Ray is {ray.__version__} here and {theirs} on the cluster; jobs run on the cluster's", file=sys.stderr)
    return client


@contextlib.contextmanager
def _unset(*names: str) -> Iterator[None]:
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ |= before


@contextlib.contextmanager
def _explained(address: str) -> Iterator[None]:
    """What can go wrong between here and a head, as one InputError."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise InputError(f"--address: {address}: {_token_trouble(str(error))}") from error
    except (ConnectionError, requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise AwayError(
            f"--address: tried {address}, which does not answer ({reason(error)}); takes the URL of a running head's "
            "dashboard (ray start --head prints it; from outside of its machine or Kubernetes: forward its port 8265)"
        ) from error
    except (requests.RequestException, KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"--address: tried {address}, whose answer is not that of a Ray head ({reason(error)})") from error
    except RuntimeError as error:
        raise AwayError(f"--address: {address}: {str(error).strip().splitlines()[-1]}") from error


def _token_trouble(said: str) -> str:
    sources = "RAY_AUTH_TOKEN, the file that RAY_AUTH_TOKEN_PATH names, or ~/.ray/auth_token"
    if said.startswith("Authentication required"):
        mode = os.environ.get("RAY_AUTH_MODE", "not set")
        return (
            f"401, the cluster takes a token and none was sent; takes RAY_AUTH_MODE=token (here: {mode}) and the cluster's "
            f"token in {sources}; on the head, ray get-auth-token prints it"
        )
    if not said.startswith("Authentication failed"):  # Ray's client did not even ask
        return f"RAY_AUTH_MODE=token here, and no token in {sources}; on the head, ray get-auth-token prints it"
    return (
        f"403, the token that was sent is not the cluster's (expired, or of another cluster); takes the cluster's in "
        f"{sources}, read in this order; on the head, ray get-auth-token prints it"
    )


def _within(seconds: float, ask: Callable[[], Any]) -> Any:
    """ask(), given up after so many seconds: Ray's client has no timeout of its own."""
    answers: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((ask(), None))
        except Exception as error:
            answers.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        value, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise ConnectionError(f"no answer within {seconds:.0f} s") from None
    if error is not None:
        raise error
    return value


def find(client: JobSubmissionClient, submission_id: str) -> JobDetails | None:
    """The job of that id, or None."""
    with _explained(client.get_address()):
        try:
            return _within(ANSWER_SECONDS, lambda: client.get_job_info(submission_id))
        except RuntimeError as error:
            if "status code 404" in str(error):
                return None
            raise


# submitting ---------------------------------------------------------------------------------------------------------


def submit(
    client: JobSubmissionClient,
    program: str,
    recipe: Recipe,
    arguments: Sequence[str] = (),
    *,
    submission_id: str,
    working_dir: Path | None,
    attempt: str = "",
) -> bool:
    """Starts a job, and returns True; or finds the job of that id, of whoever started it, and returns False.

    `working_dir` is the tree to ship; None where the cluster's nodes have the project. `attempt` is environment's.

    Raises:
        InputError: the id belongs to a job of something else, the tree is too large, or Ray refuses the job.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", submission_id):
        raise InputError(f"--submission-id: got {submission_id!r}, takes letters, digits, '_', '.' and '-'")
    variables, command = environment(recipe, attempt), entry_point(program, arguments)
    asked = hashlib.sha256(f"{command}\n{variables[RECIPE]}".encode()).hexdigest()[:12]
    if (found := find(client, submission_id)) is not None:
        return _is_new(found, asked)
    sealed, pad = _credentials.seal(_credentials.here())
    runtime_env: dict[str, Any] = {"env_vars": variables | sealed}
    if working_dir is not None:
        _package.measure(working_dir)
        runtime_env["working_dir"] = str(working_dir)
    with _explained(client.get_address()):
        try:
            client.submit_job(
                entrypoint=command,
                submission_id=submission_id,
                runtime_env=runtime_env,
                metadata={REQUEST: asked} | pad,
                entrypoint_num_cpus=recipe.scale.driver_cpus or None,
            )
        except RuntimeError as error:
            found = find(client, submission_id) if "already exists" in str(error) else None
            if found is not None:  # submitted twice at once: one came first
                return _is_new(found, asked)
            said = str(error).strip().splitlines()[-1]
            raise InputError(f"{client.get_address()}: Ray refused the job {submission_id}: {said}") from error
    return True


def _is_new(found: JobDetails, asked: str) -> bool:
    """False; or an InputError where the id is that of something else."""
    if (found.metadata or {}).get(REQUEST) != asked:
        raise InputError(
            f"--submission-id: got {found.submission_id}, which is a job of another program, recipe or arguments "
            f"({found.entrypoint}, {found.status}), takes an id of its own for each"
        )
    return False


def next_id(client: JobSubmissionClient, submission_id: str) -> str:
    """The id itself, or after attempts that failed or were stopped id-2, id-3, ...

    So a step that is retried finds its job where that lives or has succeeded, and starts anew only where it has not.
    """
    attempt, candidate = 1, submission_id
    while (found := find(client, candidate)) is not None and found.status in ("FAILED", "STOPPED"):
        attempt += 1
        candidate = f"{submission_id}-{attempt}"
    return candidate


# following ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """A job that is over: SUCCEEDED, FAILED or STOPPED.

    `result` is what it told (ray_jobs._results); `message` is why Ray ended it, empty where the program ended by itself.
    """

    status: str
    exit_code: int
    lines: list[str]
    result: dict[str, Any] | None
    message: str


class _Log:
    """A growing text, told line by line."""

    def __init__(self, echo: Callable[[str], None]) -> None:
        self.lines: deque[str] = deque(maxlen=SHOWN_LINES)
        self.result: dict[str, Any] | None = None
        self._echo, self._told = echo, 0

    def grow(self, text: str, whole: bool = False) -> None:
        end = len(text) if whole else text.rfind("\n") + 1
        for line in text[self._told : end].splitlines():
            found = _results.read(line)
            if found is not None:
                self.result = found
            else:
                self.lines.append(line)
                self._echo(line)
        self._told = max(self._told, end)


def follow(
    client: JobSubmissionClient,
    submission_id: str,
    echo: Callable[[str], None],
    watch: Callable[[JobDetails], None] = lambda details: None,
) -> Ended:
    """Tells the job's log, line by line, until it ends; `watch` hears of its state every second or so.

    The log is asked for anew each time, so that a dropped connection costs nothing; the longer an answer takes, the rarer.

    Raises:
        InputError: there is no such job, or the head has not answered for five minutes or takes the token no more (the job
            may go on).
    """
    log, heard = _Log(echo), time.monotonic()
    while True:
        asked, details = time.monotonic(), None
        try:
            details = find(client, submission_id)
            if details is None:
                raise unknown(client, submission_id)
            with _explained(client.get_address()):  # a token that has expired meanwhile, as find has it
                text = _within(ANSWER_SECONDS, lambda: client.get_job_logs(submission_id))
        except (AwayError, RuntimeError, OSError) as error:
            silent = time.monotonic() - heard
            if silent > LOST_SECONDS:
                lost = f"{client.get_address()}: lost for {LOST_SECONDS:.0f} s, the job {submission_id} may go on"
                raise InputError(f"{lost}: {error}") from error
            if details is None or not details.status.is_terminal() or silent < LOG_SECONDS:
                time.sleep(POLL_SECONDS)
                continue
            text = ""  # the node that had it is gone
        heard, ended = time.monotonic(), details.status.is_terminal()
        log.grow(text, whole=ended)
        watch(details)
        if ended:
            said = (details.message or "").partition("\n")[0]
            message = said if details.driver_exit_code is None else ""  # else it repeats the log
            return Ended(str(details.status), _exit_code(details), list(log.lines), log.result, message)
        time.sleep(max(POLL_SECONDS, 5 * (time.monotonic() - asked)))


def _exit_code(details: JobDetails) -> int:
    """As a shell has it: 128 and the signal's number for a job that one ended."""
    if details.status == "SUCCEEDED":
        return 0
    code = details.driver_exit_code or (-15 if details.status == "STOPPED" else 1)
    return code if code > 0 else 128 - code


# stopping -----------------------------------------------------------------------------------------------------------


def stop(client: JobSubmissionClient, submission_id: str) -> str:
    """Stops a job, waits for its end and returns its status: STOPPED, or what it ended as before.

    Raises:
        InputError: there is no such job, or it does not end.
    """
    found = find(client, submission_id)
    if found is None:
        raise unknown(client, submission_id)
    until = time.monotonic() + STOP_SECONDS
    if not found.status.is_terminal():
        ask_to_stop(client, submission_id)
    while not found.status.is_terminal():
        if time.monotonic() > until:
            raise InputError(f"{submission_id}: asked to stop, and still {found.status} after {STOP_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS / 4)
        found = find(client, submission_id) or found
    return str(found.status)


def ask_to_stop(client: JobSubmissionClient, submission_id: str) -> None:
    with _explained(client.get_address()):
        _within(ANSWER_SECONDS, lambda: client.stop_job(submission_id))


def stop_all(client: JobSubmissionClient, prefix: str) -> list[str]:
    """Stops the jobs whose ids begin so and that have not ended; returns their ids."""
    with _explained(client.get_address()):
        jobs = _within(ANSWER_SECONDS, client.list_jobs)
    alive = [job.submission_id for job in jobs if (job.submission_id or "").startswith(prefix) and not job.status.is_terminal()]
    for submission_id in alive:  # all are asked before one is waited for
        ask_to_stop(client, submission_id)
    for submission_id in alive:
        stop(client, submission_id)
    return alive


def unknown(client: JobSubmissionClient, submission_id: str) -> InputError:
    """What is said of an id that no job has."""
    with _explained(client.get_address()):
        jobs = _within(ANSWER_SECONDS, client.list_jobs)
    names = [job.submission_id for job in jobs if job.submission_id and not job.status.is_terminal()]
    where = f"{client.get_address()} (a head that starts anew forgets its jobs)"
    return InputError(f"{submission_id}: no such job at {where}; running there: {', '.join(names) or 'none'}")
