"""Noise is as much as was asked for, touches no target, and is the same again; a model reads it and is asked the same."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import config, storage
from components.config import Columns
from components.data import interactions, splits
from components.data.interactions import Interactions
from components.negatives import check_counts
from tests.benchmarks import _noise, _plan, _programs, _report_sequential, noise
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


def prepared(folder: Path, users: list[int], items: list[int], **splits: Interactions) -> Path:
    """A dataset with these raw ids, as prepare leaves one."""
    for name, raw in (("users", users), ("items", items)):
        (folder / f"{name}.parquet").mkdir(parents=True)
        pq.write_table(pa.table({"id": range(len(raw)), "raw": raw}), folder / f"{name}.parquet" / "part-00000.parquet")
    for name, log in splits.items():
        (folder / name).mkdir()
        pq.write_table(pa.table({"user": log.users, "item": log.items}), folder / name / "part-00000.parquet")
    rows = {name: len(log) for name, log in splits.items()}
    sizes = {"num_users": len(users), "num_items": len(items), "rows": rows}
    storage.finish(folder, {"kind": "dataset", "fingerprint": folder.name, "has_time": False, **sizes})
    return folder


RAW_USERS, RAW_ITEMS = [100 + user for user in range(USERS)][::-1], [7 * item + 1 for item in range(ITEMS)]


@pytest.fixture
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log with an order, of whose users the last shares are held out; ids of its own."""
    monkeypatch.setenv("HARDNEG_CACHE", str(tmp_path / "cache"))
    rows, targets = log()
    whole = Interactions.of(np.append(rows.users, targets.users), np.append(rows.items, targets.items), USERS, ITEMS)
    codes = splits.ratio(whole.users.astype(np.int64), 0.1, 0.2, None)
    parts = {
        name: Interactions.of(whole.users[codes == code], whole.items[codes == code], USERS, ITEMS)
        for code, name in enumerate(("train", "valid", "test"))
    }
    return prepared(tmp_path / "clean", RAW_USERS, RAW_ITEMS, **parts)


def of_raw(dataset: Path, *names: str) -> dict[int, list[int]]:
    """Raw items by raw user."""
    rows = interactions.load(dataset, *names)
    return {raw: [RAW_ITEMS[item] for item in rows.items_of(user)] for user, raw in enumerate(RAW_USERS)}


@pytest.mark.parametrize("time", ["at", None])
def test_a_source_with_noise_is_cut_where_the_log_was_and_keeps_what_is_held_out(
    clean: Path, tmp_path: Path, time: str | None
) -> None:
    out = tmp_path / "made" / "noisy.parquet"
    _noise.write_source(clean, Columns(user="who", item="what", time=time), 0.3, "random", 0, out)
    table = pq.read_table(out)
    assert table.column_names == ["who", "what", time or "position"]
    found: dict[int, list[int]] = {}
    for row in sorted(table.to_pylist(), key=lambda row: row[time or "position"]):
        found.setdefault(row["who"], []).append(row["what"])
    before, after = of_raw(clean, "train"), of_raw(clean, "valid", "test")
    assert found.keys() == before.keys()
    pairs = []
    for user, own in found.items():
        assert len(set(own)) == len(own) == len(before[user]) + len(after[user]), "prepare drops none"
        assert own[len(before[user]) :] == after[user]
        held_out = splits.ratio(np.zeros(len(own), np.int64), 0.1, 0.2, None) > 0
        assert held_out.tolist() == [False] * len(before[user]) + [True] * len(after[user])
        pairs += zip(own[: len(before[user])], before[user], strict=True)
    assert sum(noisy != was for noisy, was in pairs) == int(0.3 * len(pairs)) > 0


def test_histories_without_noise_in_the_ids_of_a_noisy_dataset(clean: Path, tmp_path: Path) -> None:
    before, unknown = of_raw(clean, "train", "valid"), RAW_ITEMS[3]
    raw_items = [item for item in np.random.default_rng(1).permutation(RAW_ITEMS).tolist() if item != unknown]
    raw_users = sorted(before)
    noisy = prepared(tmp_path / "noisy", raw_users, raw_items, train=Interactions.of([], [], len(raw_users), len(raw_items)))
    read = _noise.histories(clean, noisy)
    assert (read.num_users, read.num_items) == (len(raw_users), len(raw_items))
    assert any(unknown in own for own in before.values())
    for user, raw in enumerate(raw_users):
        assert [raw_items[item] for item in read.items_of(user)] == [item for item in before[raw] if item != unknown]


@pytest.mark.parametrize("name", noise.LOGS)
def test_a_logs_models_are_of_one_dataset_and_told_at_their_cut_offs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDNEG_DATA", "/somewhere")
    asked = noise.LOGS[name]
    loaded = [config.load(_programs.recipe(recipe)) for recipe in asked.models.values()]
    assert len({each.data.model_dump_json() for each in loaded}) == 1
    assert {int(metric.partition("@")[2]) for metric in asked.metrics} <= {*loaded[0].evaluation.ks}
    assert {*noise.QUICK_MODELS} <= {*asked.models}
    assert noise.variant("test", name) in {"test", f"test_{name}"}
    planned = {f"noise {where} {name}".removesuffix(f" {noise.FIRST}") for where in ("test", "train")}
    assert planned <= {*_plan.PLANNED}
    for where in ("test", "train"):
        assert f"noise_{noise.variant(where, name)}" in {each.replace(" ", "_") for each in planned}, "where it is looked for"


def test_a_quick_looks_walks_have_items_and_rows_enough_for_every_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARDNEG_DATA", "/somewhere")
    noise._write_walks(tmp_path / "walks.parquet")
    walks = pq.read_table(tmp_path / "walks.parquet")
    items, users = (len(set(walks[name].to_pylist())) for name in ("item_id", "user_id"))
    for asked in noise.LOGS.values():
        for label in noise.QUICK_MODELS:
            check_counts(config.load(_programs.recipe(asked.models[label])).negatives, items, walks.num_rows - 3 * users)


def test_the_report_says_what_is_lost_and_by_which_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_report_sequential, "RESULTS", tmp_path)
    monkeypatch.setattr(_report_sequential, "ROOT", tmp_path)

    def quality(masked: float, metric: str = "ndcg@10") -> dict[str, Any]:
        return {"masked": {metric: masked}, "not_masked": {metric: masked / 2}}

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
    assert "## Noise in test histories of Beauty: what ndcg@10 loses" in text
    at_50 = [quality(0.5, "recall@50")]
    model = {"label": "SASRec", "clean": at_50, "noise": {"random": {"0.3": at_50}}}
    figures = {"where": "train", "log": "kuairec", "changes": [], "shares": [0.3], "models": [model]}
    text = "\n".join(_report_sequential.noise({"figures": figures}))
    assert "## Noise in train histories of KuaiRec: what recall@50 loses" in text
    assert (tmp_path / "noise_train_kuairec.png").is_file()
