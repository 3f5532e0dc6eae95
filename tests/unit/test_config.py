"""A recipe's mistakes: the full path, the value, what is accepted."""

from __future__ import annotations

import fnmatch
import pickle
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from components import config
from components.errors import InputError
from components.split_rules import Split

GOOD: dict[str, Any] = {
    "name": "small",
    "data": {"source": "log.csv"},
    "encoder": {"name": "mf"},
    "loss": {"name": "sampled_softmax"},
    "negatives": [{"name": "in_batch"}, {"name": "uniform"}],
}


def changed(key: str, value: Any) -> dict[str, Any]:
    """A deep copy of GOOD with one dotted key set."""
    tree = config.parse(GOOD).model_dump(mode="json")
    node: Any = tree
    *parents, leaf = key.split(".")
    for name in parents:
        node = node[int(name)] if isinstance(node, list) else node[name]
    node[int(leaf) if isinstance(node, list) else leaf] = value
    return tree


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("loss.temperature", 0, "loss.temperature: got 0, takes a number > 0"),
        ("loss.temperature", 1e-9, "loss.temperature: got 1e-09, takes a number >= 0.0001"),
        ("loss.temperature", -0.1, "loss.temperature: got -0.1, takes a number > 0"),
        ("loss.temperature", "hot", "loss.temperature: got 'hot', takes a finite number"),
        ("loss.temperature", float("nan"), "loss.temperature: got nan, takes a finite number"),
        ("loss.temperature", "0.1", "loss.temperature: got '0.1', takes a finite number"),
        ("loss.temperature", True, "loss.temperature: got True, takes a finite number"),
        ("loss.logq", 1, "loss.logq: got 1, takes true or false"),
        ("training.epochs", "7", "training.epochs: got '7', takes a whole number"),
        ("scale.use_gpu", "yes", "scale.use_gpu: got 'yes', takes true or false"),
        ("loss.heat", 1, "loss.heat: unknown key (got 1)"),
        ("loss.name", "sofmax", "loss.name: got 'sofmax', takes one of *sampled_softmax*"),
        ("encoder.dropout", 1, "encoder.dropout: got 1, takes a number < 1"),
        ("optimizer.clip_norm", 0, "optimizer.clip_norm: got 0, takes a number > 0"),
        ("encoder.init", "ones", "encoder.init: got 'ones', takes 'xavier_uniform', 'xavier_normal' or 'normal'"),
        ("negatives.1.count", 0, "negatives.1.count: got 0, takes a number >= 1"),
        ("negatives.1.count", 2.5, "negatives.1.count: got 2.5, takes a whole number"),
        ("negatives", [], "negatives: got [], takes at least 1"),
        ("training.batch_size", -1, "training.batch_size: got -1, takes a number >= 1"),
        ("training.batchsize", 5, "training.batchsize: unknown key (got 5)"),
        (
            "training.metric",
            "auc",
            "training.metric: got 'auc', takes recall, ndcg, hit, precision, mrr or map at a K, as recall@20",
        ),
        ("evaluation.ks", [], "evaluation.ks: got [], takes at least 1"),
        ("evaluation.split", "valid", "evaluation.split: got 'valid', takes test or test_NAME"),
        ("data.keep", [{"column": "rating"}], "data.keep.0: got {'column': 'rating'}, takes at_least or above (a number)"),
        (
            "data.split",
            {"by": "luck"},
            "data.split: got {'by': 'luck'}, takes by: one of ratio, leave_one_out, given, temporal, shifted",
        ),
        ("data.split", {"by": "temporal"}, "data.split.by: got 'temporal', takes * where data.columns.time is not given"),
        ("data.split", {"by": "shifted", "gammas": [2, 2]}, "data.split.gammas: got [2, 2], takes each gamma once"),
        ("data.split", {"by": "shifted", "each": 0.3}, "data.split: got *, takes shares * whose sum is < 1"),
        (
            "data",
            {"source": "a", "columns": {"time": "t"}, "split": {"by": "temporal", "test_from": 5}},
            "data.split: got *, takes valid_from and test_from together",
        ),
        (
            "data",
            {"source": "a", "columns": {"time": "t"}, "split": {"by": "temporal", "valid_from": [1], "test_from": 5}},
            "data.split.valid_from: got [1], takes a finite number, as data.time_units leaves them *, or an ISO date *",
        ),
        (
            "data",
            {"source": "a", "columns": {"time": "t"}, "split": {"by": "temporal", "valid_from": 1, "test_from": float("nan")}},
            "data.split.test_from: got nan, takes a finite number, *",
        ),
        (
            "data",
            {"source": "a", "columns": {"time": "t"}, "split": {"by": "temporal", "valid_from": float("-inf"), "test_from": 5}},
            "data.split.valid_from: got -inf, takes a finite number, *",
        ),
        ("data.split.valid", 2, "data.split.valid: got 2, takes a number < 1"),
        ("data.split", {"by": "leave_one_out", "valid": 0.1}, "data.split.valid: unknown key (got 0.1)"),
        (
            "data.source",
            5,
            "data.source: got 5, takes a path, a list of paths, or a mapping of train, valid, test, valid_NAME *",
        ),
        ("data.source", {"tset": "a"}, "data.source: got {'tset': 'a'}, takes a path, a list of paths, or a mapping *"),
        ("data.source", "gs://bucket/log", "data.source: got 'gs://bucket/log', takes a path of *, or s3://bucket/prefix"),
        ("data.source", "s3://B/log", "data: got s3:// and after it what is no bucket's name, takes s3://bucket/prefix; *"),
        ("scale.num_workers", 0, "scale.num_workers: got 0, takes a number >= 1"),
        ("scale.driver_cpus", -1, "scale.driver_cpus: got -1, takes a number >= 0"),
        ("scale.memory_per_worker_gib", 0, "scale.memory_per_worker_gib: got 0, takes a number > 0"),
        (
            "scale.storage_path",
            "s3://bucket/x",
            "scale.storage_path: got 's3://bucket/x', takes a path of a local or shared file system; * S3 too: scale.datasets",
        ),
        ("scale.datasets", "/shared", "scale.datasets: got '/shared', takes s3://bucket/prefix; by default datasets are in *"),
        ("scale.datasets", "s3://bucket/x//y", "scale.datasets: got 's3://bucket/x//y', takes s3://bucket/prefix *"),
        ("data.columns.item", "user_id", "data.columns.item: got 'user_id', takes another column than data.columns.user"),
        (
            "data.split",
            {"by": "ratio", "order": "time"},
            "data.split.order: got 'time', takes random where data.columns.time is not given",
        ),
        ("data.split.valid", 0.0, "training.select_on: got 'valid', takes test or none where data.split.valid is 0"),
        ("training.select_on", "valid_", "training.select_on: got 'valid_', takes valid, valid_NAME, test or none"),
        ("training.select_on", "test_gamma10", "training.select_on: got 'test_gamma10', takes valid, valid_NAME, test or none"),
        (
            "training.select_on",
            "valid_shifted",
            "training.select_on: got 'valid_shifted', takes valid or test or none under data.split ratio",
        ),
        ("training.min_epochs", 101, "training.min_epochs: got 101, takes at most training.epochs, 100"),
        (
            "tracking.uri",
            "sqlite:///$NO_SUCH_FOLDER/a.db",
            "tracking.uri: got 'sqlite:///$NO_SUCH_FOLDER/a.db', takes a path *",
        ),
        ("name", "Bad Name", "name: got 'Bad Name', takes lower-case letters, digits and _"),
        ("speed", 9, "speed: unknown key (got 9)"),
    ],
)
def test_one_wrong_key(key: str, value: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        config.parse(changed(key, value))
    assert fnmatch.fnmatchcase(str(caught.value), message.replace("[", "[[]"))
    assert "\n" not in str(caught.value)


def test_every_wrong_key_is_named_at_once() -> None:
    with pytest.raises(InputError) as caught:
        config.parse({**GOOD, "loss": {"name": "sampled_softmax", "temperature": -1}, "seed": "one", "extra": 1})
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["seed", "loss.temperature", "extra"]


def test_every_wrong_negative_is_named() -> None:
    with pytest.raises(InputError) as caught:
        config.parse({**GOOD, "negatives": [{"name": "in_batch", "count": 3}, {"name": "uniform"}, {"name": "random"}]})
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == ["negatives.0.count", "negatives.2.name"]


def test_rows_of_the_test_split_to_choose_on() -> None:
    data = {"source": "log.csv", "split": {"by": "ratio", "test": 0.0}}
    with pytest.raises(InputError, match=r"^training\.select_on: got 'test', takes valid or none where data\.split\.test is 0"):
        config.parse({**GOOD, "data": data, "training": {"select_on": "test"}})


def test_a_refit_may_be_shorter_than_the_least_that_a_search_for_its_length_takes() -> None:
    training = {"fit_on": "train+valid", "select_on": "none", "epochs": 3, "min_epochs": 5}
    assert config.parse({**GOOD, "training": training}).training.epochs == 3


@pytest.mark.parametrize(
    ("uri", "wanted"),
    [
        ("sqlite:///runs/a.db", "sqlite:///{here}/runs/a.db"),
        ("sqlite:////runs/a.db", "sqlite:////runs/a.db"),
        ("http://mlflow:5000", "http://mlflow:5000"),
        (None, None),
    ],
)
def test_a_tracking_file_is_where_it_is_whatever_the_working_directory(uri: str | None, wanted: str | None) -> None:
    recipe = config.parse({**GOOD, "tracking": {"uri": uri}})
    assert recipe.tracking.uri == (wanted and wanted.format(here=Path.cwd()))
    assert config.Recipe.from_json(recipe.to_json()) == recipe


def test_a_split_without_a_rule_is_told_every_rule() -> None:
    rules = {get_args(rule.model_fields["by"].annotation)[0] for rule in get_args(Split)}
    assert len(rules) >= 5
    with pytest.raises(InputError, match=r"^data\.split: got \{'valid': 0\.1\}, takes by: ") as raised:
        config.parse({**GOOD, "data": {"source": "log.csv", "split": {"valid": 0.1}}})
    assert rules <= set(re.findall(r"\w+", str(raised.value).partition("takes by: ")[2]))


def test_a_missing_section() -> None:
    with pytest.raises(InputError, match="^data: missing"):
        config.parse({key: value for key, value in GOOD.items() if key != "data"})


@pytest.mark.parametrize("chosen", ["valid", "valid_late"])
def test_valid_rows_are_not_trained_on_and_chosen_on(chosen: str) -> None:
    """Nor is another validation chosen on then, whose lists would be headed by the rows of valid."""
    data = {"source": "log.csv", "split": {"by": "given"}}
    with pytest.raises(InputError, match="select_on: test or none where fit_on is train\\+valid"):
        config.parse({**GOOD, "data": data, "training": {"fit_on": "train+valid", "select_on": chosen}})


@pytest.mark.parametrize(
    ("test", "takes"), [(0.1, "valid or test or valid_shifted or none"), (0.0, "valid or valid_shifted or none")]
)
def test_a_shifted_split_has_two_validations_to_choose_on(test: float, takes: str) -> None:
    def parsed(chosen: str) -> config.Recipe:
        split = {"by": "shifted", "test": test}
        return config.parse({**GOOD, "data": {"source": "log.csv", "split": split}, "training": {"select_on": chosen}})

    assert [parsed(name).training.chosen_on for name in ("valid", "valid_shifted", "none")] == [
        "valid, seen items masked",
        "valid_shifted, seen items masked",
        "none",
    ]
    with pytest.raises(InputError, match=f"^training.select_on: got 'valid_late', takes {takes} under data.split shifted$"):
        parsed("valid_late")


def test_yaml_as_people_write_it(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(
        "name: small\ndata: {source: log.csv}\nencoder: {name: mf}\nloss: {name: sampled_softmax, temperature: 1e-1}\n"
        "negatives: [{name: uniform}]\noptimizer: {l2: {weight: 1e-4, on: rows}}\n"
    )
    recipe = config.load(path, ["training.epochs=7", "negatives.0.count=33", "encoder.dropout=1e-1"])
    assert recipe.optimizer.l2.on == "rows"
    assert recipe.optimizer.l2.weight == 1e-4
    assert recipe.loss["temperature"] == 0.1
    assert recipe.training.epochs == 7
    assert recipe.negatives[0]["count"] == 33
    assert recipe.encoder["dropout"] == 0.1
    assert Path(str(recipe.data.source)).is_absolute()
    assert config.Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs", "--set: got 'training.epochs', takes KEY=VALUE"),
        ("negatives.5.count=1", "--set negatives.5.count: got '5', takes a position from 0 to 0"),
        ("negatives.²=1", "--set negatives.²: got '²', takes a position from 0 to 0"),
        ("name.first=1", "--set name.first: name is 'small', which has no keys"),
        ("loss.temperature=[", "--set loss.temperature: got '[', takes a YAML value"),
    ],
)
def test_wrong_overrides(override: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text("name: small\ndata: {source: a}\nencoder: {name: mf}\nloss: {name: bpr}\nnegatives: [{name: uniform}]\n")
    with pytest.raises(InputError) as caught:
        config.load(path, [override])
    assert str(caught.value).startswith(message)


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere.yaml: No such file"):
        config.load(tmp_path / "nowhere.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(InputError, match="list.yaml: got list, takes a mapping"):
        config.load(tmp_path / "list.yaml")
    (tmp_path / "latin.yaml").write_bytes("name: é\n".encode("latin-1"))
    with pytest.raises(InputError, match="latin.yaml: not UTF-8"):
        config.load(tmp_path / "latin.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(InputError, match="broken.yaml: not YAML"):
        config.load(tmp_path / "broken.yaml")


def test_an_unset_variable_in_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_FOLDER", raising=False)
    with pytest.raises(InputError, match="data.source.*NO_SUCH_FOLDER is not"):
        config.parse({**GOOD, "data": {"source": "${NO_SUCH_FOLDER}/log.csv"}})


def test_the_fingerprint_is_of_what_is_computed() -> None:
    base = config.parse(GOOD)
    assert config.parse({**GOOD, "name": "other", "scale": {"num_workers": 7}}).fingerprint() == base.fingerprint()
    assert config.parse({**GOOD, "seed": 1}).fingerprint() != base.fingerprint()
    assert config.parse({**GOOD, "encoder": {"name": "mf", "dim": 32}}).fingerprint() != base.fingerprint()
    assert config.parse({**GOOD, "encoder": {"name": "mf", "dim": 64}}).fingerprint() == base.fingerprint()  # the default, said


def test_a_part_is_tracked_with_every_argument() -> None:
    recipe = config.parse(GOOD)
    assert recipe.loss == {"name": "sampled_softmax", "temperature": 0.1, "logq": False}
    assert recipe.negatives[1]["exclude"] == "seen"


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(InputError("a: got 1, takes 2")))
    assert isinstance(error, InputError)
    assert str(error) == "a: got 1, takes 2"
