"""The time that places do not train: cut into parts that add up, each for what it is."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from components import storage
from tests.benchmarks import _spans
from tests.benchmarks._spans import PARTS, Span

STARTED = 1_000.0


def span(first_step: float, training: float = 60.0, **stamps: float) -> Span:
    """Its process long there, its worker begun 3 s before its first step."""
    given = {
        "process": STARTED + 10,
        "tracked": STARTED + 12,
        "began": first_step - 3,
        "loaded": first_step - 1,
        "first_step": first_step,
        "trained": first_step + training,
        "told": first_step + training + 0.5,
        "finished": first_step + training + 4,
    }
    return Span(**{**given, **stamps})


def searched(numbers: random.Random, slots: int, trials: int) -> tuple[list[Span], float]:
    """Trials on places that train one after another, with gaps and lengths at random; and when the search ended."""
    free, found = [STARTED + 15.0] * slots, []
    for _ in range(trials):
        place = free.index(min(free))
        first_step = free[place] + numbers.uniform(4, 20)
        ready = first_step - numbers.uniform(3, 30)
        found.append(span(first_step, numbers.uniform(1, 90), process=ready - 2, tracked=ready))
        free[place] = found[-1].trained
    return found, max(free) + 9


@pytest.mark.parametrize(("slots", "trials"), [(1, 1), (1, 5), (2, 7), (3, 2), (4, 40)])
def test_the_parts_add_up_to_all_that_is_no_training(slots: int, trials: int) -> None:
    spans, ended = searched(random.Random(slots), slots, trials)
    parts = _spans.untrained(spans, slots, STARTED, STARTED + 8, ended)
    assert min(parts.values()) >= 0
    assert sum(parts.values()) == pytest.approx(slots * (ended - STARTED) - sum(each.training for each in spans))


def test_each_part_is_what_it_says() -> None:
    first, second = span(STARTED + 20), span(STARTED + 90)
    parts = _spans.untrained([second, first], 1, STARTED, STARTED + 8, STARTED + 155)
    assert parts == pytest.approx(dict(zip(PARTS, (8, 2, 2, 0.5, 5 + 6.5, 4, 2, 5), strict=True)))


def test_a_place_waits_for_a_trial_that_is_late() -> None:
    late = span(STARTED + 120, process=STARTED + 100, tracked=STARTED + 104)
    parts = _spans.untrained([span(STARTED + 20), late], 1, STARTED, STARTED + 8, late.trained)
    assert parts["the next trial's own process starts"] == pytest.approx(2 + 20)
    assert parts["the next trial's MLflow run begins"] == pytest.approx(2 + 4)
    assert parts["the last report of the one before is kept"] == 0


def test_more_trials_at_once_than_places_are_refused() -> None:
    with pytest.raises(ValueError, match="1 places"):
        _spans.untrained([span(STARTED + 20), span(STARTED + 30)], 1, STARTED, STARTED, STARTED + 200)


def test_a_span_is_read_off_a_trials_files(tmp_path: Path) -> None:
    storage.write_json(tmp_path / "progress.json", {"began": 3.0, "loaded": 4.0, "first_step": 5.0})
    entries = [{"time": 8.0, "step": 1, "metrics": {}}, {"time": 9.5, "step": 2, "metrics": {}}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    for name, when in {"point.json": 1, "links.json": 2, "metrics.jsonl": 10, "manifest.json": 12}.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (when, when))
    assert _spans.of(tmp_path) == Span(1, 2, 3.0, 4.0, 5.0, 9.5, 10, 12)
    assert _spans.training_seconds(tmp_path) == 4.5
    (tmp_path / "metrics.jsonl").write_text("")
    assert _spans.training_seconds(tmp_path) is None
