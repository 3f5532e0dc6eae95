"""Registered with a real MLflow: loaded by a process without Ray, the model lists what `recommend` wrote; the gate decides."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import mlflow.artifacts
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from components import storage
from components.config import Recipe, parse
from components.data import interactions
from components.errors import InputError
from components.training import checkpoint
from ray_jobs import _dataflow, _evaluation, _recommendation, _registration, _tracking, _training
from ray_jobs._results import Registered
from tests.integration import training
from tests.integration.preparing import ROOT
from tests.integration.test_sequences import USERS, write_walks
from tests.unit.test_serving import Hostile

NAME, K = "walks", 5
FRESH = """
import json, sys
import mlflow, pandas

mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
column, rows, k = json.load(sys.stdin)
found = model.predict(pandas.DataFrame({column: rows}), params={"k": k})
import components

lists = found["items"].tolist(), found["scores"].tolist()
print(json.dumps([*lists, components.__file__, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


@dataclass
class Trained:
    """A run, evaluated and recommended by."""

    recipe: Recipe
    run: Path
    dataset: Path

    def register(self, name: str = NAME) -> Registered:
        return _registration.register(self.recipe, self.run, self.dataset, name)

    def recommended(self) -> pd.DataFrame:
        """Lists and scores by user."""
        _recommendation.recommend(self.recipe, self.run, self.dataset, None, K, "--k")
        rows = pq.read_table(sorted((self.run / "recommendations").glob("*.parquet"))).to_pandas()
        return rows.sort_values(["user", "rank"]).groupby("user")[["item", "score"]].agg(list)


@pytest.fixture(scope="module")
def walks(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    source = write_walks(tmp_path_factory.mktemp("log") / "walks.csv")
    columns = {"user": "user_id", "item": "item_id", "time": "timestamp"}
    return training.recipe(
        source,
        tmp_path_factory.mktemp("store"),
        data={"source": str(source), "columns": columns, "split": {"by": "leave_one_out"}},
        encoder={"name": "sasrec", "dim": 16, "inner_dim": 32, "max_length": 6, "dropout": 0.1},
        loss={"name": "sampled_softmax", "temperature": 1.0},
        negatives=[{"name": "all_items"}],
        optimizer={"learning_rate": 0.01},
        training={"batch_size": 64, "epochs": 6, "metric": "ndcg@10"},
        evaluation={"ks": [5, 10], "recommend_k": K},
        scale={"storage_path": str(source.parent), "num_workers": 1},
    )


def trained(recipe: Recipe) -> Trained:
    dataset = _dataflow.prepare(recipe, report=lambda line: None)
    run = _training.train(recipe, dataset)
    _evaluation.evaluate(recipe, run, dataset, "test")
    return Trained(recipe, run, dataset)


def changed(recipe: Recipe, **sections: Any) -> Recipe:
    tree = recipe.model_dump()
    return Recipe.model_validate({**tree, **{name: {**tree[name], **values} for name, values in sections.items()}})


@pytest.fixture(scope="module")
def weak(walks: Recipe) -> Trained:
    """As good as untrained."""
    return trained(changed(walks, optimizer={"learning_rate": 1e-9}, training={"epochs": 1}))


@pytest.fixture(scope="module")
def strong(walks: Recipe) -> Trained:
    return trained(walks)


@pytest.fixture(scope="module")
def elsewhere(walks: Recipe) -> Trained:
    """Of another dataset: MF, which knows users; its ids are whole numbers."""
    tree = walks.model_dump()
    rows = pd.read_csv(tree["data"]["source"])
    for name in ("user_id", "item_id"):
        rows[name] = rows[name].str[1:].astype("int64")
    source = Path(walks.scale.storage_path, "numbers.parquet")
    rows.to_parquet(source)
    return trained(
        Recipe.model_validate(
            {
                **tree,
                "data": {**tree["data"], "source": str(source)},
                "encoder": {"name": "mf", "dim": 8},
                "training": {**tree["training"], "epochs": 2},
            }
        )
    )


def client(given: Trained) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(_tracking.attach(given.run).tracking_uri)


def aliases(given: Trained) -> dict[str, str]:
    return {alias: str(version) for alias, version in client(given).get_registered_model(NAME).aliases.items()}


def fresh(folder: Path, given: Trained, uri: str, column: str, rows: list[Any]) -> tuple[list[Any], list[Any], str, list[str]]:
    """What a process of its own, without this project, gets of a registered model."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY")}
    own |= {"OMP_NUM_THREADS": "1", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    command = [sys.executable, "-c", FRESH, _tracking.attach(given.run).tracking_uri, uri]
    told = json.dumps([column, rows, K])
    done = subprocess.run(command, cwd=folder, env=own, input=told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def test_the_gate_lets_in_who_is_better_and_says_why(weak: Trained, strong: Trained, elsewhere: Trained) -> None:
    first = weak.register()
    assert (first.version, first.aliases, first.reason) == ("1", ["challenger", "champion"], "there was no champion")
    again = weak.register()
    assert (again.version, again.reason) == ("1", "it was already"), "a run has one version"

    second = strong.register()
    assert (second.version, second.aliases) == ("2", ["challenger", "champion"])
    assert aliases(strong) == {"challenger": "2", "champion": "2"}
    version = client(strong).get_model_version(NAME, "2")
    assert version.description == f"champion: {second.reason}"
    assert version.tags["gate_champion"] == "1"
    worth = [
        storage.read_json(each.run / "evaluation" / "test" / "metrics.json")["metrics"]["model"] for each in (weak, strong)
    ]
    gain = worth[1]["ndcg@10"] - worth[0]["ndcg@10"]
    assert float(version.tags["gate_ndcg_at_10_difference"]) == pytest.approx(gain, abs=1e-6)
    low, high = map(float, version.tags["gate_ndcg_at_10_interval"].split())
    assert 0 < low < gain < high

    back = weak.register()
    assert (back.version, back.aliases) == ("1", ["challenger"])
    assert back.reason.startswith("ndcg@10 is lower: -")
    assert aliases(weak) == {"challenger": "1", "champion": "2"}
    assert client(weak).get_model_version(NAME, "1").tags["gate"] == "refused"

    other = elsewhere.register()
    assert (other.version, other.aliases) == ("3", ["challenger"])
    data = storage.read_json(strong.run / storage.MANIFEST)["dataset"], elsewhere.dataset.name
    assert other.reason == (
        f"not comparable: version 2, the champion, was trained on dataset {data[0]}, {elsewhere.run.name} on {data[1]}"
    )
    assert data[0] != data[1]
    assert aliases(weak) == {"challenger": "3", "champion": "2"}


def test_a_version_leads_back_to_its_run_and_its_data(strong: Trained) -> None:
    version = client(strong).get_model_version(NAME, strong.register().version)
    about = storage.read_json(strong.run / storage.MANIFEST)
    assert version.run_id == about["mlflow_run_id"]
    run = client(strong).get_run(about["mlflow_run_id"])
    assert run.data.tags["folder"] == str(strong.run)
    (data,) = run.inputs.dataset_inputs  # pyright: ignore[reportOptionalMemberAccess]
    assert data.dataset.digest == strong.dataset.name
    assert version.tags["run"] == strong.run.name
    assert version.tags["commit"] == about["commit"] != "unknown"
    assert version.tags["dataset_fingerprint"] == strong.dataset.name == about["dataset"]
    assert version.tags["recipe_fingerprint"] == strong.recipe.fingerprint()
    assert version.tags["fitted"] == "fit on train, epoch chosen on valid, seen items masked"
    assert version.tags["protocol"] == "seen items masked"
    worth = storage.read_json(strong.run / "evaluation" / "test" / "metrics.json")["metrics"]["model"]
    assert float(version.tags["test_ndcg_at_10"]) == pytest.approx(worth["ndcg@10"], rel=1e-5)


def test_a_history_gets_elsewhere_what_recommend_wrote_here(
    strong: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered, lists = strong.register("histories"), strong.recommended()
    assert len(lists) == USERS
    users, items = (
        pq.read_table(strong.dataset / name).sort_by("id")["raw"].to_pylist() for name in ("users.parquet", "items.parquet")
    )
    known = interactions.load(strong.dataset, "train", "valid", "test")
    histories = [[items[item] for item in known.items_of(user)] for user in range(USERS)]
    found, scores, code, modules = fresh(tmp_path, strong, registered.uri, "history", histories)
    for user, got, score in zip(users, found, scores, strict=True):
        assert got == lists.loc[user, "item"]
        assert score == pytest.approx(lists.loc[user, "score"], rel=1e-5)
    assert "ray" not in modules and "torch" in modules
    assert not Path(code).is_relative_to(ROOT) and "models/histories" in code, "the code is the model's own"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", _tracking.attach(strong.run).tracking_uri)
    folder = Path(mlflow.artifacts.download_artifacts(registered.uri, dst_path=str(tmp_path / "model")))
    example: Any = mlflow.pyfunc.load_model(str(folder)).input_example
    degrees = known.item_degrees()
    for shown in example["history"]:
        assert [degrees[items.index(item)] for item in shown] == sorted(degrees, reverse=True)[: len(shown)], "nobody's own"


def test_users_get_elsewhere_what_recommend_wrote_here(elsewhere: Trained, tmp_path: Path) -> None:
    registered, lists = elsewhere.register("users"), elsewhere.recommended()
    users = lists.index.tolist()
    assert len(users) > 200 and isinstance(users[0], int), "numbers, as in the source"
    uri = f"models:/{registered.name}@champion"
    found, scores, _, modules = fresh(tmp_path, elsewhere, uri, "user", users[::-1])
    for user, got, score in zip(users[::-1], found, scores, strict=True):
        assert got == lists.loc[user, "item"]
        assert score == pytest.approx(lists.loc[user, "score"], rel=1e-6)
    assert "ray" not in modules


def test_a_model_holds_no_pickle_and_says_what_it_takes(
    elsewhere: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = elsewhere.register("users").uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", _tracking.attach(elsewhere.run).tracking_uri)
    folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path)))
    model = mlflow.pyfunc.load_model(str(folder))
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in (folder / "artifacts" / "model").iterdir()} == {
        "recipe.json",
        "model.safetensors",
        "items.parquet",
        "users.parquet",
        "seen.safetensors",
    }
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".pt", ".npy")]
    pins = (folder / "requirements.txt").read_text().split()
    assert set(pins) <= set((ROOT / "constraints.txt").read_text().lower().splitlines())
    assert any(pin.startswith("torch==") for pin in pins)
    example: Any = model.input_example
    assert list(example.columns) == ["user"]
    assert [len(found) for found in model.predict(example)["items"]] == [K] * len(example), "k is the recipe's"
    known = int(example["user"].iloc[0])
    assert len(model.predict(pd.DataFrame({"user": [known]}), params={"k": 2})["scores"][0]) == 2
    for wrong in ({"user": ["u1"]}, {"person": [known]}):
        with pytest.raises(mlflow.MlflowException):
            model.predict(pd.DataFrame(wrong))
    with pytest.raises(InputError, match="user: got -1, takes ids"):
        model.predict(pd.DataFrame({"user": np.array([known, -1])}))


def test_what_cannot_be_judged_is_refused_before_anything_is_registered(strong: Trained, tmp_path: Path) -> None:
    for wrong in ("a/b", "..", "", "x' or name like '%"):
        with pytest.raises(InputError, match=rf"^--name: got {re.escape(repr(wrong))}, takes letters"):
            strong.register(wrong)
    copy = tmp_path / strong.run.name
    shutil.copytree(strong.run, copy, ignore=shutil.ignore_patterns("evaluation"))
    with pytest.raises(InputError, match=rf"^--run: {copy} was not evaluated on test"):
        _registration.register(strong.recipe, copy, strong.dataset, "never")
    assert not client(strong).search_registered_models("name = 'never'")


def test_the_test_is_the_one_that_the_recipe_names(strong: Trained, weak: Trained) -> None:
    """Where a dataset has test_NAME, say; a champion that was registered by another test is not comparable."""
    name = "late"
    weak.register(name)
    tree = strong.recipe.model_dump(mode="json")
    given = parse({**tree, "evaluation": {**tree["evaluation"], "split": "test_late"}})
    with pytest.raises(InputError, match="was not evaluated on test_late, takes a run that was"):
        _registration.register(given, strong.run, strong.dataset, name)
    shutil.copytree(strong.run / "evaluation" / "test", strong.run / "evaluation" / "test_late")
    found = _registration.register(given, strong.run, strong.dataset, name)
    assert found.aliases == ["challenger"]
    assert "has no evaluation/test_late/metrics.json" in found.reason
    tags = client(strong).get_model_version(name, found.version).tags
    assert "test_late_ndcg_at_10" in tags
    assert "test_ndcg_at_10" not in tags


def test_a_champion_without_its_evaluation_keeps_its_place_until_it_is_registered_again(weak: Trained, strong: Trained) -> None:
    """As where MLflow was away when it was evaluated."""
    name = "alone"
    weak.register(name)
    run_id = _tracking.attach(weak.run).run_id
    kept = Path(str(client(weak).get_run(run_id).info.artifact_uri).removeprefix("file://"))
    shutil.rmtree(kept / "evaluation")
    found = strong.register(name)
    assert found.aliases == ["challenger"]
    assert "has no evaluation/test/metrics.json: register that run again" in found.reason
    assert weak.register(name).reason == "it was already"
    assert strong.register(name).aliases == ["challenger", "champion"], "it is there again"


def test_a_version_says_what_its_run_is_worth_now(strong: Trained) -> None:
    registered = strong.register("worth")
    client(strong).set_model_version_tag("worth", registered.version, "test_ndcg_at_10", "0.5")
    assert strong.register("worth").version == registered.version
    worth = storage.read_json(strong.run / "evaluation" / "test" / "metrics.json")["metrics"]["model"]["ndcg@10"]
    tags = client(strong).get_model_version("worth", registered.version).tags
    assert float(tags["test_ndcg_at_10"]) == pytest.approx(worth, rel=1e-5)


def test_a_run_whose_weights_are_a_pickle_is_refused(strong: Trained, tmp_path: Path) -> None:
    run, struck = tmp_path / strong.run.name, tmp_path / "struck"
    shutil.copytree(strong.run, run)
    about = storage.read_json(run / storage.MANIFEST)
    (run / "model" / checkpoint.MODEL).write_bytes(pickle.dumps(Hostile(struck)))
    storage.finish(run, {key: value for key, value in about.items() if key != "files"}, only=about["files"])
    with pytest.raises(InputError, match=rf"^{run}/model/{checkpoint.MODEL}: got no safetensors"):
        _registration.register(strong.recipe, run, strong.dataset, NAME)
    assert not struck.exists()


def test_a_dataset_whose_manifest_climbs_out_is_refused(strong: Trained, tmp_path: Path) -> None:
    dataset = tmp_path / strong.dataset.name
    shutil.copytree(strong.dataset, dataset)
    about = storage.read_json(dataset / storage.MANIFEST)
    (tmp_path / "secret").write_text("x")
    about["files"]["../secret"] = {"bytes": 1, "sha256": ""}
    storage.write_json(dataset / storage.MANIFEST, about)
    with pytest.raises(InputError, match=r"manifest.json lists ../secret, takes files below that folder"):
        _registration.register(strong.recipe, strong.run, dataset, NAME)


def test_the_program_registers_the_recipes_newest_run(strong: Trained, tmp_path: Path) -> None:
    file, result = training.recipe_file(tmp_path / "recipe.json", strong.recipe), tmp_path / "result.json"
    process = training.program("register", str(file), out=tmp_path / "log", HARDNEG_RESULT=str(result))
    assert training.code(process) == 0, (tmp_path / "log.err").read_text()
    made = Registered.model_validate_json(result.read_text())
    assert (made.name, made.version, made.run) == (strong.recipe.name, "1", str(strong.run))
    assert f"{strong.recipe.name} version 1 is champion: there was no champion" in (tmp_path / "log.out").read_text()
