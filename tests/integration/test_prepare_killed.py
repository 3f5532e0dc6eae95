"""Prepare, killed: nothing half-made looks finished, a rerun gives the same bytes, whatever the number of CPUs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from components import config, storage
from components.data.manifest import dataset_path
from ray_jobs import _dataflow
from ray_jobs._dataflow import Sizes
from tests.integration.preparing import (
    ROOT,
    RULES,
    contents,
    prepare,
    program,
    recipe_text,
    write_log,
)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pieces", "rows", "codes"])
def test_a_killed_run_leaves_nothing_that_looks_finished(cluster: None, tmp_path: Path, stage: str) -> None:
    source = write_log(tmp_path / "log.csv", rows=200_000)
    text = recipe_text(source, tmp_path / "store", **RULES)
    (tmp_path / "recipe.yaml").write_text(text)
    folder = dataset_path(config.load(tmp_path / "recipe.yaml"))
    run = program(tmp_path / "recipe.yaml")
    deadline = time.monotonic() + 240
    while not list((folder / ".work" / stage).glob("*")) and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    reached = list((folder / ".work" / stage).glob("*"))
    family = psutil.Process(run.pid).children(recursive=True)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    assert run.returncode == -signal.SIGKILL, "it was killed midway"
    assert reached, f"it was killed in its stage {stage}"
    assert not storage.is_finished(folder)
    undisturbed, _ = prepare(source, tmp_path / "apart", Sizes(), **RULES)
    _, alive = psutil.wait_procs(family, timeout=10)  # the killed program's Ray notices; its agents may stay
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    again = _dataflow.prepare(config.load(tmp_path / "recipe.yaml"), report=lambda line: None)
    assert again == folder
    assert contents(again) == contents(undisturbed)


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
    names = ("_read_part", "collect", "merge", "encode", "count", "finish")
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
