"""Prediction and measurement in training's last line: of a GPU's memory where there was one, else of the process's."""

from __future__ import annotations

from typing import Any

import pytest

from components import plan
from ray_jobs import _training, _workers
from tests.worlds import recipe, small_log

MEASURED = {_workers.MEMORY: 0.5, _workers.RECEIVED: 1.25}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("gpu", [False, True])
def test_prediction_and_measurement_are_of_the_same_memory(workers: int, gpu: bool) -> None:
    scale: dict[str, Any] = {"num_workers": workers, "use_gpu": gpu}
    needs = plan.needs_of(recipe(scale=scale), small_log().seen)
    said = _training._beside(needs, {**MEASURED, **({_workers.GPU_MEMORY: 0.25} if gpu else {})})
    assert needs.total > needs.computed_on > 0
    if gpu:
        assert said.startswith(f"of a worker {needs.computed_on / 2**20:,.1f} MiB of GPU memory predicted, 256.0 measured")
    else:
        assert said.startswith(
            f"of a worker {needs.total / 2**20:,.1f} MiB of memory predicted, 512.0 measured with Python's own"
        )
    received = f"; received in a step {needs.received / 2**20:,.3f} MiB predicted, 1.250 measured"
    assert said.endswith(received) == (workers > 1)


def test_of_a_run_from_before_nothing_was_measured() -> None:
    needs = plan.needs_of(recipe(), small_log().seen)
    assert "nan measured" in _training._beside(needs, {})
