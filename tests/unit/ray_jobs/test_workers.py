"""What the driver of a training finds in its data before any worker starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.data import interactions
from components.errors import InputError
from ray_jobs import _workers
from tests.worlds import recipe, small_log


def test_more_candidates_than_the_training_log_has_items(monkeypatch: pytest.MonkeyPatch) -> None:
    train = small_log().seen
    monkeypatch.setattr(interactions, "load", lambda *_: train)

    def opened(count: int) -> interactions.Interactions:
        negatives = [{"name": "in_batch"}, {"name": "uniform", "count": count}]
        return _workers.open_data(recipe(negatives=negatives, training={"select_on": "none"}), Path("dataset"))[0]

    assert opened(count=train.num_items) is train
    with pytest.raises(InputError, match=r"^negatives\.1\.count: got 41, takes at most 40, the number of items$"):
        opened(count=41)
