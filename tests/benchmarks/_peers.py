"""What a peer's program tells the benchmark that started it, from an environment that has none of the project's packages."""

from __future__ import annotations

import json
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.benchmarks import _memory

MARK = "told: "


class Telling:
    """Versions at once, seconds of each stage as it is done, rows and the peak of memory at the end."""

    def __init__(self, *packages: str) -> None:
        self._seconds: dict[str, float] = {}
        self._since = time.perf_counter()
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory runs out, it is this process that the kernel ends
        _tell(versions={"python": platform.python_version(), **{name: metadata.version(name) for name in packages}})

    def done(self, stage: str, seconds: float | None = None) -> None:
        """`seconds`: where they are not those since the stage before."""
        now = time.perf_counter()
        self._seconds[stage], self._since = now - self._since if seconds is None else seconds, now
        _tell(seconds=self._seconds)

    def end(self, rows: dict[str, int]) -> None:
        _tell(rows=rows, peak=_memory.mark())


def _tell(**what: Any) -> None:
    print(MARK + json.dumps(what), flush=True)


def heard(output: str) -> dict[str, Any]:
    """All that was told; of a program that was killed, what it told until then."""
    told: dict[str, Any] = {}
    for line in output.splitlines():
        if line.startswith(MARK):
            told |= json.loads(line.removeprefix(MARK))
    return told
