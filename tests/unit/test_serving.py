"""A model without its dataset lists what the ranking lists with it, in the source's ids, and needs what it says."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from components import catalog, serving
from components.config import Recipe
from components.data.interactions import Interactions
from components.errors import InputError
from components.evaluation import scorers
from components.evaluation.ranking import TILE, Ranker
from components.training import checkpoint
from ray_jobs import _registration
from tests import worlds
from tests.rules.test_imports import ROOT, imports

USERS, ITEMS, K = TILE + 44, 50, 7
SASREC = {"name": "sasrec", "dim": 8, "inner_dim": 16, "max_length": 6}
POOL = {"name": "mean_pool", "dim": 8, "inner_dim": 16, "max_length": 6}
IN_ORDER = {"data": {"source": "log.csv", "split": {"by": "leave_one_out"}}}


def log() -> Interactions:
    random = np.random.default_rng(0)
    counts = random.integers(1, 12, USERS)
    items = np.concatenate([random.choice(ITEMS, count, replace=False) for count in counts])
    return Interactions.of(np.repeat(np.arange(USERS), counts), items, USERS, ITEMS)


def raw(kind: str, number: int) -> pa.Array:
    """Ids of the source's, in no order of theirs."""
    shuffled = np.random.default_rng(number).permutation(number)
    return pa.array(shuffled * 10 if kind == "integers" else [f"x{n}" for n in shuffled])


def made(folder: Path, encoder: dict[str, Any], kind: str = "text") -> tuple[Any, Ranker, pa.Array, pa.Array]:
    """The model as it is loaded, and the ranking that knows the whole log."""
    recipe: Recipe = worlds.recipe(encoder=encoder, **IN_ORDER)
    known, users, items = log(), raw(kind, USERS), raw(kind, ITEMS)
    built = catalog.build("encoder", recipe.encoder, known, torch.Generator().manual_seed(1)).eval()
    serving.save(folder / "model", recipe, built, known, users, items)
    return serving.load(folder / "model"), Ranker(scorers.of(built, known), known, K), users, items


def expected(ranker: Ranker, users: np.ndarray, raw_items: pa.Array) -> tuple[list[list[Any]], list[list[float]]]:
    """A tile at a time, as `recommend` has it."""
    lists, scores = [], []
    for start in range(0, len(users), TILE):
        for items_K, scores_K in zip(*ranker.top(users[start : start + TILE]), strict=True):
            lists.append([raw_items[int(item)].as_py() for item in items_K if item >= 0])
            scores.append([float(score) for item, score in zip(items_K, scores_K, strict=True) if item >= 0])
    return lists, scores


@pytest.mark.parametrize("kind", ["text", "integers"])
@pytest.mark.parametrize("encoder", [{"name": "mf", "dim": 8}, {"name": "lightgcn", "dim": 8}])
def test_users_get_the_lists_of_the_ranking(tmp_path: Path, encoder: dict[str, Any], kind: str) -> None:
    model, ranker, users, items = made(tmp_path, encoder, kind)
    assert model.column == "user"
    found = model.lists(users.to_pylist(), K)
    lists, scores = expected(ranker, np.arange(USERS), items)
    assert found.items == lists
    assert found.scores == scores, "to the bit: the same tiles"
    some = np.array([299, 3, 3, 100])
    assert model.lists([users[int(u)].as_py() for u in some], K).items == [lists[u] for u in some], "in the order asked for"
    for user in (0, 150):
        seen = {items[int(item)].as_py() for item in log().items_of(user)}
        (whole,) = model.lists([users[user].as_py()], ITEMS).items
        assert set(whole) == set(items.to_pylist()) - seen


@pytest.mark.parametrize("encoder", [SASREC, POOL], ids=lambda spec: spec["name"])
def test_histories_get_the_lists_of_the_ranking(tmp_path: Path, encoder: dict[str, Any]) -> None:
    model, ranker, _, items = made(tmp_path, encoder)
    assert model.column == "history"
    histories = [items.take(pa.array(log().items_of(user))).to_pylist() for user in range(USERS)]
    found = model.lists(histories, K)
    lists, scores = expected(ranker, np.arange(USERS), items)
    assert found.items == lists
    for got, wanted in zip(found.scores, scores, strict=True):
        assert got == pytest.approx(wanted, rel=1e-5)
    with_unknown = [["never seen", *history, "nor this"] for history in histories]
    assert model.lists(with_unknown, K).items == lists, "what the model does not know is left out"
    assert not (tmp_path / "model" / serving.USERS).exists(), "nobody's ids travel with it"


@pytest.mark.parametrize("history", [[], ["never seen"], [None]])
def test_of_an_empty_history_nothing_is_listed(tmp_path: Path, history: list[Any]) -> None:
    model, *_, items = made(tmp_path, SASREC)
    found = model.lists([history, [items[0].as_py()]], K)
    assert found.items[0] == found.scores[0] == []
    assert len(found.items[1]) == K
    assert model.lists([], K) == ([], [])


def test_an_unknown_user_is_refused_as_recommend_refuses_it(tmp_path: Path) -> None:
    model, _, users, _ = made(tmp_path, {"name": "mf", "dim": 8})
    strangers = [f"stranger {n}" for n in range(7)]
    with pytest.raises(InputError, match=r"^user: got stranger 0, .*stranger 4 and 2 more, takes ids of users"):
        model.lists([users[0].as_py(), *strangers], K)
    with pytest.raises(InputError, match=rf"^k: got {ITEMS + 1}, takes a number from 1 to the catalogue's {ITEMS} items"):
        model.lists([users[0].as_py()], ITEMS + 1)


class Hostile:
    """What a pickle may do when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_weights_that_are_a_pickle_are_refused_and_run_nothing(tmp_path: Path, how: str) -> None:
    folder, struck = tmp_path / "model", tmp_path / "struck"
    made(tmp_path, {"name": "mf", "dim": 8})
    for name in (checkpoint.MODEL, serving.SEEN):
        kept = (folder / name).read_bytes()
        with (folder / name).open("wb") as file:
            pickle.dump(Hostile(struck), file) if how == "pickle" else torch.save({"users": Hostile(struck)}, file)
        with pytest.raises(InputError, match=rf"{name}: got no safetensors"):
            serving.load(folder)
        (folder / name).write_bytes(kept)
    assert not struck.exists()
    pickle.loads(pickle.dumps(Hostile(struck)))
    assert struck.exists(), "read as a pickle, it would have"


def test_what_is_served_is_pinned_and_needs_nothing_else() -> None:
    """Every package that the model's code can import, by the imports of all its files."""
    files, known = [ROOT / "ray_jobs" / "_served.py"], set()
    encoders = sorted((ROOT / "components" / "encoders").glob("*.py"))
    packages: set[str] = set()
    while files:
        file = files.pop()
        known.add(file)
        for module in imports(file):
            top = module.partition(".")[0]
            if top == "components":
                path = ROOT / Path(*module.split("."))
                found = [path.with_suffix(".py"), path / "__init__.py", *(encoders if module == "components.catalog" else [])]
                files += [each for each in found if each.is_file() and each not in known]
            else:
                packages.add(top)
    assert len(known) > 20
    assert "pandas" in packages and "safetensors" in packages
    own = {"pyyaml": "yaml"}
    assert packages - set(sys.stdlib_module_names) <= {own.get(name, name) for name in _registration.REQUIREMENTS}
    pins = _registration._pinned()
    assert set(pins) <= set((ROOT / "constraints.txt").read_text().lower().splitlines())
    assert [pin.partition("==")[0].lower() for pin in pins] == list(_registration.REQUIREMENTS)
