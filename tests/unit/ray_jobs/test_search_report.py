"""What is made of a search that is over: its pictures, what mattered, and its best recipe fitted anew."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest

from components import storage
from components.errors import InputError
from ray_jobs import _refits, _search_report
from tests.unit.ray_jobs.test_search import recipe, trial


def test_importance_finds_the_parameter_that_matters() -> None:
    found = [trial(f"{n}", (n % 4) / 4, temperature=0.1 * (1 + n % 4), width=8 * (1 + n // 4), name="mf") for n in range(16)]
    shares = _search_report.importance(found, {"temperature": True})
    assert set(shares) == {"temperature", "width"}, "one that never changes explains nothing"
    assert shares["temperature"] > 3 * shares["width"]
    assert math.isclose(sum(shares.values()), 1)
    assert _search_report.importance(found[:3], {}) == {}


def test_a_key_that_is_off_its_logarithmic_scale_in_some_trials_is_drawn(tmp_path: Path) -> None:
    """As where another option of a choice is zero, or none."""
    space = {
        "optimizer.l2.weight": {"choice": [0.0, {"loguniform": [1e-8, 1e-2]}]},
        "optimizer.clip_norm": {"choice": [None, {"loguniform": [0.1, 10.0]}]},
        "loss.temperature": {"loguniform": [0.05, 1.0]},
    }
    found = [
        trial(
            f"t{n}",
            n / 12,
            **{
                "optimizer.l2.weight": 0.0 if n % 3 else 10.0**-n,
                "optimizer.clip_norm": None if n % 2 else 1.0 + n,
                "loss.temperature": 0.05 * (n + 1),
            },
        )
        for n in range(12)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures = _search_report.draw(found, recipe(space=space), tmp_path)
    assert {"importance", "slices", "heat_map", "parallel_coordinates"} <= {path.stem for path in pictures}


def test_the_heat_map_is_of_the_best_trials_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters that one part alone has are in it, though importance over all trials knows none of them."""
    drawn: list[Any] = []
    monkeypatch.setattr(_search_report.search_plots, "heat_map", lambda trials, x, y, *_: drawn.append((len(trials), {x, y})))
    margins = {"loss": "multi_margin", "loss.margin": 0.5}
    found = [
        *(
            trial(f"a{n}", n / 10, **{"loss": "ssm", "loss.temperature": 0.1 * n, "loss.scale": 1.0 + n % 3})
            for n in range(1, 9)
        ),
        *(trial(f"b{n}", n / 100, **margins) for n in range(5)),
    ]
    pictures = _search_report.draw(found, recipe(), tmp_path)
    assert drawn == [(8, {"loss.temperature", "loss.scale"})]
    assert "importance" not in {path.stem for path in pictures}, "the part alone is known of every trial"


def test_a_refit_goes_on_with_the_seeds_that_it_began_with(tmp_path: Path) -> None:
    told = {"trial": "a", "seeds": [1, 2], "runs": ["runs/a"]}
    storage.write_json(tmp_path / _refits.REFIT, told)
    _refits.check(tmp_path, 2)
    assert _refits._begun(tmp_path) == told
    with pytest.raises(InputError, match=r"--refit: got 3, takes 2: .* of seeds that were begun"):
        _refits.check(tmp_path, 3)
    storage.write_json(tmp_path / _refits.REFIT, {**told, "metrics": {}})
    _refits.check(tmp_path, 2)  # shown again
    with pytest.raises(InputError, match=r"--refit: got 1, takes 2: .* tested, and a test is looked at once"):
        _refits.check(tmp_path, 1)


def test_a_refit_is_tested_on_the_tests_that_have_rows(tmp_path: Path) -> None:
    """As on Coat: its split leaves no row to a test beside the released ones."""
    rows = {"train": 9, "valid": 3, "test": 0, "test_id": 2, "test_ood": 2}
    storage.write_json(tmp_path / storage.MANIFEST, {"rows": rows})
    assert _refits.tests_of(tmp_path) == ["test_id", "test_ood"]
    for lacks, what in (("valid", {"valid": 0}), ("any test", {"test_id": 0, "test_ood": 0})):
        storage.write_json(tmp_path / storage.MANIFEST, {"rows": rows | what})
        with pytest.raises(InputError, match=rf"--refit: got {tmp_path} without a row in {lacks}, takes"):
            _refits.tests_of(tmp_path)


def test_the_interval_is_students() -> None:
    about = _refits.interval([0.1, 0.2, 0.3])
    assert about["mean"] == pytest.approx(0.2)
    half = 4.302652729911275 * 0.1 / math.sqrt(3)  # t of 2 degrees of freedom at 97.5 %, deviation .1
    assert (about["low"], about["high"]) == pytest.approx((0.2 - half, 0.2 + half))
    assert _refits.interval([0.1]) == {"mean": 0.1, "low": None, "high": None}
