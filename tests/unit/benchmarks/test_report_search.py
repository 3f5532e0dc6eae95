"""RESULTS.md's sections on searches say what a result holds, and what it falls short of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import _report_search, memory, search
from tests.unit.benchmarks.test_memory import CACHE, worker
from tests.unit.benchmarks.test_search import told


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_report_search, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(_report_search, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def searched(trials: list[dict[str, Any]]) -> dict[str, Any]:
    points = search.by_point(trials)
    return {
        "figures": {
            "search": "named",
            "title": "A search",
            "recipe": "coat_mf_infonce",
            "changes": ["training.epochs=7"],
            "searcher": "grid",
            "chosen_on": "valid, not masked",
            "epochs": 7,
            "metric": "ndcg@20",
            "against": "recall_snips@20",
            "logarithmic": ["loss.temperature"],
            "importance": {},
            "hours": {"1": 0.5, "2": 0.25},
            "best": {**points[0], "at_an_end_of": search.at_an_end(points)},
            "trials": trials,
        }
    }


def test_a_search_shows_every_point_over_seeds_and_names_what_failed(results: Path) -> None:
    trials = [told(0.1, 0.25), told(0.2, 0.5), told(0.4, None), told(0.1, 0.35, seed=2), told(0.2, 0.5, seed=2)]
    text = "\n".join(_report_search.search(searched(trials)))
    assert "| 0.2 | 0.5000 ± 0.0000 | 0.2500 ± 0.0000 | 10, 20 | 2 finished |" in text
    assert "| 0.1 | 0.3000 ± 0.0707 |" in text
    assert "| 0.4 | none | none | 10 | 1 failed |" in text
    assert "1 of 5 trials have no score, the first for: diverged." in text
    assert "5 trials in 0.75 hours" in text
    assert "epoch and trial by ndcg@20 on valid, not masked; no test was looked at;" in text
    assert "at an end" not in text
    assert (results / "search_named_slices.png").is_file()


def test_two_numbers_have_a_map(results: Path) -> None:
    trials = [told(0.1 * n, 0.1 * n * m) for n in (1, 2, 3) for m in (1, 2)]
    for n, trial in enumerate(trials):
        trial["values"] = {**trial["values"], "objective.total_passes": n % 2}
    text = "\n".join(_report_search.search(searched(trials)))
    assert (results / "search_named_heat_map.png").is_file()
    assert "results/search_named_heat_map.png" in text


def test_asha_is_told_beside_what_it_is_compared_with(results: Path) -> None:
    def run(best: float, reached: float | None) -> dict[str, Any]:
        curve = [[0.05, 0.1], [0.2, best]]
        ended = {"finished": 3, "stopped": 1}
        return {"seed": 1, "trials": 4, "ended": ended, "epochs": 99, "curve": curve, "hours_to_fifos_best": reached}

    figures = {
        "recipe": "yahoo_mf_infonce",
        "changes": ["training.epochs=120"],
        "slots": 2,
        "hours": 0.25,
        "metric": "ndcg@20",
        "schedulers": {"fifo": [run(0.5, 0.2)], "asha": [run(0.25, None)]},
    }
    text = "\n".join(_report_search.asha({"figures": figures}))
    assert "| every trial to its end | 4 | 3 of 4 | 99 | 0.5000 | 12.0 |" in text
    assert "| ASHA | 4 | 3 of 4 | 99 | 0.2500 | never |" in text
    assert (results / "asha.png").is_file()


@pytest.mark.parametrize(("seconds", "verdict"), [(9.0, "within the limit"), (16.0, "**not within the limit")])
def test_overhead_is_held_against_its_limit(seconds: float, verdict: str) -> None:
    figures = {
        "recipe": "gowalla_mf_ssm",
        "changes": ["training.epochs=5"],
        "trials": 2,
        "slots": 2,
        "limit": 15,
        "least_training": 60,
        "wall_seconds": 80.0,
        "training_seconds": [70.0, 50.0],
        "overhead_seconds": seconds,
        "parts": {"the first step": seconds},
        "of_a_trial": {"training": 60.0},
    }
    text = "\n".join(_report_search.overhead({"figures": figures}))
    assert verdict in text
    assert f"| all | {seconds:.2f} |" in text
    assert "Some trained for less than 60 s" in text


def test_memory_says_how_often_the_data_are_seen() -> None:
    looks = {str(trials): memory.look([worker(trials)] * trials, CACHE, trials) for trials in (1, 3)}
    figures = {"recipe": "a", "trials": 3, "cache_mib": 6.0, "looks": looks, "mib_for_each_further_trial": 10.0}
    text = "\n".join(_report_search.memory({"figures": figures}))
    assert "| the mapped data, seen by all | 6.0 MiB | 18.0 MiB |" in text
    assert "| the mapped data, what it takes | 6.0 MiB | 6.0 MiB |" in text
    assert "3.0 times what it takes" in text
