"""From the start of `python -m ray_jobs.train` to the first training step, and what the time goes to.

python -m tests.benchmarks.startup [--quick] [--keep]

A small generated log, two workers, a new Ray and a new storage path each time, the poll as the program sets it. Parts are read
off files that the run leaves behind: its recipe is written when Ray is up, its links when MLflow's run is there, and
progress.json says when the first step was done. Limit: a median of 35 s.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from tests.benchmarks import _common

LIMIT, SEED = 35, 1
ROOT = Path(__file__).parents[2]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    repeats = 2 if arguments.quick else 5
    taken = []
    for repeat in range(repeats):
        with tempfile.TemporaryDirectory(prefix="hardneg-startup-") as folder:
            taken.append(_start(Path(folder)))
        _common.say(f"start {repeat}: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in taken[-1].items()))
    medians = {name: statistics.median(one[name] for one in taken) for name in taken[0]}
    _common.say(f"median {medians['total']:.1f} s (limit {LIMIT})")
    figures = {"repeats": repeats, "median_seconds": medians, "all_seconds": taken, "limit": LIMIT}
    return {"seeds": [SEED], "figures": figures}


def _start(folder: Path) -> dict[str, float]:
    random = np.random.default_rng(SEED)
    log = pa.table({"user_id": random.integers(0, 500, 20_000), "item_id": random.integers(0, 300, 20_000)})
    pa_csv.write_csv(log, folder / "log.csv")
    recipe = {
        "name": "startup",
        "data": {"source": str(folder / "log.csv")},
        "encoder": {"name": "mf"},
        "loss": {"name": "sampled_softmax"},
        "negatives": [{"name": "in_batch"}],
        "training": {"epochs": 1},
        "scale": {"storage_path": str(folder / "runs"), "num_workers": 2},
    }
    path = folder / "startup.yaml"
    path.write_text(json.dumps(recipe))
    _run("ray_jobs.prepare", path)
    started = time.time()
    _run("ray_jobs.train", path)
    (run,) = (folder / "runs" / "runs").iterdir()
    stamps = {
        "imports, data and Ray": (run / "recipe.json").stat().st_mtime,
        "MLflow": (run / "links.json").stat().st_mtime,
        "Ray Train": json.loads((run / "progress.json").read_text())["first_step"],
    }
    before, parts = started, {}
    for name, stamp in stamps.items():
        parts[name], before = stamp - before, stamp
    return {**parts, "total": before - started}


def _run(program: str, recipe: Path) -> None:
    done = subprocess.run([sys.executable, "-m", program, str(recipe)], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{program} ended with {done.returncode}: {done.stderr[-2000:]}")


if __name__ == "__main__":
    sys.exit(_common.main("startup", __doc__ or "", measure))
