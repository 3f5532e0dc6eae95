"""What a search tells who started it, read from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from components import config, storage
from components.config import Recipe
from components.errors import FailedError
from ray_jobs import _search, _search_report, _tracking, _trials
from tests.integration import training

LINKS = {"tracking_uri": "http://mlflow:5000/", "experiment_id": "4", "run_id": "abc", "dataset": "/store/datasets/d"}


def searched(folder: Path, **search: Any) -> Recipe:
    """Begins a search's folder."""
    given = training.recipe(
        Path("/log.csv"), Path("/store"), search={"space": {"loss.temperature": {"uniform": [0.1, 0.9]}}, **search}
    )
    storage.write_text(folder / "recipe.json", given.to_json())
    storage.write_json(folder / _tracking.LINKS, LINKS)
    return given


def trial(folder: Path, name: str, temperature: float, recall: float | None, mark: str = storage.MANIFEST) -> None:
    """Its folder, marked as ended; its ndcg is one minus its recall, so that the metrics disagree."""
    run = folder / "trials" / name
    run.mkdir(parents=True)
    storage.write_json(run / _trials.POINT, {"loss.temperature": temperature})
    storage.write_json(run / mark, {})
    if recall is not None:
        metrics = {"valid_recall@20": recall, "valid_ndcg@20": 1 - recall, "valid_recall_snips@20": 0.1}
        _tracking.write_history(run, [{"time": 0.0, "step": 1, "metrics": metrics}])


def write_best(folder: Path, given: Recipe, temperature: float) -> Recipe:
    tree = given.model_dump(mode="json", exclude={"search"})
    tree["loss"]["temperature"] = temperature
    storage.write_text(folder / _search_report.BEST, yaml.safe_dump(tree))
    return config.parse(tree)


@pytest.mark.parametrize(
    ("metric", "best", "value"), [(None, "b", 0.5), ("ndcg@20", "a", 0.75)], ids=["training's metric", "the search's own"]
)
def test_it_tells_the_best_trial_and_how_trials_ended(tmp_path: Path, metric: str | None, best: str, value: float) -> None:
    given = searched(tmp_path, metric=metric)
    trial(tmp_path, "a", 0.25, 0.25)
    trial(tmp_path, "b", 0.5, 0.5, _tracking.STOPPED)
    trial(tmp_path, "c", 0.75, None, _trials.FAILED)
    trial(tmp_path, "d", 0.75, 0.9, _trials.FAILED)
    chosen = write_best(tmp_path, given, {"a": 0.25, "b": 0.5}[best])
    told = _search.result_of(tmp_path)
    assert (told.trial, told.best_value, told.metric) == (best, value, metric or "recall@20")
    assert told.ended == {"finished": 1, "stopped": 1, "failed": 2}
    assert Recipe.from_json(told.recipe) == config.load(told.file) == chosen
    assert (told.folder, told.mlflow_run_id) == (str(tmp_path), "abc")
    assert told.mlflow_url == "http://mlflow:5000/#/experiments/4/runs/abc"


def test_a_search_without_a_trial_that_was_validated_has_no_result(tmp_path: Path) -> None:
    searched(tmp_path)
    trial(tmp_path, "a", 0.5, None, _trials.FAILED)
    with pytest.raises(FailedError, match="none of 1 trials was validated once"):
        _search.result_of(tmp_path)
