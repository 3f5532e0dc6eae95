"""A Ray cluster of two CPUs in this process, for a whole file of tests."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
import ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def train_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One with room for a second training beside one that is ending, and a cache of its own."""
    os.environ |= {
        "HARDNEG_CACHE": str(tmp_path_factory.mktemp("cache")),
        "RAY_AUTH_MODE": "disabled",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    yield
    ray.shutdown()
    del os.environ["HARDNEG_CACHE"]
