"""Searches on a real local Ray: what one leaves behind, how trials fail, and that kills lose none that ended."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import yaml

from components import config, storage
from components.config import Recipe
from components.errors import FailedError, InputError
from ray_jobs import _dataflow, _found, _refits, _reporter, _runs, _search, _tracking
from tests.benchmarks import _spans
from tests.integration import searching, training
from tests.integration.searching import SLOW, TOO_LARGE, children, ended
from tests.integration.training import Tracked, code, has_all_epochs, kill_group, program, recipe_file, wait_for

SPACE = {"encoder.dim": {"choice": [8, 12, TOO_LARGE]}}
TWO_WORKERS = {"num_workers": 2, "cpus_per_worker": 1}  # of each trial, on four CPUs: two trials at once


@pytest.fixture(scope="module")
def dataset(cluster: None, source: Path, store: Path) -> Path:
    return _dataflow.prepare(training.recipe(source, store), report=lambda line: None)


@pytest.fixture(scope="module")
def given(source: Path, store: Path) -> Recipe:
    scale = {"storage_path": str(store), **TWO_WORKERS}
    only_the_model = {"ks": [5, 20], "baselines": []}
    return searching.recipe(source, store, {"space": SPACE, "searcher": "grid"}, scale=scale, evaluation=only_the_model)


@pytest.fixture(scope="module")
def search(given: Recipe, dataset: Path) -> Path:
    """Three trials of two workers each, where two have room; the last wants more memory than there is."""
    return _search.run(given, dataset)


def test_trials_wait_for_their_places_and_end_each_in_its_own_way(search: Path) -> None:
    found = ended(search)
    assert {how: len(runs) for how, runs in found.items()} == {"finished": 2, "failed": 1}
    (last,) = found["failed"]
    begun, ended_at = ((last / name).stat().st_mtime for name in ("point.json", "failed.json"))
    first_free = min(_spans.of(run).trained for run in found["finished"])
    assert begun < first_free < ended_at, "its own process was there, and its workers had no place yet"
    assert storage.open_finished(search, "search")["best"] in {run.name for run in found["finished"]}
    for run in found["failed"]:
        failure = storage.read_json(run / "failed.json")
        assert failure["kind"] == "out of memory"
        assert "allocate" in failure["reason"]
        traceback = (run / "traceback.txt").read_text()
        assert "Traceback" in traceback
        assert "mf.py" in traceback, "the worker's own"
        (notice,) = _reporter.read_notices(run)
        assert notice.endswith("training ends; failures: 1"), "another try would fail alike"


def test_mlflow_has_one_parent_and_a_run_below_it_for_each_trial(search: Path, given: Recipe) -> None:
    parent, below = Tracked(search), children(search)
    assert (parent.status, parent.tags["kind"]) == ("FINISHED", "search")
    assert parent.run.data.params["loss.temperature"] == "0.2", "what trials share, and where they began"
    assert {run.name for run in _found.runs(search)} == set(below)
    for how, runs in ended(search).items():
        for run in runs:
            tracked, data = Tracked(run), below[run.name].data
            assert tracked.status == {"finished": "FINISHED", "failed": "FAILED"}[how]
            point = storage.read_json(run / "point.json")
            assert data.params == {
                **{key: str(value) for key, value in point.items()},
                "dataset": parent.run.data.params["dataset"],
            }
            if how == "finished":
                has_all_epochs(run, tracked)
            else:
                assert data.tags["failure"] == "out of memory"
                assert {"failed.json", "traceback.txt"} <= tracked.artifacts()
                assert not data.metrics, "a trial that failed has no score"


def test_the_best_recipe_is_one_that_train_takes(search: Path, given: Recipe) -> None:
    best = config.parse(yaml.safe_load((search / "best.yaml").read_text()))
    trials = {trial.name: trial for trial in _found.trials(search)}
    chosen = trials[storage.open_finished(search, "search")["best"]]
    assert chosen.score == max(trial.score for trial in trials.values() if trial.score is not None)
    assert best.encoder["dim"] == chosen.values["encoder.dim"]
    same = {"encoder", "loss", "search"}
    assert best.model_dump(exclude=same) == given.model_dump(exclude=same)
    assert not best.search.space


def test_the_parent_has_pictures_a_page_and_a_table(search: Path) -> None:
    tracked = Tracked(search)
    pictures = {f"plots/{name}.png" for name in ("best_so_far", "slices", "parallel_coordinates")}
    assert pictures | {"best.yaml", "trials.json", "search.html"} <= tracked.artifacts()
    best = max(trial.score for trial in _found.trials(search) if trial.score is not None)
    assert f"{best:.4f}" in tracked.tags["mlflow.note.content"]
    assert "1 failed" in tracked.tags["mlflow.note.content"]
    assert tracked.history("best_valid_recall@20")[-1][1] == best


def test_the_best_is_fitted_on_train_and_valid_from_several_seeds_and_tested_once(
    search: Path, given: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = given.model_copy(update={"scale": given.scale.model_copy(update={"num_workers": 1})})
    told = _refits.refit(fewer, search, 2)
    assert told == storage.read_json(search / _refits.REFIT)
    assert len({*told["runs"]}) == 2
    recall = told["metrics"]["test"]["recall@20"]
    assert recall["low"] <= recall["mean"] <= recall["high"]
    best = storage.open_finished(search, "search")["best"]
    validated = {entry["step"]: entry["metrics"]["valid_recall@20"] for entry in _tracking.read_history(_of(search, best))}
    for seed, run in enumerate(told["runs"], start=1):
        recipe = json.loads((Path(run) / "recipe.json").read_text())
        fitted = recipe["training"]
        assert (recipe["seed"], fitted["fit_on"], fitted["select_on"]) == (seed, "train+valid", "none")
        assert validated[fitted["epochs"]] == max(validated.values())
        assert recipe["scale"]["num_workers"] == 1, "on the workers that there are now"
        assert Tracked(Path(run)).tags["search"] == _tracking.attach(search).run_id
    assert Tracked(search).history("test_recall@20_mean") == [(0, recall["mean"])]
    begun = training.runs(Path(given.scale.storage_path))
    capsys.readouterr()
    assert _refits.refit(given, search, 2) == told
    assert training.runs(Path(given.scale.storage_path)) == begun, "it is shown again, and nothing is trained"
    assert f"recall@20 {recall['mean']:.4f}" in capsys.readouterr().out
    with pytest.raises(InputError, match="a test is looked at once"):
        _refits.refit(given, search, 3)


def _of(search: Path, trial: str) -> Path:
    return next(run for run in _found.runs(search) if run.name == trial)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"space": {}}, "search.space: got nothing"),
        ({"space": {"loss.temprature": {"uniform": [0.1, 0.2]}}}, "'temprature' is not in the recipe there, which has"),
        ({"space": {"loss.temperature": {"uniform": [0.3, 0.1]}}}, "takes a low below its high"),
        ({"space": {"loss.temperature": {"uniform": [0.0, 0.1]}}}, "search.space: has .*0.0.* refused: loss.temperature"),
        ({"space": {"scale.num_workers": {"int": [1, 2]}}}, "is the same for all trials"),
        ({"metric": "ncdg@20"}, "search.metric: got 'ncdg@20', takes one of ndcg@20, recall@20, recall_snips@20"),
        ({"space": {"training.select_on": {"choice": ["valid", "test"]}}}, "is the same for all trials"),
        (
            {"space": {"loss.temperature": {"uniform": [0.1, 0.2]}, "loss": {"choice": [{"name": "bpr"}, {"name": "bce"}]}}},
            "lies within loss, which is searched too",
        ),
        ({"searcher": "pareto", "against": "recall@7"}, "search.against: got 'recall@7', takes one of"),
        ({"scheduler": "asha", "grace_epochs": 8}, "search.grace_epochs: got 8, takes less than training.epochs, 8"),
    ],
)
def test_a_wrong_search_is_refused_before_a_trial_starts(
    source: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        _search.check(searching.recipe(source, tmp_path, {"space": SPACE, **changes}))


@pytest.mark.parametrize("chosen", ["none", "test"])
def test_a_search_on_a_test_or_on_nothing_is_refused(source: Path, tmp_path: Path, chosen: str) -> None:
    section = {"select_on": chosen, "fit_on": "train+valid", "batch_size": 256, "epochs": 2}
    with pytest.raises(InputError, match=rf"training\.select_on: got {chosen!r}, takes valid or a valid_NAME in a search"):
        _search.check(searching.recipe(source, tmp_path, {"space": SPACE}, training=section))


def test_another_recipe_cannot_resume_it(search: Path, given: Recipe) -> None:
    other = given.model_copy(update={"seed": 7})
    with pytest.raises(InputError, match=r"--resume: .* was started from another recipe: seed was 0, is 7"):
        _search.resume(other, search)


@pytest.mark.slow
def test_a_search_of_which_over_half_fails_ends_and_says_so(
    source: Path, store: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One trial at a time has room."""
    monkeypatch.setattr(_search, "FEWEST_FAILED", 2)
    rates = [1e38 * (1 + n / 3) for n in range(4)]  # the first step ends in infinities
    space = {"optimizer.learning_rate": {"choice": [*rates, 0.01]}}
    scale = {"storage_path": str(store), "num_workers": 1, "cpus_per_worker": 4}
    given = searching.recipe(source, store, {"space": space, "searcher": "grid"}, scale=scale)
    with pytest.raises(FailedError, match=r"over half of its trials failed: \d diverged \("):
        _search.run(given, dataset)
    folder = searching.newest(store)
    assert folder is not None
    assert not storage.is_finished(folder)
    assert 2 <= len(ended(folder)["failed"]) < len(rates), "the rest was not tried"
    assert not any(trial.score for trial in _found.trials(folder) if trial.ended == "failed"), "NaN is no score"
    assert Tracked(folder).status == "FAILED"
    assert "RUNNING" not in {run.info.status for run in children(folder).values()}
    assert all(_found.has_left(run) for run in _found.runs(folder)), "none was killed, and none holds a place"


@pytest.mark.slow
def test_optuna_with_asha_ends_poor_trials_early_and_says_when(source: Path, store: Path, dataset: Path) -> None:
    space = {"loss.temperature": {"loguniform": [0.05, 5.0]}, "optimizer.learning_rate": {"loguniform": [1e-6, 0.02]}}
    asked = {"space": space, "searcher": "pareto", "scheduler": "asha", "grace_epochs": 2, "trials": 4}
    given = searching.recipe(source, store, asked, training={**SLOW, "epochs": 8})
    folder = _search.run(given, dataset)
    found = ended(folder)
    assert len(_found.runs(folder)) == 4
    assert set(found) == {"finished", "stopped"}
    for run in found["stopped"]:
        epochs = _tracking.read_history(run)[-1]["step"]
        assert epochs < 8
        tracked = Tracked(run)
        assert tracked.status == "FINISHED"
        assert tracked.tags["stopped"] == "asha"
        assert int(tracked.tags["stopped_epoch"]) in (2, 6), "a rung; the trial hears of it an epoch later or two"
        assert not list(run.glob("checkpoint_2*")), "nothing goes on with it"
    best = max(_found.trials(folder), key=lambda trial: trial.score or 0)
    assert best.ended == "finished", "ASHA keeps the best"
    pictures = {path.name for path in (folder / "plots").glob("*.png")}
    assert {"pareto_front.png", "importance.png", "heat_map.png"} <= pictures


@pytest.mark.slow
def test_its_hours_end_it_and_are_to_last_for_a_validation(
    source: Path, tmp_path: Path, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they do, all trials are stopped and the best is known; where they do not, no best recipe is made up."""

    def given(hours: float, validate_every: int = 1) -> Recipe:
        asked = {"space": {"loss.temperature": {"uniform": [0.1, 0.5]}}, "searcher": "random", "hours": hours}
        return searching.recipe(source, tmp_path, asked, training={**SLOW, "epochs": 2000, "validate_every": validate_every})

    dataset = _dataflow.prepare(given(1), report=lambda line: None)
    with pytest.raises(FailedError, match=r"^search: none of \d trials was validated once; takes a budget for at least one"):
        _search.run(given(0.0005, validate_every=1000), dataset)
    folder = max((tmp_path / "searches").iterdir())
    assert not (folder / "best.yaml").exists()
    assert Tracked(folder).status == "FAILED"

    def clock() -> float:  # how long a first validation takes is the machine's own: the hour is over right behind it
        validated = [run for run in _found.runs(searching.newest(tmp_path) or folder) if epochs_of(run)]
        return time.monotonic() + 3600 * bool(validated)

    monkeypatch.setattr(_search, "time", SimpleNamespace(monotonic=clock, time=time.time))
    folder = _search.run(given(1), dataset)
    assert set(ended(folder)) == {"stopped"}
    assert (
        config.load(folder / "best.yaml").loss["temperature"] == _found.best(_found.trials(folder)).values["loss.temperature"]
    )
    for run in children(folder).values():
        assert run.info.status == "FINISHED"
        assert run.data.tags["stopped"] == "the end of the search's hours"


@pytest.fixture
def own_ray(cluster: None) -> Iterator[dict[str, str | None]]:
    """For a program that starts a Ray of its own, of two CPUs."""
    yield {"RAY_ADDRESS": None, "RAY_AUTH_MODE": "token"}


def epochs_of(run: Path) -> int:
    return len(_tracking.read_history(run))


@pytest.mark.slow
def test_interrupted_twice_and_with_a_worker_lost_it_loses_no_trial(
    source: Path, tmp_path: Path, own_ray: dict[str, str | None]
) -> None:
    """Ctrl-C, then SIGKILL: finished trials are as they were, the others go on; told by --resume, or as a job's next try."""
    asked = {"space": {"loss.temperature": {"choice": [0.1, 0.2, 0.3]}}, "searcher": "grid"}
    scale = {"storage_path": str(tmp_path), "num_workers": 1}
    given = searching.recipe(source, tmp_path, asked, training={**SLOW, "epochs": 40}, scale=scale)
    file = recipe_file(tmp_path / "recipe.json", given)
    _dataflow.prepare(given, report=lambda line: None)

    job = {_runs.ATTEMPT: "job"}
    first = program("tune", str(file), out=tmp_path / "first", **own_ray, **job)
    folder: Path = wait_for(lambda: searching.newest(tmp_path), "a trial", first)
    wait_for(lambda: [run for run in _found.runs(folder) if epochs_of(run) >= 2], "two epochs of a trial", first)
    worker = wait_for(lambda: workers_below(first.pid), "a worker", first)[0]
    worker.send_signal(signal.SIGKILL)
    wait_for(lambda: "failures: 1" in notices(folder), "the worker that is lost", first)
    wait_for(lambda: ended(folder).get("finished"), "a trial that finished", first)
    os.kill(first.pid, signal.SIGINT)
    assert code(first) == 130
    assert Tracked(folder).status == "KILLED"
    wait_for(lambda: "RUNNING" not in {run.info.status for run in children(folder).values()}, "trials' runs that are ended")
    finished = {run: (run / storage.MANIFEST).stat().st_mtime_ns for run in ended(folder)["finished"]}

    second = program("tune", str(file), "--resume", str(folder), out=tmp_path / "second", **own_ray)
    going = wait_for(lambda: [run for run in ended(folder).get("", []) if epochs_of(run) >= 2], "another on its way", second)
    before = {run: _tracking.read_history(run)[:2] for run in going}
    finished |= {run: (run / storage.MANIFEST).stat().st_mtime_ns for run in ended(folder)["finished"]}
    kill_group(second)
    wait_for(lambda: "RUNNING" not in {run.info.status for run in children(folder).values()}, "trials' runs that are ended")

    third = program("tune", str(file), out=tmp_path / "third", **own_ray, **job)
    assert code(third) == 0, (tmp_path / "third.err").read_text()
    assert list((tmp_path / "searches").glob("*-*-*")) == [folder]
    assert {run: (run / storage.MANIFEST).stat().st_mtime_ns for run in finished} == finished, "none ran again"
    assert {how: len(runs) for how, runs in ended(folder).items()} == {"finished": 3}
    for run, began in before.items():
        history = _tracking.read_history(run)
        assert [entry["step"] for entry in history] == list(range(1, 41))
        assert history[:2] == began, "it went on from where it was"
    assert {run.info.status for run in children(folder).values()} == {"FINISHED"}
    assert len(children(folder)) == 3
    assert not [run for run in children(folder).values() if "reason" in run.data.tags], "none is said to have been killed"
    tracked = Tracked(folder)
    assert tracked.status == "FINISHED"
    assert "reason" not in tracked.tags


def workers_below(pid: int) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            line = process.cmdline()
            if line and line[0].startswith("ray::RayTrainWorker"):
                found.append(process)
    return found


def notices(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("trials/*/notices.log"))
