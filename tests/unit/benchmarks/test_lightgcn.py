"""The parts that are timed are those of a step, and what was not reached is said."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from tests.benchmarks import _report_speed, lightgcn
from tests.worlds import small_log, tiles


@pytest.mark.parametrize("tiled", [False, True])
def test_the_softmax_that_is_timed_is_a_steps(tiled: bool) -> None:
    """To the bit, and tiled where a step is: then nothing holds all scores at once."""
    trainer = lightgcn._trainer(small_log().seen)
    batch = next(trainer.batches())
    encoder: Any = trainer.encoder
    with tiles() if tiled else nullcontext():
        queries_BD = encoder.queries(batch).vectors / lightgcn.TEMPERATURE
        found_B = lightgcn._losses(trainer, batch, queries_BD, encoder.items(batch.items_B).vectors)
        assert torch.equal(found_B, trainer.objective(batch).loss_B)


@pytest.mark.parametrize(
    ("last", "seconds", "says"),
    [
        (0.184, 40.0, ["| hardneg | 0.1840 | 40 | 2 |", "0.40 of the script's seconds, within the limit."]),
        (0.184, 95.0, ["0.95 of the script's seconds, **not within** the limit."]),
        (0.182, 40.0, ["| hardneg | 0.1820 (**not reached**) | 40 | 2 |"]),
    ],
)
def test_a_time_to_a_recall_is_told_where_it_was_reached(last: float, seconds: float, says: list[str]) -> None:
    runs = {
        "script": {"seconds": 100.0, "epochs": 2, "recalls": [0.15, 0.1831]},
        "hardneg": {"seconds": seconds, "epochs": 2, "recalls": [0.16, last]},
    }
    figures = {
        "threads": 1,
        "limit": 0.9,
        "graph_seconds": 0.1,
        "seconds_per_epoch": {"script": 50.0, "hardneg": 20.0},
        "ratio": 0.4,
        "parts": {},
        "to_recall": {"recall@20": 0.183, **runs, "ratio": seconds / 100},
    }
    lines = [*_report_speed.lightgcn({"figures": figures})]
    assert "| script | 0.1831 | 100 | 2 |" in lines
    assert all(line in lines for line in says)
    assert any("of the script's seconds" in line for line in lines) == (last >= 0.183)
