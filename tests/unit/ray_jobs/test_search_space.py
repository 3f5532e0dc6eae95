"""What a search refuses before a trial starts, and what its trials are compared by."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from components import storage
from components.config import Recipe, parse
from components.data import interactions
from components.errors import InputError
from components.evaluation import splits
from components.evaluation.evaluate import Task
from components.search import Trial
from ray_jobs import _search, _search_report, _tracking, _trials, _workers, tune
from tests.unit.ray_jobs.test_search import recipe
from tests.worlds import small_log


def spaced(space: dict[str, Any], searcher: str = "tpe", **sections: Any) -> Recipe:
    tree = recipe().model_dump()
    return parse({**tree, **sections, "search": {"space": space, "searcher": searcher}})


SASREC = {"name": "sasrec", "dim": 64, "layers": 1, "inner_dim": 8, "max_length": 5}
ORDERED = {"source": "/logs/log.csv", "columns": {"user": "u", "item": "i", "time": "t"}, "split": {"by": "leave_one_out"}}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (  # an end of neither range is wrong
            spaced({"encoder.heads": {"int": [1, 4]}}, encoder=SASREC, data=ORDERED, negatives=[{"name": "all_items"}]),
            r'has {"encoder\.heads": 3}, which is refused: encoder\.heads: got 3, takes a number that divides',
        ),
        (
            spaced({"negatives.0.hardest": {"choice": [4, 9]}}, negatives=[{"name": "uniform", "count": 8, "hardest": 2}]),
            r'has {"negatives\.0\.hardest": 9}, which is refused: negatives\.0\.hardest: got 9, takes at most count, 8',
        ),
        (
            spaced({"objective": {"choice": [{"name": "supervised"}, {"name": "adv_infonce"}]}}, loss={"name": "bpr"}),
            r'has {"objective": {"name": "adv_infonce"}}, which is refused: loss\.name: got \'bpr\'',
        ),
        (  # of a grid every point: here the second of hardest with the first of count
            spaced(
                {"negatives.0.count": {"choice": [8, 16]}, "negatives.0.hardest": {"choice": [4, 9]}},
                "grid",
                negatives=[{"name": "uniform", "count": 8, "hardest": 2}],
            ),
            r'has {"negatives\.0\.count": 8, "negatives\.0\.hardest": 9}, which is refused: negatives\.0\.hardest: got 9',
        ),
    ],
)
def test_a_value_that_a_part_refuses_only_with_the_others_is_no_trials_failure(given: Recipe, says: str) -> None:
    with pytest.raises(InputError, match=rf"^search\.space: {says}"):
        _search.check(given)


@pytest.mark.parametrize(
    ("key", "options", "says"),
    [
        ("training.select_on", ["valid", "test"], "training.select_on: is the same for all trials"),
        (
            "training",
            [{"epochs": 5}, {"select_on": "test", "fit_on": "train+valid"}],
            "training, which has training.epochs, training.fit_on, training.mask_seen, training.metric, training.select_on: is",
        ),
    ],
)
def test_what_trials_are_compared_by_is_no_choice_nor_part_of_one(key: str, options: list[Any], says: str) -> None:
    with pytest.raises(InputError, match=rf"^search\.space\.{says}"):
        _search.check(spaced({key: {"choice": options}}))


def test_a_refit_of_what_a_space_may_cut_the_learning_rate_of_is_refused_before_it_is_searched() -> None:
    given = spaced({"optimizer.plateau": {"choice": [None, {"patience": 2}]}})
    with pytest.raises(InputError, match=r"^--refit: got a recipe with optimizer\.plateau"):
        tune.run(given, argparse.Namespace(refit=2, resume=None))


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> Task:
    """A dataset of 40 items with valid and valid_late."""
    world = small_log()

    def task_of(dataset: Path, split: str, name: str) -> Task:
        if split not in ("valid", "valid_late"):
            raise InputError(f"{name}: got {split!r}, takes one of valid, valid_late")
        return world

    monkeypatch.setattr(interactions, "load", lambda *_: world.seen)
    monkeypatch.setattr(splits, "task_of", task_of)
    return world


def test_what_the_log_refuses_is_said_of_the_space_before_a_trial_starts(prepared: Task, tmp_path: Path) -> None:
    """Of the recipe's own value, which no trial takes, nothing is said."""

    def held(*counts: int) -> None:
        drawn = [{"name": "uniform", "count": 1000}]
        given = spaced({"negatives.0.count": {"choice": [*counts]}}, negatives=drawn)
        _search.check(given)
        _search._check_data(given, tmp_path)

    held(8, 40)
    with pytest.raises(InputError, match=r'^search\.space: has {"negatives\.0\.count": 41}, which is refused: .* at most 40'):
        held(8, 41)


def test_a_search_is_held_against_the_log_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise InputError("search.space: has what the log refuses")

    monkeypatch.setattr(_search, "_check_data", refuse)
    checks = {name: lambda *_: None for name in ("require_server", "require_slots")}
    monkeypatch.setattr(_search, "_program", SimpleNamespace(**checks))
    given = spaced({"loss.temperature": {"uniform": [0.1, 1]}}, scale={"storage_path": str(tmp_path)})
    with pytest.raises(InputError, match="what the log refuses"):
        _search.run(given, tmp_path / "dataset")
    assert not (tmp_path / "searches").exists()


def test_a_trials_workers_are_asked_for_the_second_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, asked = pareto_under_a_shift(), list[str]()

    def fit(*_: Any, also_on: str, **__: Any) -> None:
        asked.append(also_on)
        raise InterruptedError

    monkeypatch.setattr(_workers, "fit", fit)
    monkeypatch.setattr(_trials, "Teller", MagicMock())  # takes a session of Tune's
    monkeypatch.setattr(_tracking, "attach", lambda _: MagicMock())
    for name in ("closing", "saying"):
        monkeypatch.setattr(_tracking, name, lambda *_: contextlib.nullcontext())
    (tmp_path / "trial").mkdir()
    storage.write_json(tmp_path / "trial" / _tracking.LINKS, {})
    plan = _trials.Plan(base.to_json(), str(tmp_path / "dataset"), str(tmp_path), "")
    with pytest.raises(InterruptedError):
        _trials._train(base, {"loss.temperature": 0.3}, tmp_path / "trial", plan)
    assert asked == ["valid"]


def test_what_is_held_against_the_metric_may_be_of_another_validation(prepared: Task, tmp_path: Path) -> None:
    def held(chosen: str, **search: Any) -> tuple[str, str]:
        data = {"source": "/logs/log.csv", "split": {"by": "given"}}
        tree = recipe(searcher="pareto", **search).model_dump()
        given = parse({**tree, "data": data, "training": {**tree["training"], "select_on": chosen}})
        _search.check(given)
        _search._check_data(given, tmp_path)
        assert (_trials.also_on(given) or chosen) == _trials.against_of(given)[0]
        return _trials.against_of(given)

    assert held("valid") == ("valid", "recall_snips@20")
    assert held("valid", against="ndcg@20") == ("valid", "ndcg@20")
    assert held("valid", against="valid_late_recall@20") == ("valid_late", "recall@20")
    assert held("valid_late", against="valid_recall_snips@20") == ("valid", "recall_snips@20"), "not snips@20 on valid_recall"
    for against in ("recall@7", "test_recall@20", "valid_late_recall@7", "_recall@20"):
        with pytest.raises(InputError, match=rf"^search\.against: got '{against}', takes one of ndcg@20, .*, or of another"):
            held("valid", against=against)
    with pytest.raises(InputError, match=r"^search\.against: got 'valid_early', takes one of valid, valid_late$"):
        held("valid", against="valid_early_recall@20")
    with pytest.raises(InputError, match=r"^search\.against: got 'recall@20', takes another metric than search\.metric"):
        held("valid", against="recall@20")
    with pytest.raises(InputError, match=r"^training\.select_on: got 'valid_early', takes one of valid, valid_late$"):
        held("valid_early")


def test_under_a_shifted_split_the_front_is_of_both_validations() -> None:
    base = pareto_under_a_shift()
    _search.check(base)
    assert (_trials.against_of(base), _trials.also_on(base)) == (("valid", "recall@20"), "valid")
    metrics = {"valid_shifted_recall@20": 0.1, "valid_recall@20": 0.3, "valid_shifted_recall_snips@20": 0.2}
    assert _trials.standing([{"step": 1, "metrics": metrics}], base) == {"score": 0.1, "against": 0.3, "epoch": 1}
    header, _ = _search_report._table([Trial("a", "finished", 0.0, {}, 0.1, 0.3)], base)
    assert header[1:3] == ["recall@20", "recall@20 on valid"]
    assert _trials.also_on(shifted("valid_shifted")) == "", "another searcher has one metric"
    with pytest.raises(InputError, match=r"'valid_late_recall@20', takes a metric on valid or valid_shifted under"):
        _search.check(pareto_under_a_shift(against="valid_late_recall@20"))


def pareto_under_a_shift(**search: Any) -> Recipe:
    tree = shifted("valid_shifted").model_dump()
    return parse({**tree, "search": {**tree["search"], "searcher": "pareto", **search}})


def test_more_memory_than_there_is_fails_a_trial_and_no_search() -> None:
    _search.check(spaced({"encoder.dim": {"choice": [8, 10**12]}}))


def shifted(chosen: str, **changes: Any) -> Recipe:
    data = {"source": "/logs/log.csv", "split": {"by": "shifted"}}
    tree = recipe().model_dump()
    return parse({**tree, "data": data, "training": {**tree["training"], "select_on": chosen, **changes}})


def test_under_a_shifted_split_a_search_takes_its_shifted_validation_alone() -> None:
    _search.check(shifted("valid_shifted"))
    _search.check(shifted("valid_shifted", mask_seen=False))
    for chosen in ("valid", "test", "none"):
        with pytest.raises(InputError, match=rf"^training\.select_on: got '{chosen}', takes valid") as raised:
            _search.check(shifted(chosen))
        assert ("takes valid_shifted in a search under data.split shifted" in str(raised.value)) == (chosen == "valid")
        assert ("no test is searched on" in str(raised.value)) == (chosen != "valid")


@pytest.mark.parametrize(("mask_seen", "prefix"), [(True, "valid_shifted"), (False, "valid_shifted_not_masked")])
def test_a_trial_stands_where_the_validation_that_is_searched_on_stood(mask_seen: bool, prefix: str) -> None:
    """Not where another split's stood: `valid_recall_snips` is of valid, and so are names without `not_masked` masked."""
    base = shifted("valid_shifted", mask_seen=mask_seen)
    other = {f"{split}_{name}@20": 0.9 for split in ("valid", "test") for name in ("recall", "ndcg", "recall_snips")}
    history = [
        {"step": n, "metrics": {**other, f"{prefix}_recall@20": score, f"{prefix}_recall_snips@20": 0.25}}
        for n, score in ((1, 0.3), (2, 0.5), (3, 0.4))
    ]
    assert _trials.standing(history, base) == {"score": 0.5, "against": 0.25, "epoch": 3}
    assert _trials.standing([{"step": 1, "metrics": other}], base) == {}
