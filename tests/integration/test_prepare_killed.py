"""Prepare, killed: nothing half-made looks finished, a rerun gives the same bytes, whatever the number of CPUs."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray

from components import config
from components.data.manifest import WORK, dataset_path
from ray_jobs import _dataflow
from ray_jobs._dataflow import Sizes
from tests.integration.preparing import (
    ROOT,
    RULES,
    contents,
    prepare,
    recipe_text,
    write_log,
)

SEED, KILLS = 8, 10
SIZES = Sizes(rows_per_shard=10_000, part_bytes=200_000, part_rows=10_000)
DRIVER = (
    "import ray, sys; from ray_jobs import _dataflow; from components import config\n"
    "ray.init(address=sys.argv[2], log_to_driver=False)\n"
    "sizes = _dataflow.Sizes(rows_per_shard=10_000, part_bytes=200_000, part_rows=10_000)\n"
    "print('begins', flush=True)\n"
    "_dataflow.prepare(config.load(sys.argv[1]), sizes=sizes, report=lambda line: None)"
)


def driver(recipe_file: Path) -> subprocess.Popen[str]:
    """A process that prepares on this cluster, as soon as it begins."""
    command = [sys.executable, "-c", DRIVER, str(recipe_file), ray.get_runtime_context().gcs_address]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert run.stdout is not None
    assert run.stdout.readline() == "begins\n"
    return run


def finished_stages(folder: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):  # the work is removed while it is looked at
        return sorted(path.stem[3:] for path in (folder / WORK).glob("*-*.json"))
    return []


def seconds_of_stages(run: subprocess.Popen[str], folder: Path) -> list[float]:
    """Until the first stage was finished, from there to the second, and from the last to the end."""
    marks = [time.monotonic()]
    while run.poll() is None:
        marks += [time.monotonic()] * (len(finished_stages(folder)) + 1 - len(marks))
        time.sleep(0.005)
    return np.diff([*marks, time.monotonic()]).tolist()


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_to_the_same_bytes(cluster: None, tmp_path: Path) -> None:
    """At random moments of every stage in turn; Ray stays up, so that a run takes seconds."""
    source = write_log(tmp_path / "log.csv", rows=200_000)
    (tmp_path / "recipe.yaml").write_text(recipe_text(source, tmp_path / "apart", **RULES))
    whole = dataset_path(config.load(tmp_path / "recipe.yaml"))
    run = driver(tmp_path / "recipe.yaml")
    seconds = seconds_of_stages(run, whole)
    assert run.returncode == 0
    assert len(seconds) >= 6, "stages, and what comes after the last"
    undisturbed = contents(whole)
    midway: list[list[str]] = []
    for n, share in enumerate(np.random.default_rng(SEED).uniform(0, 1, 3 * KILLS)):
        path = tmp_path / f"{n}.yaml"
        path.write_text(recipe_text(source, tmp_path / f"store{n}", **RULES))
        folder = dataset_path(config.load(path))
        run, behind = driver(path), n % len(seconds)
        while len(finished_stages(folder)) < behind and run.poll() is None:
            time.sleep(0.005)
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(share * seconds[behind])
        run.kill()
        run.communicate()
        reached = finished_stages(folder)
        moment = f"killed at {share:.2f} of the stage behind {behind} others, behind {', '.join(reached) or 'no stage'}"
        print(moment)
        if run.returncode == -signal.SIGKILL:
            midway.append(reached)
        lines: list[str] = []
        assert _dataflow.prepare(config.load(path), lines.append, SIZES) == folder, moment
        if not lines[0].endswith("current, nothing to do"):
            again = sorted(line.split()[0] for line in lines if line.endswith("was finished before"))
            assert again == reached, moment
        assert contents(folder) == undisturbed, moment
        assert not (folder / WORK).exists(), moment
        if len(midway) == KILLS:
            break
    assert len(midway) == KILLS, "so many were killed midway"
    assert len({len(reached) for reached in midway}) >= 4, f"at many stages, {midway}"


@pytest.mark.slow
def test_workers_that_die_change_nothing(cluster: None, tmp_path: Path) -> None:
    source = write_log(tmp_path / "log.csv", rows=200_000)
    sizes = Sizes(rows_per_shard=20_000, part_bytes=200_000)
    undisturbed, _ = prepare(source, tmp_path / "apart", sizes, **RULES)
    killed: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(prepare, source, tmp_path / "store", sizes, **RULES)
        while not running.done():
            killed += kill_a_working_worker() if len(killed) < 3 else []
            time.sleep(0.01)
    assert killed, "a worker died while it worked"
    assert contents(running.result()[0]) == contents(undisturbed)


def kill_a_working_worker() -> list[int]:
    names = ("_read_batch", "collect", "merge", "encode", "count", "finish")
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            title = " ".join(process.cmdline())
            if title.startswith("ray::") and any(name in title for name in names):
                process.kill()
                return [process.pid]
    return []


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_number_of_cpus(cluster: None, tmp_path: Path) -> None:
    source = write_log(tmp_path / "log.csv")
    two, _ = prepare(source, tmp_path / "two", **RULES)
    script = (
        "import ray, sys; from ray_jobs import _dataflow; from components import config\n"
        "ray.init(address='local', num_cpus=int(sys.argv[2]), include_dashboard=False, log_to_driver=False)\n"
        "sizes = _dataflow.Sizes(rows_per_shard=300, part_bytes=4000, part_rows=300)\n"
        "_dataflow.prepare(config.load(sys.argv[1]), sizes=sizes)"
    )
    (tmp_path / "recipe.yaml").write_text(recipe_text(source, tmp_path / "one", **RULES))
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "recipe.yaml"), "1"], cwd=ROOT, check=True, timeout=120)
    one = dataset_path(config.load(tmp_path / "recipe.yaml"))
    assert contents(one) == contents(two)
