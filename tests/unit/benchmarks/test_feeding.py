"""What feeds training in the benchmark is what a preparation leaves, and its pages can be forgotten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from components.data import interactions
from tests.benchmarks import _report_speed, feeding


def test_the_dataset_is_one_and_is_fed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDNEG_CACHE", str(tmp_path / "cache"))
    dataset = feeding.write_dataset(tmp_path / "dataset", 4_001)
    train = interactions.load(dataset, "train")
    assert (len(train), train.num_users) == (4_001, 101)
    assert np.diff(train.offsets).tolist() == [feeding.ROWS_OF_USER] * 100 + [1]
    assert train.cache is not None
    before = train.items.copy()
    feeding.forget(train.cache)
    assert (interactions.load(dataset, "train").items == before).all()
    assert feeding._epoch(train) > 0
    assert feeding._consumed(train, 2) > 0


def test_the_report_holds_every_rate_against_what_training_takes() -> None:
    rates = {"cache": 50.0, "cold": 25.0, "warm": 100.0, "mf_ssm": 10.0}
    figures = {"rows": 4_001, "threads": 1, "batch": 2048, "width": 64, "rows_per_second": rates}
    lines = list(_report_speed.feeding({"figures": figures}))
    assert "| an epoch, cold | 25 | 2.5 |" in lines
