"""What a team's cluster has, on one Linux machine, on localhost, with passwords: python -m infra.local.cluster {up,down}

PostgreSQL, an S3 server (moto, in memory), MLflow's server on both, a Ray head without CPUs and two worker nodes. What runs,
logs and secrets (mode 600) are in ./runs/cluster. MLflow's database and artifacts are gone with the cluster.
"""

from __future__ import annotations

import contextlib
import fcntl
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from components import storage
from components.errors import FailedError, InputError
from infra.local import parts, processes
from infra.local.processes import Process

FOLDER = Path("runs/cluster")
STATE, LOGS, SECRETS, ENV = "state.json", "logs", "secrets", "env"
SAID = """\
jobs and nodes  {links.ray}  asks for the token in {folder}/secrets/ray-token
MLflow          {links.mlflow}  user admin, password in {folder}/secrets/mlflow-password
beside them     S3 at {links.s3}, PostgreSQL at {links.database}; logs in {folder}/logs
end             make cluster-down

Each shell that talks to it takes `. {folder}/env`, which is
{exports}"""


class State:
    """What runs, on disk at every moment: whoever comes after a kill can end it. `said` is what `up` told in the end."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / STATE
        kept = storage.read_json(self._path) if self._path.exists() else {"parts": [], "scratch": [], "said": ""}
        self.parts = [Process(**part) for part in kept["parts"]]
        self.scratch: list[str] = kept["scratch"]
        self.said: str = kept["said"]

    def save(self) -> None:
        kept = {"parts": [part._asdict() for part in self.parts], "scratch": self.scratch, "said": self.said}
        storage.write_json(self._path, kept)

    def running(self) -> list[Process]:
        return [part for part in self.parts if processes.is_alive(part)]


def up(folder: Path) -> None:
    """Starts all parts, waits until they answer, and says where they are. Where one fails, what was started is ended.

    Raises:
        InputError: the machine lacks something, or half of a cluster is left.
        FailedError: a part ended or does not answer.
    """
    state = State(folder)
    if running := state.running():
        if len(running) < len(state.parts) or not state.said:
            names = ", ".join(part.name for part in running)
            raise InputError(f"{folder}: got a part of a cluster ({names}), takes a whole one or none: make cluster-down")
        print(f"it is up already\n\n{state.said}")
        return
    parts.require()
    _clear(folder, state)
    shutil.rmtree(folder / LOGS, ignore_errors=True)
    for name in (LOGS, SECRETS):
        (folder / name).mkdir(mode=0o700)
    folders = parts.Folders((folder / SECRETS).resolve(), _scratch(state), _scratch(state))

    def start(name: str, command: Sequence[str | Path], environment: dict[str, str], **owner: Any) -> Process:
        part = processes.start(name, command, folder.resolve() / LOGS / f"{name}.log", environment, **owner)
        state.parts = [each for each in state.parts if each.name != name] + [part]  # tried again: the first is over
        state.save()
        print(f"starting {name}", file=sys.stderr)
        return part

    try:
        links = parts.start_all(folders, start)
    except BaseException:
        print("ending what was started", file=sys.stderr)
        down(folder)
        raise
    exports = parts.exports(folders, links)
    storage.write_text(folder / ENV, f"{exports}\n")
    state.said = SAID.format(links=links, folder=shlex.quote(str(folder)), exports=exports)
    state.save()
    print(state.said)


def down(folder: Path) -> None:
    """Ends what `up` started and all below it, and nothing else; the logs stay until the next `up`.

    Raises:
        FailedError: something is still there.
    """
    state = State(folder)
    processes.end(state.parts)
    if left := state.running():
        raise FailedError(f"still there: {', '.join(f'{part.name} (process {part.pid})' for part in left)}")
    _clear(folder, state)
    print("no cluster is up any more" if state.parts else f"nothing to end: no cluster of {folder} is up")


def _clear(folder: Path, state: State) -> None:
    """Removes what a cluster that is over needs no more: its data, its secrets and the record of it."""
    for path in [*state.scratch, folder / SECRETS]:
        shutil.rmtree(path, ignore_errors=True)
    for name in (ENV, STATE):
        (folder / name).unlink(missing_ok=True)
    state.scratch.clear()


def _scratch(state: State) -> Path:
    made = tempfile.mkdtemp(prefix="hardneg-", dir="/tmp")
    state.scratch.append(made)
    state.save()
    return Path(made)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One `up` or `down` at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".busy").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{folder}: got another make cluster or cluster-down, takes one at a time") from error
        yield


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0, 1 (a failure), 2 (wrong input), 130 (Ctrl-C)."""
    actions = {"up": up, "down": down}
    if len(arguments) != 1 or arguments[0] not in actions:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        with _alone(FOLDER):
            actions[arguments[0]](FOLDER)
    except (InputError, FailedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
