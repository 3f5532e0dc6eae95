from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import storage
from components.errors import InputError
from components.evaluation import splits

ROWS = {
    "train": [(0, 0), (0, 1), (1, 2)],
    "valid": [(0, 2), (1, 0)],
    "test": [(0, 3), (1, 3)],
    "test_ood": [(0, 4), (1, 2)],
    "valid_ood": [(0, 0), (1, 4)],
}


@pytest.fixture
def dataset(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HARDNEG_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "dataset"
    for name, rows in ROWS.items():
        (folder / name).mkdir(parents=True)
        table = pa.table(
            {"user": pa.array([u for u, _ in rows], pa.int32()), "item": pa.array([i for _, i in rows], pa.int32())}
        )
        pq.write_table(table, folder / name / "part-00000.parquet")
    counts = {name: len(rows) for name, rows in ROWS.items()}
    storage.finish(
        folder,
        {
            "kind": "dataset",
            "fingerprint": "f",
            "has_time": False,
            "num_users": 2,
            "num_items": 5,
            "rows": {**counts, "empty": 0},
        },
    )
    return folder


@pytest.mark.parametrize("name", ["../secret", "test_/../../secret", "absolute", "valid_a.b", ""])
def test_a_manifest_whose_splits_lead_elsewhere_is_refused(dataset: Path, name: str) -> None:
    elsewhere = dataset.parent / "secret"
    elsewhere.mkdir()
    (dataset / "train" / "part-00000.parquet").rename(elsewhere / "part-00000.parquet")
    (dataset / "train").rmdir()
    about = storage.read_json(dataset / storage.MANIFEST)
    listed = str(elsewhere) if name == "absolute" else name
    del about["files"]["train/part-00000.parquet"], about["rows"]["train"]
    storage.write_json(dataset / storage.MANIFEST, about | {"rows": {**about["rows"], listed: 3}})
    said = rf"^dataset {dataset}: manifest.json has rows of {listed}, takes train, valid, test"
    for read in (splits.known, lambda found: splits.task_of(found, "test"), lambda found: splits.task_of(found, listed)):
        with pytest.raises(InputError, match=said):
            read(dataset)
    assert not (dataset.parent / "cache").exists(), "nothing was read or written"


@pytest.mark.parametrize(
    ("split", "seen"),
    [
        ("valid", ["train"]),
        ("valid_ood", ["train"]),
        ("test", ["train", "valid", "test_ood", "valid_ood"]),
        ("test_ood", ["train", "valid", "test", "valid_ood"]),
    ],
)
def test_what_is_hidden_when_a_split_is_asked_for(dataset, split, seen):
    task = splits.task_of(dataset, split)
    for user in (0, 1):
        assert set(task.truth.items_of(user)) == {i for u, i in ROWS[split] if u == user}
        assert set(task.seen.items_of(user)) == {i for name in seen for u, i in ROWS[name] if u == user}


def test_everything_is_known_to_a_recommendation(dataset):
    assert len(splits.known(dataset)) == sum(map(len, ROWS.values()))


@pytest.mark.parametrize(("split", "read"), [("valid", ["train"]), ("valid_ood", ["train"]), ("test_ood", ["train", "valid"])])
def test_what_is_read_of_a_user_is_no_test(dataset, split, read):
    task = splits.task_of(dataset, split)
    for user in (0, 1):
        assert task.history.items_of(user).tolist() == [i for name in read for u, i in ROWS[name] if u == user]


def test_without_masking_the_question_and_what_is_read_stay(dataset):
    task = splits.task_of(dataset, "test")
    free = splits.unmasked(task)
    assert len(free.seen) == 0
    assert (free.seen.num_users, free.seen.num_items) == (2, 5)
    assert free.truth is task.truth
    assert free.history is task.history
    assert len(splits.unmasked(splits.task_of(dataset, "valid")).history) == 3


@pytest.mark.parametrize(
    ("split", "has_time", "ordered"),
    [
        ({"by": "leave_one_out"}, False, True),
        ({"by": "given"}, True, True),
        ({"by": "given"}, False, False),
        ({"by": "ratio", "order": "time"}, True, True),
        ({"by": "given", "valid_fraction": 0.1}, True, False),
        ({"by": "ratio", "order": "random"}, True, False),
        ({"by": "temporal"}, True, True),
        ({"by": "shifted"}, True, False),
    ],
)
def test_held_out_rows_come_after_what_is_seen(tmp_path, split, has_time, ordered):
    storage.finish(tmp_path, {"kind": "dataset", "has_time": has_time, "rules": {"split": split}})
    assert splits.is_ordered(tmp_path) == ordered


@pytest.mark.parametrize("split", ["train", "empty", "tset"])
def test_a_split_that_is_not_held_out_is_refused(dataset, split):
    with pytest.raises(InputError, match=f"{split!r}.*valid, test, test_ood"):
        splits.task_of(dataset, split)
