"""Noise is as much as was asked for, touches no target, and is the same again; a model reads it and is asked the same."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data.interactions import Interactions
from tests.benchmarks import _noise, _report_sequential
from tests.benchmarks._noise import KINDS, Kind, replaced

USERS, ITEMS, SHARES = 60, 80, (0.05, 0.1, 0.2, 0.3)


def log(seed: int = 0) -> tuple[Interactions, Interactions]:
    """(histories of 3 to 12 items, a target each): low ids are the popular ones, and no user has an item twice."""
    random = np.random.default_rng(seed)
    chances = 1 / np.arange(1, ITEMS + 1)
    lists = [random.choice(ITEMS, random.integers(4, 14), replace=False, p=chances / chances.sum()) for _ in range(USERS)]
    rows = [(user, item) for user, own in enumerate(lists) for item in own[:-1]]
    targets = [(user, own[-1]) for user, own in enumerate(lists)]
    parts = (Interactions.of([u for u, _ in part], [i for _, i in part], USERS, ITEMS) for part in (rows, targets))
    return next(parts), next(parts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, *SHARES, 1.0])
def test_so_many_rows_get_items_that_their_user_has_nowhere(kind: Kind, share: float) -> None:
    clean, targets = log()
    noisy = replaced(clean, targets, share, kind, 1)
    changed = noisy.items != clean.items
    assert changed.sum() == int(share * len(clean))
    assert np.array_equal(noisy.users, clean.users)
    for user in range(USERS):
        own = noisy.items_of(user).tolist()
        assert len(set(own)) == len(own), "no item twice"
        assert set(own) & set(targets.items_of(user).tolist()) == set()
        new = noisy.items_of(user)[clean.items_of(user) != noisy.items_of(user)]
        assert not set(new.tolist()) & set(clean.items_of(user).tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_the_noise_of_a_small_share_is_part_of_a_larger_ones(kind: Kind) -> None:
    clean, targets = log()
    noise = [replaced(clean, targets, share, kind, 1).items for share in SHARES]
    for less, more in itertools.pairwise(noise):
        changed = less != clean.items
        assert np.array_equal(less[changed], more[changed])
        assert (more != clean.items).sum() > changed.sum() > 0


def test_noise_is_keyed_by_its_seed_and_rows_do_not_depend_on_the_kind() -> None:
    clean, targets = log()
    before = clean.items.copy()
    first, again, other = (replaced(clean, targets, 0.3, "random", seed).items for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    popular = replaced(clean, targets, 0.3, "popular", 1).items
    assert np.array_equal(popular != clean.items, first != clean.items)
    assert not np.array_equal(popular, first)
    assert np.array_equal(clean.items, before), "the log itself stays"


def test_popular_items_are_drawn_by_their_rows_and_random_ones_alike() -> None:
    clean = Interactions.of(np.arange(9000), np.repeat([0, 1, 2], [6000, 2000, 1000]), 9000, 6)
    nothing = Interactions.of([], [], 9000, 6)
    drawn = {kind: np.bincount(replaced(clean, nothing, 1.0, kind, 0).items[6000:], minlength=6) for kind in KINDS}
    assert not drawn["popular"][3:].any(), "what is not in the log is not popular"
    of_twos = replaced(clean, nothing, 1.0, "popular", 0).items[8000:]  # users of item 2: 0 three times as often as 1
    assert (of_twos == 0).mean() == pytest.approx(0.75, abs=0.05)
    of_twos = replaced(clean, nothing, 1.0, "random", 0).items[8000:]
    assert np.bincount(of_twos, minlength=6)[[0, 1, 3, 4, 5]] / 1000 == pytest.approx(np.full(5, 0.2), abs=0.05)


def test_a_user_with_too_many_items_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_noise, "ROUNDS", 50)
    clean = Interactions.of([0, 1, 1, 1], [0, 0, 1, 2], 2, 5)
    with pytest.raises(ValueError, match=r"^noise: got user 1 with 3 of 5 items, takes fewer$"):
        replaced(clean, Interactions.of([], [], 2, 5), 0.1, "random", 0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ids of its own, rows in no order."""
    clean, targets = log()
    rows = [
        (100 + u, 7 * i + 1, n)
        for part in (clean, targets)
        for n, (u, i) in enumerate(zip(part.users, part.items, strict=True))
    ]
    rows[len(clean) :] = [(u, i, 10_000) for u, i, _ in rows[len(clean) :]]
    order = np.random.default_rng(0).permutation(len(rows))
    columns = zip(*(rows[n] for n in order), strict=True)
    path = tmp_path / "clean.parquet"
    pq.write_table(pa.table(dict(zip(("user_id", "item_id", "position"), map(list, columns), strict=True))), path)
    return path


def lists(path: Path) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for row in sorted(pq.read_table(path).to_pylist(), key=lambda row: row["position"]):
        found.setdefault(row["user_id"], []).append(row["item_id"])
    return found


def test_a_source_with_noise_keeps_what_is_held_out(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "noisy.parquet"
    _noise.write_source(source, 0.3, "random", 0, out)
    before, after = lists(source), lists(out)
    assert after.keys() == before.keys()
    for user, own in before.items():
        assert after[user][-2:] == own[-2:], "validation's and the test's"
        assert len(after[user]) == len(own) == len(set(after[user]))
    pairs = [(a, b) for user in before for a, b in zip(before[user][:-2], after[user][:-2], strict=True)]
    assert sum(a != b for a, b in pairs) == int(0.3 * len(pairs))


def test_histories_without_noise_in_the_ids_of_a_noisy_dataset(source: Path, tmp_path: Path) -> None:
    before, unknown = lists(source), 1 + 7 * 3
    raw_items = [item for item in np.random.default_rng(1).permutation(7 * np.arange(ITEMS) + 1).tolist() if item != unknown]
    raw_users = sorted(before, reverse=True)
    for name, raw in (("users", raw_users), ("items", raw_items)):
        (tmp_path / f"{name}.parquet").mkdir()
        pq.write_table(pa.table({"id": range(len(raw)), "raw": raw}), tmp_path / f"{name}.parquet" / "part-00000.parquet")
    read = _noise.histories(source, tmp_path)
    assert (read.num_users, read.num_items) == (len(raw_users), len(raw_items))
    assert any(unknown in own[:-1] for own in before.values())
    for user, raw in enumerate(raw_users):
        assert [raw_items[item] for item in read.items_of(user)] == [item for item in before[raw][:-1] if item != unknown]


def test_the_report_says_what_is_lost_and_by_which_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_report_sequential, "RESULTS", tmp_path)
    monkeypatch.setattr(_report_sequential, "ROOT", tmp_path)

    def quality(masked: float) -> dict[str, Any]:
        return {"masked": {"ndcg@10": masked}, "not_masked": {"ndcg@10": masked / 2}}

    model = {"label": "SASRec", "clean": [quality(0.05)], "noise": {"random": {"0.3": [quality(0.03), quality(0.05)]}}}
    still = {"label": "popular", "clean": [quality(0.0)], "noise": {"random": {"0.3": [quality(0.0)] * 2}}}
    figures = {"where": "test", "changes": ["training.epochs=7"], "shares": [0.3], "models": [model, still]}
    text = "\n".join(_report_sequential.noise({"figures": figures}))
    assert "| SASRec | random | 0.0500 | 0.0400 ± 0.0141 (-20.0%) |" in text
    assert "| SASRec | random | 0.0250 | 0.0200 ± 0.0071 (-20.0%) |" in text
    assert "| popular | random | 0.0000 | 0.0000 ± 0.0000 |" in text
    assert "Means ± standard deviations over one seed, each with 2 draws of noise." in text
    assert text.index("Seen items masked:") < text.index("0.0400") < text.index("Not masked:") < text.index("0.0200")
    assert "`training.epochs=7`" in text
    assert (tmp_path / "noise_test.png").is_file()
