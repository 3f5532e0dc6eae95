"""What every benchmark shares: its options, and a result that says where and on what it was measured.

A benchmark prints progress to stderr and one JSON object as the last line of stdout. `--quick` takes less than two minutes;
`--keep` writes results/NAME.json, or NAME_VARIANT.json where the measure names its variant.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

RESULTS = Path(__file__).parent / "results"


def main(
    name: str,
    description: str,
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None,
) -> int:
    """Measures and prints {benchmark, command, commit, date, machine, figures}; `measure` gives the figures and their seeds."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.benchmarks.{name}", description=description)
    parser.add_argument("--quick", action="store_true", help="less than two minutes; its figures are for orientation")
    parser.add_argument("--keep", action="store_true", help=f"writes tests/benchmarks/results/{name}.json")
    if add_arguments is not None:
        add_arguments(parser)
    arguments = parser.parse_args()
    result = {
        "benchmark": name,
        "command": " ".join(["python", "-m", f"tests.benchmarks.{name}", *map(_portable, sys.argv[1:])]),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        **measure(arguments),
    }
    if arguments.keep:
        RESULTS.mkdir(exist_ok=True)
        variant = f"_{result['variant']}" if "variant" in result else ""
        (RESULTS / f"{name}{variant}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 0


def _portable(argument: str) -> str:
    """A folder of this machine is nobody else's: its name stays."""
    return Path(argument).name if Path(argument).is_absolute() else argument


def say(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)


def data(file: str) -> Path | None:
    """A file of the folder HARDNEG_DATA, if it is there."""
    folder = os.environ.get("HARDNEG_DATA")
    path = Path(folder, file) if folder else None
    return path if path is not None and path.is_file() else None


def commit() -> str:
    """HEAD, with a + if tracked files differ from it, results apart."""
    root = Path(__file__).parents[2]
    head = _git("rev-parse", "--short=12", "HEAD", cwd=root)
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!tests/benchmarks/results", cwd=root)
    return (head or "unknown") + ("+" if changed else "")


def _git(*arguments: str, cwd: Path) -> str:
    found = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    return found.stdout.strip()


def machine() -> str:
    """Processor, cores and memory."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = models[0] if models else name
    memory = psutil.virtual_memory().total / 2**30
    return f"{name}, {psutil.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}"


def times(runs: dict[str, Callable[[], Any]], repeats: int = 15) -> dict[str, float]:
    """Seconds, the median of turns: they alternate, so that what slows the machine slows all."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(each[1:]) for name, each in seconds.items()}
