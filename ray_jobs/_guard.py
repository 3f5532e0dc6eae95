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
    from ray_jobs import _tracking  # imports MLflow only now: the guard costs next to nothing while it waits

    run = Path(sys.argv[1])
    tracked = _tracking.attach(run)
    if (run / _tracking.STOPPED).exists():  # a search's scheduler ended this trial: that is how it was to be
        told = storage.read_json(run / _tracking.STOPPED)
        _tracking.end(tracked, run, "FINISHED", f"stopped by {told['by']} after epoch {told['epoch']}")
    else:
        _tracking.end(tracked, run, "KILLED", "the driver was killed")


if __name__ == "__main__":
    main()
