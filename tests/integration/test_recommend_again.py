"""Recommendations that were interrupted: what is there is not scored again, and the bytes are those of one that was not."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from components import catalog, storage
from components.config import Scale
from components.data import interactions
from components.data.interactions import Interactions
from components.evaluation.ranking import TILE
from components.evaluation.scorers import Factors
from components.training import checkpoint
from ray_jobs import _dataflow, _ranking, _recommendation, _tracking
from tests.integration import training
from tests.integration.training import kill_group, wait_for
from tests.unit.evaluation.worlds import world

USERS, K = 9 * TILE + 100, 7
MANY = 20_000  # users of a program that has to be killed in time
RAW_ITEMS = pa.array([f"item-{n}" for n in range(300)])


class Broken(Factors):
    """Fails at the tile that has a user."""

    def __init__(self, whole: Factors, at: int) -> None:
        super().__init__(whole.users_UD, whole.items_ID)
        self.at = at

    def queries(self, users_T: Tensor) -> Tensor:
        if self.at in users_T.tolist():
            raise RuntimeError(f"no user {self.at}")
        return super().queries(users_T)


def load(at: int | None = None) -> tuple[Factors, Interactions]:
    factors, task = world(USERS, len(RAW_ITEMS), width=16)
    return (factors if at is None else Broken(factors, at)), task.seen


def recommend(folder: Path, workers: int = 1, at: int | None = None) -> int:
    """Into folder/lists, with records in folder/done."""
    for name in ("lists", "done"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    users = folder / "users.parquet"
    pq.write_table(pa.table({"id": pa.array(range(USERS), pa.int32()), "raw": [f"u{n}" for n in range(USERS)]}), users)
    scale, how = Scale(num_workers=workers), functools.partial(load, at)
    return _ranking.recommend(how, [users], RAW_ITEMS, K, scale, folder / "lists", folder / "done")


def contents(folder: Path) -> dict[str, bytes]:
    return {part.name: part.read_bytes() for part in (folder / "lists").glob("*.parquet")}


def written(folder: Path) -> dict[str, tuple[int, int]]:
    """What tells whether a part was written again, by name, of those that have a record."""
    found = {}
    for record in sorted((folder / "done").glob("*.json")):
        stat = (folder / "lists" / f"{record.stem}.parquet").stat()
        found[f"{record.stem}.parquet"] = (stat.st_ino, stat.st_mtime_ns)
    return found


@pytest.fixture(scope="module")
def undisturbed(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert recommend(folder) == K * USERS
    assert len(contents(folder)) == len(written(folder)) >= 8
    return folder


def test_a_part_that_is_there_is_not_scored_again(undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=f"no user {USERS - 1}"):
        recommend(tmp_path, at=USERS - 1)
    before = written(tmp_path)
    assert 0 < len(before) < len(contents(undisturbed))
    assert recommend(tmp_path, workers=3) == K * USERS, "those that were there count too"
    after = written(tmp_path)
    assert {name: after[name] for name in before} == before
    assert contents(tmp_path) == contents(undisturbed), "of one worker, then of three"
    assert recommend(tmp_path, at=0) == K * USERS, "nothing is scored, so nothing fails"


def test_a_part_that_is_not_what_its_record_says_is_scored_again(undisturbed: Path, tmp_path: Path) -> None:
    recommend(tmp_path)
    cut, gone, unrecorded, *kept = sorted(contents(tmp_path))
    lists, before = tmp_path / "lists", written(tmp_path)
    (lists / cut).write_bytes((lists / cut).read_bytes()[:-1])
    (lists / gone).unlink()
    (tmp_path / "done" / f"{Path(unrecorded).stem}.json").unlink()
    assert recommend(tmp_path) == K * USERS
    assert contents(tmp_path) == contents(undisturbed)
    after = written(tmp_path)
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert after[unrecorded] != before[unrecorded]


def test_a_record_says_what_its_part_has(undisturbed: Path) -> None:
    for name in contents(undisturbed):
        record = storage.read_json(undisturbed / "done" / f"{Path(name).stem}.json")
        part = undisturbed / "lists" / name
        assert record == {"rows": pq.read_metadata(part).num_rows, "sha256": storage.digest(part)}


def test_another_request_does_not_go_on_with_these_parts(tmp_path: Path) -> None:
    asked = [["run", "dataset"], None, K, 1]
    own = _recommendation._own(tmp_path, asked)
    (own / "done").mkdir(parents=True)
    assert _recommendation._own(tmp_path, json.loads(json.dumps(asked))) == own
    assert (own / "done").is_dir(), "the same request finds what it left"
    for place, other in enumerate((["run", "other dataset"], [4, 2], K + 1, 2)):
        changed = [*asked[:place], other, *asked[place + 1 :]]
        assert _recommendation._own(tmp_path, changed) != own
    assert not own.exists(), "and no other does"


@pytest.fixture(scope="module")
def untrained(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe's file, and the folder of a run as training leaves it, but for training; of many users and items."""
    folder = tmp_path_factory.mktemp("untrained")
    users, items = np.repeat(np.arange(MANY), 4), np.random.default_rng(0).integers(0, 2000, 4 * MANY)
    log, head = folder / "log.csv", "user_id,item_id"
    np.savetxt(log, np.stack([users, items], axis=1), fmt="%d", delimiter=",", header=head, comments="")
    data = {"source": str(log), "split": {"by": "ratio", "valid": 0.25, "test": 0.25, "order": "random"}}
    scale = {"storage_path": str(folder / "store"), "num_workers": 1}
    recipe = training.recipe(log, folder / "store", data=data, scale=scale)
    dataset = _dataflow.prepare(recipe, report=lambda line: None)
    run = folder / "store" / "runs" / "untrained"
    (run / "model").mkdir(parents=True)
    storage.write_text(run / "recipe.json", recipe.to_json())
    storage.write_json(run / _tracking.LINKS, {"tracking_uri": f"sqlite:///{folder}/mlflow.db", "run_id": "0" * 32})
    encoder = catalog.build("encoder", recipe.encoder, interactions.load(dataset, "train"), torch.Generator().manual_seed(0))
    checkpoint.save_model(run / "model" / checkpoint.MODEL, encoder)
    about = {"kind": "run", "name": recipe.name, "dataset": storage.open_finished(dataset, "dataset")["fingerprint"]}
    storage.finish(run, about, only=["recipe.json", f"model/{checkpoint.MODEL}"])
    return training.recipe_file(folder / "recipe.json", recipe), run


@pytest.mark.slow
def test_a_killed_program_goes_on(untrained: tuple[Path, Path], tmp_path: Path) -> None:
    file, run = untrained
    line, out = ["recommend", str(file), "--run", str(run), "--k", "200"], run / "recommendations"  # long: to write them takes
    process = training.program(*line, out=tmp_path / "killed")
    try:
        wait_for(lambda: len(list(run.glob(".recommending/*/done/*.json"))) >= 2, "two parts", process)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        (own,) = (path for path in (run / ".recommending").iterdir() if path.is_dir())
        before = written(own)  # its actors may be at work for some seconds more
        assert not out.exists()
        assert training.code(training.program(*line, out=tmp_path / "again")) == 0, (tmp_path / "again.err").read_text()
    finally:
        kill_group(process)
    ((kept, all_parts),) = re.findall(r"(\d+) of (\d+) parts are there from before", (tmp_path / "again.out").read_text())
    assert 2 <= len(before) <= int(kept) < int(all_parts)
    after = {part.name: (part.stat().st_ino, part.stat().st_mtime_ns) for part in out.glob("*.parquet")}
    assert {name: after[name] for name in before} == before
    found = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(found) == int(all_parts) + 1, "the parts and their manifest"
    assert training.code(training.program(*line, out=tmp_path / "undisturbed")) == 0
    assert "from before" not in (tmp_path / "undisturbed.out").read_text()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == found
