"""The plan says what a recipe will do, exactly where the data is prepared, and finds mistakes before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components import config, plan
from components.errors import InputError


def recipe_of(folder: Path, **sections: Any) -> config.Recipe:
    """Users 0..49, items 0..19: user u has items u % 20, (u + 1) % 20, (u + 2) % 20."""
    rows = [f"{u},{(u + n) % 20},{n}" for u in range(50) for n in range(3)]
    (folder / "log.csv").write_text("user_id,item_id,rating\n" + "\n".join(rows) + "\n")
    base = {
        "name": "planned",
        "data": {"source": str(folder / "log.csv")},
        "encoder": {"name": "mf", "dim": 8},
        "loss": {"name": "sampled_softmax"},
        "negatives": [{"name": "in_batch"}, {"name": "uniform", "count": 30}],
        "training": {"batch_size": 40},
        "scale": {"storage_path": str(folder / "runs"), "num_workers": 2},
    }
    return config.parse({**base, **sections})


def test_sizes_parameters_memory_and_steps(tmp_path: Path) -> None:
    told = dict(plan.of(recipe_of(tmp_path)))
    assert told["sizes"].startswith("150 training rows, 50 users, 20 items (not prepared: at most")
    assert told["parameters"] == str((50 + 20) * 8)
    assert told["steps"] == "4 per epoch of global batch 40"
    scores = 20 * (40 + 30) * 4 * 2  # rows of a worker x candidates x bytes, and the backward pass
    assert f"{scores / 2**20:.1f} MiB of scores" in told["memory"]
    assert not (tmp_path / "runs").exists()  # it computes nothing else


def test_rules_are_applied_to_what_is_counted(tmp_path: Path) -> None:
    data = {"source": str(tmp_path / "log.csv"), "keep": [{"column": "rating", "above": 0}]}
    assert dict(plan.of(recipe_of(tmp_path, data=data)))["sizes"].startswith("100 training rows")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"evaluation": {"ks": [10, 21]}}, "evaluation.ks: got 21, takes a number from 1 to the catalogue's 20 items"),
        ({"evaluation": {"ks": [10], "recommend_k": 99}}, "evaluation.recommend_k: got 99"),
        ({"training": {"metric": "ndcg@500"}}, "training.metric: got 500"),
        ({"data": {"source": "/nowhere/log.csv"}}, "data.source: /nowhere/log.csv: no such file"),
    ],
)
def test_mistakes_are_found(sections: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        list(plan.of(recipe_of(tmp_path, **sections)))
    assert str(caught.value).startswith(message)
