"""Where a pipeline's jobs run, chosen here and nowhere else.

`target` is http://HEAD:8265, the Jobs API of a standing Ray cluster, or rayjob:NAMESPACE, where Kubernetes makes a cluster for
each job. A job's name is made of the pipeline run's id, so that a step that is lost and retried finds its job, and the exit
handler what is left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import uuid
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn, Protocol, TypeVar

from components.errors import InputError
from components.steps import RUN_ID, read
from components.steps.job import Job, prefix, say
from ray_jobs import _package, _submission
from ray_jobs._results import Result
from ray_jobs._submission import Ended

STOPPED = 143  # as a shell has it: ended by SIGTERM

Typed = TypeVar("Typed", bound=Result)


class Target(Protocol):
    def run(self, job: Job) -> Ended:
        """Starts the job, or finds it, and tells its log until it ends."""
        ...

    def stop(self, job: Job) -> None: ...

    def stop_all(self, run_id: str) -> list[str]:
        """Stops all jobs of a pipeline's run; returns their names."""
        ...


class StandingCluster:
    """Jobs by the Jobs API. After an attempt that failed or was stopped the next one has an id of its own."""

    def __init__(self, address: str) -> None:
        self._client = _submission.connect(address)
        self._id = ""

    def run(self, job: Job) -> Ended:
        self._id = _submission.next_id(self._client, job.name)
        own: dict[str, Any] = {"submission_id": self._id, "working_dir": _package.tree(), "attempt": job.name}
        new = _submission.submit(self._client, job.program, job.recipe, job.arguments, **own)
        say(f"job {self._id}: {'submitted' if new else 'found, submitted by an earlier attempt'}")
        return _submission.follow(self._client, self._id, say)

    def stop(self, job: Job) -> None:
        if self._id:
            _submission.stop(self._client, self._id)

    def stop_all(self, run_id: str) -> list[str]:
        return _submission.stop_all(self._client, prefix(run_id))


def choose(target: str) -> Target:
    """
    Raises:
        InputError: it is neither, or it cannot be reached.
    """
    if target.startswith(("http://", "https://")):
        return StandingCluster(target)
    kind, _, namespace = target.partition(":")
    if kind == "rayjob" and namespace:
        from components.steps import rayjob

        return rayjob.RayJobs(namespace)
    raise InputError(
        f"target: got {target!r}, takes http://HEAD:8265 (a standing cluster) or rayjob:NAMESPACE (a cluster for each job)"
    )


def run(target: str, program: str, recipe: str, result: type[Typed], arguments: Sequence[str] = (), *, part: str = "") -> Typed:
    """Runs a program to its end and returns its result. `part` tells a program's jobs in one run of the pipeline apart.

    Told to stop, it stops the job. What goes wrong ends this process, with what a person needs and no traceback.
    """
    with _said():
        job = Job(run_id(), program, part, read(recipe), arguments)
        where = choose(target)
        with _stopping(where, job):
            ended = where.run(job)
        if ended.status != "SUCCEEDED" or ended.result is None:
            sys.exit(_failure(job, ended))
        return result.model_validate(ended.result)


def stop_all(target: str) -> None:
    """Stops what this run of the pipeline has left running."""
    with _said():
        whose = run_id()
        left = choose(target).stop_all(whose)
    say(f"stopped, left running: {', '.join(left)}" if left else "nothing was left running")


def run_id() -> str:
    """This run of the pipeline. It is no parameter of a step, or nothing would be found in KFP's cache.

    Raises:
        InputError: KFP_RUN_ID is not set.
    """
    given = os.environ.get(RUN_ID, "")
    with contextlib.suppress(ValueError):
        return str(uuid.UUID(given))
    raise InputError(
        f"{RUN_ID}: got {given!r}, takes the id of the pipeline's run, a UUID; KFP's pods have it from their label"
    )


@contextlib.contextmanager
def _said() -> Iterator[None]:
    if os.environ.get("RAY_AUTH_TOKEN"):
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray's client sends none unless it is told to
    try:
        yield
    except InputError as error:
        sys.exit("\n".join(f"error: {line}" for line in str(error).replace("--address:", "target:").splitlines()))


@contextlib.contextmanager
def _stopping(where: Target, job: Job) -> Iterator[None]:
    """A step that is told to stop (SIGTERM, Ctrl-C) takes its job along; one that is killed cannot, and is retried."""

    def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
        where.stop(job)
        say(f"{job.name}: stopped, as this step was")
        sys.exit(STOPPED)
    finally:
        signal.signal(signal.SIGTERM, before)


def _failure(job: Job, ended: Ended) -> str:
    how = "without a result" if ended.status == "SUCCEEDED" else f"with exit code {ended.exit_code}"
    lines = [f"error: {job.name}: the job ended as {ended.status} {how}{ended.message and f' ({ended.message})'}"]
    if ended.lines:
        lines += [f"its last {len(ended.lines)} lines:", *(f"  {line}" for line in ended.lines)]
    return "\n".join(lines)
