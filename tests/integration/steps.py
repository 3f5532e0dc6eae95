"""Steps as their pods run them: processes that are killed, told to stop, and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

from tests.integration.preparing import ROOT
from tests.integration.training import wait_for

BODY = "import sys; from components.steps.component import find; print('made', find(sys.argv[1]).python_func(*sys.argv[2:]))"


class Step:
    """The body of a step in a process of its own; what it says is in `text`."""

    def __init__(self, out: Path, run_id: str, name: str, *arguments: str, **environment: str) -> None:
        own = {**os.environ, "KFP_RUN_ID": run_id, "PYTHONUNBUFFERED": "1", **environment}
        self._out = out
        with out.open("w") as file:
            command = [sys.executable, "-c", BODY, name, *arguments]
            self.process = subprocess.Popen(command, cwd=ROOT, env=own, stdout=file, stderr=file, start_new_session=True)

    @property
    def text(self) -> str:
        return self._out.read_text()

    def says(self, what: str) -> None:
        wait_for(lambda: what in self.text, f"{what!r} in\n{self.text}", self.process)

    def end(self) -> int:
        """Its exit code, once it has ended."""
        wait_for(lambda: self.process.poll() is not None, "the step's end")
        return self.process.returncode

    def kill(self) -> None:
        """As a node that is lost."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def tell_to_stop(self) -> int:
        """As Kubernetes does with a pod; its exit code."""
        os.killpg(self.process.pid, signal.SIGTERM)
        return self.end()


def new_run() -> str:
    return str(uuid.uuid4())


def name(run_id: str, job: str) -> str:
    """What a step calls its job."""
    return f"hardneg-{uuid.UUID(run_id).hex[:12]}-{job}"


def made(step: Step) -> Any:
    """What the step's function returned, as text."""
    return step.text.rpartition("made ")[2].strip()
