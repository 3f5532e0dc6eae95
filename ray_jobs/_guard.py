"""Waits for the driver of a training to end; if it was killed, ends its MLflow run as KILLED, so that none stays RUNNING."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

GRACE_SECONDS = 3.0  # a cluster ends the controller of a driver that is gone a moment later: what it still hears counts


def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Ray stops a job's whole family: the driver's end is what counts
    if sys.stdin.buffer.read() == b"done":  # end of file without it: the driver is gone
        return
    time.sleep(GRACE_SECONDS)
    from components import storage
    from ray_jobs import _found, _tracking  # imports MLflow only now: the guard costs next to nothing while it waits

    run = Path(sys.argv[1])
    if storage.is_held(run):  # somebody goes on with it already
        return
    _tracking.end_left(run)
    if (run / "trials").is_dir():  # of a search: the guards of trials are gone with Ray's processes
        _found.close(run)


if __name__ == "__main__":
    main()
