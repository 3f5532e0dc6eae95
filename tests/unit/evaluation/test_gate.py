"""Who becomes champion: what is compared at all, what beats, and what a better mean does not make up for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import storage
from components.errors import InputError
from components.evaluation import comparison, gate
from components.evaluation.evaluate import Summary, evaluate_tile
from components.evaluation.gate import Measured, judge, measured
from components.evaluation.ranking import Ranker
from tests.unit.evaluation.worlds import world

USERS = 600
TEST = {"dataset": "d" * 12, "split": "test", "protocol": "seen items masked"}


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "RESAMPLES", 500)


def model(shift: float = 0.0, tail_shift: float = 0.0, noise: int = 0, **changes: Any) -> Measured:
    """Recall of each user around .3 and tail recall around .05, moved by so much, with noise of its own."""
    shared, own = np.random.default_rng(0), np.random.default_rng([noise, 1])
    values = {"recall@20": 0.3 + shift, "tail_recall@20": 0.05 + tail_shift}
    drawn = {name: mean + shared.normal(0, 0.2, USERS) + own.normal(0, 0.05, USERS) for name, mean in values.items()}
    usual = {"name": "m", "test": TEST, "chosen_on_test": False, "users_U": np.arange(USERS), "values": drawn}
    return Measured(**{**usual, **changes})


def test_the_first_is_champion() -> None:
    verdict = judge(model(), None)
    assert verdict.promoted
    assert not verdict.differences
    assert judge(model(chosen_on_test=True), None).promoted, "there is nobody whom that would be unfair to"


def test_who_beats_the_champion_takes_its_place() -> None:
    verdict = judge(model(0.02, noise=1), model())
    assert verdict.promoted
    assert set(verdict.differences) == {"recall@20", "tail_recall@20"}
    low, high = verdict.differences["recall@20"].over_users
    assert 0 < low < verdict.differences["recall@20"].value < high
    assert "recall@20 is higher" in verdict.reason and f"{verdict.differences['recall@20'].value:+.4f}" in verdict.reason


def test_it_is_the_users_pairs_that_tell() -> None:
    """Of the same two distributions, the difference drowns where users are not paired."""
    better, champion = model(0.01, noise=1), model()
    shuffled = np.random.default_rng(3).permutation(USERS)
    mixed = {name: values_U[shuffled] for name, values_U in better.values.items()}
    assert judge(better, champion).promoted
    assert not judge(model(values=mixed), champion).promoted


@pytest.mark.parametrize("noise", [0, 1])
def test_a_tie_changes_nothing(noise: int) -> None:
    """The very same lists, or others of the same worth."""
    verdict = judge(model(noise=noise), model())
    assert not verdict.promoted
    assert "recall@20 is not higher by more than chance" in verdict.reason
    assert verdict.differences["recall@20"].over_users[0] <= 0 <= verdict.differences["recall@20"].over_users[1]


def test_a_worse_one_changes_nothing() -> None:
    verdict = judge(model(-0.02, noise=1), model())
    assert not verdict.promoted
    assert verdict.reason.startswith("recall@20 is lower: -0.0")


@pytest.mark.parametrize(("tail", "promoted"), [(-0.02, False), (-0.001, True), (0.02, True)])
def test_tail_recall_holds(tail: float, promoted: bool) -> None:
    """However much is won elsewhere; what other users might not have told is no fall."""
    verdict = judge(model(0.1, tail, noise=1), model())
    assert verdict.promoted == promoted
    assert ("tail_recall@20 is lower" in verdict.reason) != promoted


@pytest.mark.parametrize("what", list(TEST))
def test_another_test_is_not_compared(what: str) -> None:
    verdict = judge(model(0.1, test={**TEST, what: "another"}, name="new"), model(name="version 3"))
    assert not verdict.promoted
    assert not verdict.differences
    assert verdict.reason == f"not comparable: version 3 was evaluated on {what} {TEST[what]}, new on another"


def test_other_users_are_not_compared() -> None:
    verdict = judge(model(0.1, users_U=np.arange(1, USERS + 1)), model())
    assert (verdict.promoted, dict(verdict.differences)) == (False, {})
    assert "not the same ones" in verdict.reason


@pytest.mark.parametrize(
    ("challenger", "champion", "compared"), [(True, False, False), (True, True, True), (False, True, True)]
)
def test_an_epoch_chosen_on_the_test_gives_no_advantage(challenger: bool, champion: bool, compared: bool) -> None:
    verdict = judge(model(0.1, chosen_on_test=challenger), model(chosen_on_test=champion))
    assert verdict.promoted == compared
    assert ("chosen on the test" in verdict.reason) != compared


def evaluated(folder: Path, chosen_on: str = "valid") -> tuple[Path, Path, Summary]:
    """The files that an evaluation leaves, and what it told."""
    factors, task = world(num_users=400, num_items=300, width=8)
    ranker, summary = Ranker(factors, task.seen, 20), Summary((5, 20), task.seen.item_degrees())
    tables = [evaluate_tile(ranker, task, number, (5, 20)) for number in range(task.num_tiles)]
    for table in tables:
        summary.add(table)
    pq.write_table(pa.concat_tables(tables), folder / "per_user.parquet")
    about = {"dataset": "d", "split": "test", "fitted": f"fit on train, epoch chosen on {chosen_on}"}
    about |= {"protocol": {"model": "seen items masked"}, "metrics": {"model": summary.metrics()}}
    storage.write_json(folder / "metrics.json", about)
    return folder / "metrics.json", folder / "per_user.parquet", summary


@pytest.mark.parametrize("k", [5, 20])
def test_tail_recall_is_what_the_least_popular_group_adds(tmp_path: Path, k: int) -> None:
    told, lists, summary = evaluated(tmp_path)
    found = measured("run", told, lists, f"ndcg@{k}", summary.degrees_I)
    assert list(found.values) == [f"ndcg@{k}", f"tail_recall@{k}"]
    expected = summary.group_recall(k)[0]
    assert expected > 0
    assert found.values[f"tail_recall@{k}"].mean() == pytest.approx(expected, rel=1e-12)
    assert found.values[f"ndcg@{k}"].mean() == pytest.approx(summary.metrics()[f"ndcg@{k}"], rel=1e-12)
    assert found.test == {"dataset": "d", "split": "test", "protocol": "seen items masked"}


@pytest.mark.parametrize("chosen_on", ["valid", "test", "test, seen items not masked", "none"])
def test_it_is_read_where_the_epoch_was_chosen(tmp_path: Path, chosen_on: str) -> None:
    told, lists, summary = evaluated(tmp_path, chosen_on)
    assert measured("run", told, lists, "recall@5", summary.degrees_I).chosen_on_test == chosen_on.startswith("test")


def test_a_metric_that_was_not_evaluated_is_refused(tmp_path: Path) -> None:
    told, lists, summary = evaluated(tmp_path)
    with pytest.raises(InputError, match=r"^evaluation.ks: got an evaluation of r1 without recall@7, takes one with 7 "):
        measured("r1", told, lists, "recall@7", summary.degrees_I)


def test_files_of_two_evaluations_are_refused(tmp_path: Path) -> None:
    told, lists, summary = evaluated(tmp_path)
    table = pq.read_table(lists)
    pq.write_table(table.slice(0, len(table) - 1), lists)
    with pytest.raises(InputError, match="another evaluation of r1 than per_user.parquet"):
        measured("r1", told, lists, "recall@20", summary.degrees_I)


def test_the_rule_is_that_of_the_comparison() -> None:
    """The interval is the one that compare prints for the same two runs."""
    better, champion = model(0.02, noise=1), model()
    systems = [comparison.System((s,), {"m": each.values["recall@20"][None]}) for s, each in enumerate((champion, better))]
    ((told,),) = [list(found.values()) for found in comparison.differences(systems, comparison.RESAMPLES)]
    assert gate.judge(better, champion).differences["recall@20"].over_users == pytest.approx(told.over_users, rel=1e-9)
