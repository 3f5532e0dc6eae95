"""Many candidates in tiles against F.cross_entropy on the dense scores: seconds and peak memory, forward and backward.

python -m tests.benchmarks.negatives [--quick] [--keep] [--threads N]

4,096 rows, d 64, candidates: the 4,096 positives of the batch (a row's own apart) and a pool of 65,536 random unit vectors;
every loss as components.objectives folds it, and sampled softmax once with logQ and a pool drawn by popularity, of which rows
have their user's 30 items masked wherever these come. Each measurement is a process of its own, and those of cross entropy
and of the tiles alternate. Sampled softmax computes what cross entropy does: both losses, and the sums of their gradients'
magnitudes, are compared. Peak memory is the kernel's VmHWM, of the whole process and of what it took beside what it began
with. Then that of pools from 65,536 to 1,048,576 and 1,024 rows, the
candidates and their gradient taken off. Limits: 2.5 times as fast, 1/8 of the peak memory, memory within 10 % over pools.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from components import catalog
from tests.benchmarks import _common
from tests.benchmarks._fold_once import DENSE

ROWS, POOL, WIDTH, SEED = 4096, 65_536, 64, 1
POOLS = (65_536, 262_144, 1_048_576)
FASTER, SMALLER, GROWTH = 2.5, 8, 1.1
CORRECTED = "sampled_softmax with logQ and masks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=1, help="torch threads; 1 (the default) is a worker's own number")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    rows, pool, turns, repeats = (1024, 16_384, 1, 1) if arguments.quick else (ROWS, POOL, 3, 3)
    pools = (POOLS[0], POOLS[1]) if arguments.quick else POOLS

    def once(loss: str, pool: int, rows: int = rows, turns: int = turns) -> dict[str, float]:
        settings = {"logq": True} if loss == CORRECTED else {}
        name = "sampled_softmax" if loss == CORRECTED else loss
        shape = {"rows": rows, "pool": pool, "width": WIDTH, "threads": arguments.threads, "turns": turns}
        return _in_a_process({"loss": name, "settings": settings, "masked": loss == CORRECTED, **shape})

    losses = [*catalog.names("loss"), CORRECTED]
    turned: dict[str, list[dict[str, float]]] = {name: [] for name in (DENSE, *losses)}
    for repeat in range(repeats):
        for loss in turned:
            turned[loss].append(once(loss, pool))
            _common.say(f"repeat {repeat}: {loss} {_told(turned[loss][-1])}")
    dense = turned[DENSE]
    for ours, theirs in zip(turned["sampled_softmax"], dense, strict=True):
        for what in ("loss", "slopes"):
            assert abs(ours[what] / theirs[what] - 1) < 1e-4, f"{what} differs from cross entropy's: not the same computation"
    compared = {loss: _compared(turned[loss], dense) for loss in losses}
    growth = {}
    for loss in losses:
        measured = {each: once(loss, each, rows=1024, turns=0) for each in pools}
        growth[loss] = _growth(measured)
        _common.say(f"{loss}: {growth[loss]}")
    softmax = compared["sampled_softmax"]
    _common.say(f"sampled_softmax: {softmax['faster']:.2f} times as fast, 1/{softmax['smaller']:.1f} of the memory")
    return {
        "variant": f"{arguments.threads}_threads",
        "seeds": [SEED],
        "figures": {
            "allocator": _allocator(),
            "rows": rows,
            "width": WIDTH,
            "candidates": rows + pool,
            "threads": arguments.threads,
            "cross_entropy": {"turns": dense, **_medians(dense)},
            "losses": compared,
            "growth": growth,
            "limits": {"faster": FASTER, "smaller": SMALLER, "growth": GROWTH},
            "within_limits": softmax["faster"] >= FASTER
            and softmax["smaller"] >= SMALLER
            and all(told["growth"] <= GROWTH for told in growth.values()),
        },
    }


def _in_a_process(task: dict[str, Any]) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks._fold_once", json.dumps(task)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(task["threads"])}
    done = subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _medians(turns: list[dict[str, float]]) -> dict[str, float]:
    """With `more_mib`, what a process took beside what it began with."""
    found = {what: statistics.median(turn[what] for turn in turns) for what in ("seconds", "cpu_seconds", "peak_mib")}
    return {**found, "more_mib": statistics.median(turn["peak_mib"] - turn["start_mib"] for turn in turns)}


def _compared(ours: list[dict[str, float]], dense: list[dict[str, float]]) -> dict[str, Any]:
    """`faster` is the median over turns beside each other; `smaller` is of whole processes."""
    pairs = list(zip(ours, dense, strict=True))
    mine, theirs = _medians(ours), _medians(dense)
    return {
        **mine,
        "faster": statistics.median(d["seconds"] / o["seconds"] for o, d in pairs),
        "faster_range": [f(d["seconds"] / o["seconds"] for o, d in pairs) for f in (min, max)],
        "faster_in_cpu_seconds": statistics.median(d["cpu_seconds"] / o["cpu_seconds"] for o, d in pairs),
        "smaller": theirs["peak_mib"] / mine["peak_mib"],
        "smaller_in_what_it_took": theirs["more_mib"] / mine["more_mib"],
    }


def _growth(measured: dict[int, dict[str, float]]) -> dict[str, Any]:
    """MiB of the whole process and of what it took, without the candidates and their gradient; the largest over the least."""
    candidates = {pool: pool * WIDTH * 4 / 2**20 for pool in measured}
    whole = {pool: told["peak_mib"] - 2 * candidates[pool] for pool, told in measured.items()}
    took = {pool: told["peak_mib"] - told["start_mib"] - candidates[pool] for pool, told in measured.items()}
    return {"whole_mib": whole, "took_mib": took, "growth": max(whole.values()) / min(whole.values())}


def _allocator() -> str:
    set_ = {name: value for name, value in os.environ.items() if name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"))}
    return " ".join([*platform.libc_ver(), "malloc", *(f"{name}={value}" for name, value in sorted(set_.items()))])


def _told(turn: dict[str, float]) -> str:
    return f"{turn['seconds']:.2f} s ({turn['cpu_seconds']:.2f} s of the processor), {turn['peak_mib']:,.0f} MiB"


if __name__ == "__main__":
    sys.exit(_common.main("negatives", __doc__ or "", measure, add_arguments))
