"""Ray clusters of real node processes: `ray start` in the foreground, ended by their ids; `ray stop` is for a whole machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import requests

from tests.integration.training import free_port, kill_group, wait_for

BIN = Path(sys.executable).parent
UP = "This command will now block forever"
ATTEMPTS = 3


class Node:
    """One node, with all that it starts. `before` are words before its command, as those of unshare."""

    def __init__(self, ip: str, folder: Path, *arguments: str, before: Sequence[str] = (), **environment: str) -> None:
        command = [*before, str(BIN / "ray"), "start", *arguments, "--block", "--disable-usage-stats"]
        command += ["--object-store-memory", str(100 * 2**20), "--min-worker-port", "0", "--max-worker-port", "0"]
        command += ["--node-ip-address", ip, "--dashboard-agent-listen-port", str(free_port())]
        own = {**os.environ, "RAY_AUTH_MODE": "disabled", "PATH": f"{BIN}:{os.environ['PATH']}", **environment}
        own.pop("RAY_ADDRESS", None)
        self._log = folder / f"{ip}.log"
        with self._log.open("w") as file:
            self.process = subprocess.Popen(command, env=own, cwd=folder, stdout=file, stderr=file, start_new_session=True)

    def is_up(self) -> bool:
        """Whether the node has registered; a loaded machine may give up on one while it starts."""
        wait_for(lambda: self.process.poll() is not None or UP in self._log.read_text(), f"the node of {self._log.stem}")
        return self.process.poll() is None

    def stop(self) -> None:
        below = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        kill_group(self.process)
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


class Nodes:
    """A head at 127.0.0.1 and workers at 127.0.0.2, ...; Train tells nodes apart by address."""

    def __init__(self, folder: Path, head_cpus: int = 0, **environment: str) -> None:
        self.temporary = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # short: sockets' paths have a limit
        self._folder, self._environment = folder, environment
        self._port, dashboard = free_port(), free_port()
        self.address, self.gcs = f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{self._port}"
        head = ["--head", "--port", str(self._port), "--num-cpus", str(head_cpus), "--temp-dir", str(self.temporary / "1")]
        head += ["--ray-client-server-port", str(free_port())]
        head += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)]
        for _ in range(ATTEMPTS):
            self.nodes = [Node("127.0.0.1", folder, *head, **environment)]
            if self.nodes[0].is_up():
                break
            self.nodes[0].stop()
        wait_for(self._answers, "the head", self.nodes[0].process)

    def add(self, cpus: int, before: Sequence[str] = ()) -> str:
        """A worker node; returns its address. Of its own folder: in a shared one each unpacks a job's tree over the others'."""
        number = len(self.nodes) + 1
        ip, own = f"127.0.0.{number}", str(self.temporary / str(number))
        arguments = ["--address", f"127.0.0.1:{self._port}", "--num-cpus", str(cpus), "--temp-dir", own]
        for _ in range(ATTEMPTS):
            node = Node(ip, self._folder, *arguments, before=before, **self._environment)
            if node.is_up():
                self.nodes.append(node)
                return ip
        raise AssertionError(f"no node came up at {ip}")

    def _answers(self) -> bool:
        """Whether jobs can be submitted; a head that wants a token says so."""
        try:
            return requests.get(f"{self.address}/api/jobs/", timeout=5).status_code in (200, 401)
        except requests.RequestException:
            return False

    def stop(self) -> None:
        for node in reversed(self.nodes):
            node.stop()
        shutil.rmtree(self.temporary, ignore_errors=True)


@contextlib.contextmanager
def cluster(folder: Path, worker_cpus: Sequence[int] = (1, 1), head_cpus: int = 0, **environment: str) -> Iterator[Nodes]:
    """A head, by default without CPUs, and a worker node for each of `worker_cpus`."""
    nodes = Nodes(folder, head_cpus, **environment)
    try:
        for cpus in worker_cpus:
            nodes.add(cpus)
        yield nodes
    finally:
        nodes.stop()
