"""What a search makes of its trials: why one failed, where it stands, when too many failed, what a parameter matters."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from ray.exceptions import RayActorError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.tune.integration.ray_train import TuneReportCallback

from components import storage
from components.config import Recipe, parse
from components.errors import DivergedError, FailedError, InputError, WorkerError
from components.search import Trial
from ray_jobs import _found, _search, _search_report, _searchers, _tracking, _trials, _workers

KILLED = "Some common causes include: (1) the process was killed by the OOM killer due to high memory usage, (2) ray stop"
SHORT = "the actor was killed due to the node running low on memory"


def recipe(**search: Any) -> Recipe:
    return parse(
        {
            "name": "tiny",
            "data": {"source": "/logs/log.csv"},
            "encoder": {"name": "mf", "dim": 8},
            "loss": {"name": "sampled_softmax", "temperature": 0.2},
            "negatives": [{"name": "in_batch"}],
            "search": {"space": {"loss.temperature": {"loguniform": [0.05, 1.0]}}, **search},
        }
    )


def trial(label: str, score: float | None, ended: str = "finished", **values: Any) -> Trial:
    return Trial(label, ended, 0.0, values, score)


def wrapped(error: Exception) -> Exception:
    try:
        raise RuntimeError("in the middle") from error
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DivergedError("loss is nan"), "diverged"),
        (InputError("encoder.dim: got 0"), "input"),
        (WorkerError("out of memory", "Traceback ..."), "out of memory"),
        (WorkerError("error", "Traceback ..."), "error"),
        (MemoryError(), "out of memory"),
        (WorkerGroupError("lost", {0: WorkerHealthCheckFailedError("gone", RayActorError(error_msg=KILLED))}), "lost workers"),
        (WorkerGroupError("lost", {0: WorkerHealthCheckFailedError("gone", RayActorError(error_msg=SHORT))}), "out of memory"),
        (KeyError("x"), "error"),
    ],
)
def test_kinds_of_failure_are_told_apart_however_deep_they_lie(error: Exception, kind: str) -> None:
    assert _trials.kind_of(error) == kind
    assert _trials.kind_of(wrapped(error)) == kind


def test_a_failure_says_the_last_line_of_a_workers_traceback(tmp_path: Path) -> None:
    _trials.keep_failure(tmp_path / "t", "error", WorkerError("error", "Traceback\n  File x\nKeyError: 'item'"))
    found = _found.failure(tmp_path / "t")
    assert found is not None
    assert (found["kind"], found["reason"]) == ("error", "KeyError: 'item'")
    assert "File x" in (tmp_path / "t" / "traceback.txt").read_text()


def test_an_error_of_a_worker_is_written_and_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"recipe": recipe().to_json(), "dataset": str(tmp_path), "run": str(tmp_path), "also_on": ""}
    tries = []

    def fails(*_: Any) -> None:
        tries.append(1)
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(_workers, "_train", fails)
    with pytest.raises(RuntimeError, match="allocate"):
        _workers.train_worker(config)
    assert _workers.train_worker(config) == {}
    assert len(tries) == 1
    with pytest.raises(WorkerError, match="out of memory in a worker\nTraceback") as raised:
        _workers._raise_written(tmp_path)
    assert raised.value.kind == "out of memory"


def test_what_a_worker_says_of_another_that_is_gone_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"recipe": recipe().to_json(), "dataset": str(tmp_path), "run": str(tmp_path), "also_on": ""}

    def fails(*_: Any) -> None:
        raise RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1")

    monkeypatch.setattr(_workers, "_train", fails)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="Connection closed"):
            _workers.train_worker(config)
    _workers._raise_written(tmp_path)  # nothing is written


@pytest.mark.parametrize(
    ("ended", "too_many"),
    [
        (["failed"] * 2, False),  # too few to tell
        (["failed"] * 3, True),
        (["failed"] * 3 + ["finished"] * 3, False),  # half
        (["failed"] * 4 + ["finished"] * 2 + ["stopped"], True),
        (["failed"] * 3 + [""] * 3, False),  # one under way is no failure
        (["failed"] * 3 + [""] * 2, True),
    ],
)
def test_over_half_of_those_that_began_is_too_many(ended: list[str], too_many: bool) -> None:
    assert _search.too_many_failed(ended) == too_many


def test_a_trial_that_could_not_begin_is_a_failed_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What left no trace in its folder is counted; what Tune forgot, and began anew by another name, is not."""
    storage.write_text(tmp_path / "recipe.json", recipe().to_json())
    watch, error = _search.Watch(tmp_path, recipe()), tmp_path / "error.txt"
    for name in ("x", "y", "z"):
        forgotten = tmp_path / _trials.TRIALS / name
        forgotten.mkdir(parents=True)
        storage.write_json(forgotten / _trials.POINT, {})
        storage.write_json(forgotten / _trials.LEFT, {})
    said = {
        "PermissionError: [Errno 13] Permission denied: '/mnt/store'": "error",
        "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.": "lost workers",
        f"ray.exceptions.OutOfMemoryError: Task was killed due to the node {_trials.NO_MEMORY}.": "out of memory",
        "components.errors.TrackingError: tracking.uri: got http://mlflow": "tracking",
    }
    for n, text in enumerate(said):
        error.write_text(f"Traceback (most recent call last):\n{text}")
        config = {"loss.temperature": 0.1 * (n + 1)}
        watch.on_trial_error(n, [], SimpleNamespace(trial_id=f"t{n}", error_file=str(error), config=config))
    failed = [run for run in _found.runs(tmp_path) if _found.ended(run) == "failed"]
    assert [(_found.failure(run) or {})["kind"] for run in failed] == [*said.values()]
    assert [trial.values["loss.temperature"] for trial in _found.trials(tmp_path) if trial.ended] == [0.1, 0.2, 0.1 * 3, 0.4]
    assert "4 t3 failed at epoch 0: tracking, components.errors.TrackingError" in capsys.readouterr().out
    _search.Stopper(tmp_path, hours=None).stop_all()
    assert storage.read_json(tmp_path / _trials.OVER)["by"] == "the search's failures"


def test_workers_agree_on_whether_they_were_asked_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a network one may see the file before another: who began alone would wait for the rest."""
    config = {"recipe": recipe().to_json(), "dataset": str(tmp_path), "run": str(tmp_path), "also_on": ""}
    monkeypatch.setattr(_workers, "Workers", lambda: SimpleNamespace(gather_objects=lambda own: [True, own]))
    monkeypatch.setattr(_workers, "_train", lambda *_: pytest.fail("it began alone"))
    assert _workers.train_worker(config) == {}


def test_trials_of_a_search_that_is_over_are_asked_to_end_and_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(_search.time, "monotonic", lambda: now[0])
    going = tmp_path / _trials.TRIALS / "going"
    going.mkdir(parents=True)
    storage.write_json(going / _trials.POINT, {})
    _tracking.write_history(going, history_of(0.1, 0.2))

    def looks(stopper: _search.Stopper, after: float) -> bool:
        now[0] += after
        return stopper.stop_all()

    stopper = _search.Stopper(tmp_path, hours=1.0)
    assert not looks(stopper, 0)
    assert not looks(stopper, 1800)
    now[0] += 100
    resumed: _search.Stopper = pickle.loads(pickle.dumps(stopper))
    now[0] = 5.0  # another machine, long after
    assert not looks(resumed, 0)
    assert not looks(resumed, 1600), "1900 s before it was interrupted, and 1600 s since"
    assert not (going / _tracking.STOPPED).exists()
    assert not looks(resumed, 200), "it is late, and waits for its trial"
    assert storage.read_json(going / _tracking.STOPPED) == {"by": "the end of the search's hours", "epoch": 2}
    assert not looks(resumed, 10)
    patience = pickle.loads(pickle.dumps(resumed))
    storage.write_json(going / _trials.LEFT, {})
    assert looks(resumed, 10)
    (going / _trials.LEFT).unlink()
    assert not looks(patience, 10)
    assert looks(patience, _search.GRACE_SECONDS + 10), "it does not wait for ever"


def test_a_trial_stands_where_the_epoch_that_it_would_choose_stood() -> None:
    base = recipe(metric="ndcg@20")
    history = [
        {"step": n, "metrics": {"valid_recall@20": recall, "valid_ndcg@20": ndcg, "valid_recall_snips@20": 0.5}}
        for n, recall, ndcg in ((1, 0.3, 0.1), (2, 0.5, 0.2), (3, 0.4, 0.9))
    ]
    assert _trials.standing(history, base) == {"score": 0.2, "against": 0.5, "epoch": 3}
    assert _trials.standing([{"step": 1, "metrics": {"loss": 1.0}}], base) == {}


def test_another_k_is_asked_for_throughout() -> None:
    base = recipe().model_copy(update={"training": recipe().training.model_copy(update={"metric": "recall@5"})})
    metrics = {"valid_recall@5": 0.25, "valid_ndcg@5": 0.5, "valid_recall_snips@5": 0.75}
    assert _trials.standing([{"step": 1, "metrics": metrics}], base) == {"score": 0.25, "against": 0.75, "epoch": 1}
    assert set(metrics) == {f"valid_{name}" for name in _trials.measured(base)}
    _search.check(base)


def history_of(*scores: float) -> list[dict[str, Any]]:
    names = ("valid_recall@20", "valid_recall_snips@20")
    return [{"time": 0.0, "step": n, "metrics": dict.fromkeys(names, score)} for n, score in enumerate(scores, 1)]


def test_asha_hears_of_each_rung_that_a_report_has_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = recipe(scheduler="asha", grace_epochs=2)
    assert base.search.rungs(19) == [2, 6, 18]
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(TuneReportCallback, "__init__", lambda self: None)
    monkeypatch.setattr(TuneReportCallback, "after_report", lambda self, context, metrics, checkpoint: told.extend(metrics))
    teller = _trials.Teller(_trials.Plan(base.to_json(), "", "", ""), tmp_path)
    _tracking.write_history(tmp_path, history_of(*(n / 10 for n in range(1, 8))))
    teller.after_report(None, [{}], None)
    _tracking.append_history(tmp_path, history_of(*(n / 10 for n in range(1, 10)))[7:])
    teller.after_report(None, [{}], None)
    assert [(each["epoch"], each["score"]) for each in told] == [(2, 0.2), (6, 0.6), (7, 0.7), (9, 0.9)]


def test_a_search_that_is_resumed_has_its_rungs(tmp_path: Path) -> None:
    """Two trials left .5 and .3 at rung 2: a third of .4 is not among the best half there, one of .6 is."""
    base = recipe(scheduler="asha", grace_epochs=2, reduction_factor=2)
    for name, scores in (("a", (0.1, 0.5, 0.9)), ("b", (0.3, 0.2)), ("c", (0.9,))):  # c was not there yet
        run = tmp_path / _trials.TRIALS / name
        run.mkdir(parents=True)
        storage.write_json(run / _trials.POINT, {})
        _tracking.write_history(run, history_of(*scores))
    scheduler = _searchers._asha(base, tmp_path)
    (tmp_path / _trials.TRIALS / "d").mkdir()
    (tmp_path / _trials.TRIALS / "e").mkdir()
    for name, score, stops in (("d", 0.35, True), ("e", 0.6, False)):
        new = SimpleNamespace(trial_id=name, stub=False)
        scheduler.on_trial_add(None, new)
        scheduler.on_trial_result(None, new, {"score": score, "against": 0.0, "epoch": 2})
        assert (tmp_path / _trials.TRIALS / name / _tracking.STOPPED).exists() == stops


def test_a_search_that_tune_does_not_know_any_more_is_not_begun_anew(tmp_path: Path) -> None:
    def resumed(*known: str) -> None:
        watch = pickle.loads(pickle.dumps(_search.Watch(tmp_path, recipe())))
        watch.on_step_begin(0, [SimpleNamespace(trial_id=name) for name in known])

    resumed()  # nothing has begun
    for name in ("a", "b"):
        (tmp_path / _trials.TRIALS / name).mkdir(parents=True)
        storage.write_json(tmp_path / _trials.TRIALS / name / _trials.POINT, {})
    resumed("a")  # b began after Tune's last note: nobody goes on with it
    assert [_found.has_left(run) for run in _found.runs(tmp_path)] == [False, True]
    stopper = _search.Stopper(tmp_path, hours=0.0)
    stopper.stop_all()
    assert [_found.ended(run) for run in _found.runs(tmp_path)] == ["stopped", ""], "it was interrupted, and not stopped"
    for run in _found.runs(tmp_path):
        (run / "checkpoint_2026").mkdir()
    _found.sweep(tmp_path)
    assert not list(tmp_path.rglob("checkpoint_2026")), "nobody goes on with either"
    (tmp_path / _trials.TRIALS / "b" / _trials.LEFT).unlink()
    with pytest.raises(FailedError, match=r"tune cannot be read any more, and 2 trials have begun"):
        resumed("c")


def test_the_page_has_the_traceback_of_each_failure_though_nothing_else_came_of_it(tmp_path: Path) -> None:
    for name, said in (("a", "KeyError: 'item 17'"), ("b", "KeyError: 'item 4'"), ("c", "KeyError: 'user 4'")):
        run = tmp_path / _trials.TRIALS / name
        _trials.keep_failure(run, "error", WorkerError("error", f"Traceback\n  File <{name}>\n{said}"))
        storage.write_json(run / _trials.POINT, {"loss.temperature": 0.5})
    base = recipe()
    storage.write_text(tmp_path / "recipe.json", base.to_json())
    tracked: Any = MagicMock()
    _search_report.write(_found.trials(tmp_path), base, tmp_path, tracked)
    page = (tmp_path / _search_report.PAGE).read_text()
    assert "3 trials (3 failed). No trial was validated once." in page
    assert [f"File &lt;{name}&gt;" in page for name in "abc"] == [True, False, True], "one of those that differ by numbers"
    assert {call.args[0].name for call in tracked.artifact.call_args_list} == {_search_report.TRIALS, _search_report.PAGE}
    assert not (tmp_path / _search_report.BEST).exists()


def test_mlflows_description_has_whole_rows(tmp_path: Path) -> None:
    base = recipe()
    values = {f"loss.{'x' * 200}{n}": 0.5 for n in range(6)}
    trials = [Trial(f"t{n}", "finished", 0.0, values, n / 10, None, 1) for n in range(10)]
    note = _search_report._note(trials, base)
    assert len(note) <= 6000
    lines = note.splitlines()[2:]
    assert len({line.count("|") for line in lines}) == 1
    assert "t9" in lines[2], "the best first"
    wide = [Trial("t", "finished", 0.0, {f"loss.{'x' * 2000}{n}": 0.5 for n in range(6)}, 0.5, None, 1)]
    assert "|" not in _search_report._note(wide, base)


@pytest.mark.parametrize("searcher", ["pareto", "tpe"])
def test_optuna_hears_of_a_failed_trial_that_it_failed(searcher: str, tmp_path: Path) -> None:
    """One without a score, and one that failed after it was validated: Tune hands over what it reported last."""
    search = recipe(searcher=searcher, trials=4).search
    asked = _searchers._optuna(search, 0, tmp_path)
    _trials.keep_failure(tmp_path / _trials.TRIALS / "d", "diverged", DivergedError("the loss is nan"))
    reported = {"score": 0.5, "against": 0.25}
    for name, result in (("a", {}), ("b", None), ("c", reported), ("d", reported)):
        point = asked.suggest(name)
        assert point is not None
        assert 0.05 <= point["loss.temperature"] <= 1.0
        asked.on_trial_complete(name, result)
    study = asked._ot_study
    assert study is not None
    states = [trial.state.name for trial in study.trials]
    assert states == ["FAIL", "FAIL", "COMPLETE", "FAIL"]
    resumed: _searchers.Optuna = pickle.loads(pickle.dumps(asked))
    assert resumed.folder == tmp_path


def test_random_points_are_the_same_from_the_same_seed(tmp_path: Path) -> None:
    search = recipe(searcher="random").search

    def drawn(seed: int) -> list[float]:
        asked = _searchers._optuna(search, seed, tmp_path)
        return [(asked.suggest(str(n)) or {})["loss.temperature"] for n in range(5)]

    assert drawn(1) == drawn(1)
    assert len({*drawn(1), *drawn(2)}) == 10


def test_options_without_an_order_have_no_neighbours_for_optuna(tmp_path: Path) -> None:
    space = {
        "loss": {"choice": [{"name": "ccl"}, {"name": "bpr"}, {"name": "bce"}]},
        "encoder.dim": {"choice": [8, 16, 32]},
    }
    asked = _searchers._optuna(recipe(space=space, searcher="tpe").search, 0, tmp_path)
    asked.suggest("a")
    assert asked._ot_study is not None
    found = {name: type(kind).__name__ for name, kind in asked._ot_study.trials[0].distributions.items()}
    assert found == {"loss": "CategoricalDistribution", "encoder.dim": "IntDistribution"}


def test_the_best_is_of_the_highest_score_and_there_must_be_one() -> None:
    assert _found.best([trial("a", 0.1), trial("b", None, "failed"), trial("c", 0.3, "stopped")]).name == "c"
    with pytest.raises(FailedError, match=r"none of 2 trials was validated once; takes a budget for at least one"):
        _found.best([trial("a", None, "failed"), trial("b", None, "")])
