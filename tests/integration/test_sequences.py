"""A sequential system through the programs: prepared with the last rows left out, trained, evaluated, recommended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from components import storage
from components.config import Recipe
from components.data import interactions
from components.evaluation.evaluate import matrix
from components.training import checkpoint
from components.training.batches import Histories
from ray_jobs import _dataflow, _evaluation, _recommendation, _training
from tests.integration import training

USERS, ITEMS = 240, 30
LEFT_OUT = {"split": {"by": "leave_one_out"}}


def write_walks(path: Path) -> Path:
    """Users walk around a circle of items, from where they please, now and then in longer steps; rows in no user's order."""
    random = np.random.default_rng(0)
    rows = []
    for user in range(USERS):
        place, when = random.integers(ITEMS), 0
        for _ in range(random.integers(4, 16)):
            rows.append((f"u{user}", f"i{place % ITEMS}", 1_000 + when))
            place, when = place + random.choice([1, 1, 1, 2]), when + int(random.integers(1, 9))
    random.shuffle(rows)
    lines = [f"{user},{item},{time}" for user, item, time in rows]
    path.write_text("user_id,item_id,timestamp\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    source = write_walks(tmp_path_factory.mktemp("log") / "walks.csv")
    columns = {"user": "user_id", "item": "item_id", "time": "timestamp"}
    return training.recipe(
        source,
        tmp_path_factory.mktemp("store"),
        data={"source": str(source), "columns": columns, **LEFT_OUT},
        encoder={"name": "sasrec", "dim": 16, "inner_dim": 32, "max_length": 6, "dropout": 0.1},
        loss={"name": "sampled_softmax", "temperature": 1.0},
        negatives=[{"name": "all_items"}],
        optimizer={"learning_rate": 0.01},
        training={"batch_size": 64, "epochs": 8, "metric": "mrr@10", "checkpoint_steps": 8},
        evaluation={"ks": [5, 10], "baselines": ["most_popular"]},
        scale={"storage_path": str(source.parent), "num_workers": 1},
    )


@pytest.fixture(scope="module")
def dataset(cluster: None, given: Recipe) -> Path:
    return _dataflow.prepare(given, report=lambda line: None)


@pytest.fixture(scope="module")
def calm(given: Recipe, dataset: Path) -> Path:
    return _training.train(given, dataset)


def test_preparation_orders_whatever_the_source_has(dataset: Path) -> None:
    """What came last is test, what came before it valid; histories ascend, also over two splits."""
    rows = {split: pq.read_table(dataset / split).to_pandas() for split in ("train", "valid", "test")}
    both = interactions.load(dataset, "train", "valid")
    for user in range(USERS):
        times = {split: rows[split][rows[split]["user"] == user]["time"].tolist() for split in rows}
        assert times["train"] == sorted(times["train"])
        assert max(times["train"]) <= times["valid"][0] <= times["test"][0]
        items = {split: rows[split][rows[split]["user"] == user]["item"].tolist() for split in rows}
        assert both.items_of(user).tolist() == items["train"] + items["valid"]


@pytest.mark.parametrize("split", ["valid", "test"])
def test_both_protocols_are_named_and_read_the_right_histories(calm: Path, given: Recipe, dataset: Path, split: str) -> None:
    _evaluation.evaluate(given, calm, dataset, split)
    folder = calm / "evaluation" / split
    said = storage.read_json(folder / "metrics.json")
    names = {"model", "most popular"}
    assert said["protocol"] == dict.fromkeys(names, "seen items masked") | {f"{n} not masked": "not masked" for n in names}
    assert set(said["metrics"]) == set(said["protocol"])
    assert (said["users"], said["users_without_history"]) == (USERS, 0)
    assert (said["targets"], said["targets_in_history"]) == (USERS, 0)
    assert said["cost"]["parameters"] == sum(p.numel() for p in checkpoint.open_run(calm, dataset).encoder.parameters())
    assert said["cost"]["training"]["epochs"] == given.training.epochs
    assert all(value > 0 for took in said["cost"]["microseconds_per_user"].values() for value in took.values())
    tracked = training.Tracked(calm)
    for name, scorer in ((f"{split}_hit@10", "model"), (f"{split}_not_masked_hit@10", "model not masked")):
        assert tracked.history(name)[-1][1] == said["metrics"][scorer]["hit@10"]
    kept = tracked.artifacts()
    assert {f"evaluation/{split}/per_user{name}.parquet" for name in ("", "_model_not_masked")} <= kept
    encoder = checkpoint.open_run(calm, dataset).encoder
    read = interactions.load(dataset, *(["train"] if split == "valid" else ["train", "valid"]))
    truth = interactions.load(dataset, split)
    for file, masked in (("per_user.parquet", True), ("per_user_model_not_masked.parquet", False)):
        table = pq.read_table(folder / file)
        assert table["user"].to_pylist() == list(range(USERS))
        for user, listed, hit, ndcg in zip(
            table["user"].to_pylist(),
            matrix(table["items"]),
            table["hit@10"].to_pylist(),
            table["ndcg@10"].to_pylist(),
            strict=True,
        ):
            scores_I = _scores(encoder, read.items_of(user)[-6:])
            (target,) = truth.items_of(user)
            if masked:
                scores_I[[item for item in read.items_of(user) if item != target]] = -np.inf
            rank = 1 + int((scores_I > scores_I[target]).sum())
            assert hit == float(rank <= 10)
            assert ndcg == pytest.approx(1 / np.log2(1 + rank) if rank <= 10 else 0.0)
            assert not masked or not set(listed) & (set(read.items_of(user)) - {target})
    assert said["metrics"]["model"]["hit@5"] > said["metrics"]["most popular"]["hit@5"] + 0.2, "it learned the walk"
    groups = storage.read_json(folder / "groups.json")["history_lengths"]
    assert set(groups) == set(said["metrics"])
    for scorer, found in groups.items():
        assert sum(group["users"] for group in found) == USERS
        whole = sum(group["users"] * group["ndcg@10"] for group in found) / USERS
        assert whole == pytest.approx(said["metrics"][scorer]["ndcg@10"], rel=1e-9)


def _scores(encoder: Any, history: np.ndarray) -> np.ndarray:
    """By the encoder itself, one history at a time."""
    with torch.no_grad():
        read = Histories(torch.from_numpy(history.astype(np.int64))[None], torch.tensor([len(history)]), first=0)
        return (encoder.items(torch.arange(encoder.num_items)).vectors @ encoder.encode(read)[0]).numpy()


def test_recommendations_read_all_that_is_known_and_repeat_nothing(calm: Path, given: Recipe, dataset: Path) -> None:
    made = _recommendation.recommend(given, calm, dataset, None, 3, "--k")
    lists = pq.read_table(sorted((calm / "recommendations").glob("*.parquet"))).to_pandas().groupby("user")
    assert made.users == USERS
    known = interactions.load(dataset, "train", "valid", "test")
    users = pq.read_table(dataset / "users.parquet").to_pandas().set_index("id")["raw"]
    items = pq.read_table(dataset / "items.parquet").to_pandas().set_index("id")["raw"]
    encoder = checkpoint.open_run(calm, dataset).encoder
    for user in range(0, USERS, 7):
        scores_I = _scores(encoder, known.items_of(user)[-6:])
        scores_I[known.items_of(user)] = -np.inf
        best = lists.get_group(users[user]).sort_values("rank")
        assert best["item"].tolist() == [items[item] for item in np.argsort(-scores_I, kind="stable")[:3]]
