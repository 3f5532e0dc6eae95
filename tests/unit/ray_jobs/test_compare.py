"""Runs as evaluate leaves them, compared: what is one system, what is refused, and what is said, drawn and written."""

from __future__ import annotations

import functools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib.image import imread

from components import config, storage
from components.config import Recipe
from components.data.interactions import Interactions
from components.errors import InputError
from components.evaluation import comparison
from components.evaluation.evaluate import Summary, Task, evaluate_protocols
from components.evaluation.protocols import Protocol
from components.evaluation.ranking import Ranker
from components.evaluation.scorers import Factors
from ray_jobs import _comparison, _tracking
from tests import worlds

ROOT = Path(__file__).parents[3]
USERS, ITEMS, KS = 400, 300, (5, 20)
MINUTE = 60.0
EPOCHS = 4
Make = Callable[..., Path]


@functools.cache
def log() -> tuple[np.ndarray, np.ndarray, Task]:
    """Tables of a true taste, popularity among it, and rows drawn by it: (users_UD, items_ID, task)."""
    rng = np.random.default_rng(0)
    users_UD = np.concatenate([rng.normal(size=(USERS, 8)), np.ones((USERS, 1))], axis=1)
    items_ID = np.concatenate([rng.normal(size=(ITEMS, 8)), np.linspace(-2, 2, ITEMS)[:, None]], axis=1)
    drawn = np.argsort(-(users_UD @ items_ID.T + rng.gumbel(size=(USERS, ITEMS))), axis=1)[:, :24]
    parts = [
        Interactions.of(np.repeat(np.arange(USERS), 12), part.ravel(), USERS, ITEMS) for part in np.split(drawn, 2, axis=1)
    ]
    return users_UD, items_ID, Task(*parts)


@functools.cache
def evaluated(
    noise: float, seed: int, protocol: Protocol = "masked"
) -> tuple[pa.Table, dict[str, float], dict[str, list[float]]]:
    """What a model that sees the taste through noise is worth: per user, means, and groups."""
    users_UD, items_ID, task = log()
    rng = np.random.default_rng([seed, 1])
    seen = [torch.tensor(table + noise * rng.normal(size=table.shape)) for table in (users_UD, items_ID)]
    ranker, summary = Ranker(Factors(*seen), task.seen, max(KS)), Summary(KS, task.seen.item_degrees())
    tables = [evaluate_protocols(ranker, task, tile, KS, [protocol])[protocol] for tile in range(task.num_tiles)]
    for table in tables:
        summary.add(table)
    return pa.concat_tables(tables), summary.metrics(), {str(k): summary.group_recall(k) for k in KS}


def recipe(temperature: float = 0.2, seed: int = 1, **sections: Any) -> Recipe:
    return worlds.recipe(seed=seed, loss={"name": "sampled_softmax", "temperature": temperature}, **sections)


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "RESAMPLES", 300)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A finished run, evaluated on test: its folder, under tmp_path/runs."""

    def made(
        given: Recipe, noise: float = 0.5, dataset: str = "d" * 12, split: str = "test", not_masked: float | None = None
    ) -> Path:
        runs = tmp_path / "runs"
        folder = runs / f"{given.name}-{given.fingerprint()}-{len(list(runs.glob('*')))}"
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "model.safetensors").write_bytes(b"weights")
        storage.write_text(folder / "recipe.json", given.to_json())
        metrics = {"loss": 1.0, "validation_seconds": 10.0}
        ends = [1e9 + n * MINUTE + 3600 * (n == EPOCHS - 1) for n in range(EPOCHS)]  # an hour's wait before the last epoch
        history = [{"time": end, "step": n, "metrics": metrics} for n, end in enumerate(ends, start=1)]
        _tracking.write_history(folder, history)
        about = {"kind": "run", "name": given.name, "recipe": given.fingerprint(), "dataset": dataset, "best_epoch": 2}
        about |= {"epochs": EPOCHS, "mlflow_run_id": f"{len(list(runs.glob('*'))):032x}", "commit": "abc", "finished": 1e9}
        storage.finish(folder, about, only=["recipe.json", _tracking.HISTORY, "model/model.safetensors"])
        found = {"model": evaluated(noise, given.seed)}
        if not_masked is not None:
            found["model not masked"] = evaluated(not_masked, given.seed, "not_masked")
        out = folder / "evaluation" / split
        out.mkdir(parents=True)
        for name, (table, _, _) in found.items():
            pq.write_table(table, out / f"per_user{'_model_not_masked' * (name != 'model')}.parquet")
        means = {name: own for name, (_, own, _) in found.items()}
        cost = {"parameters": 1234, "microseconds_per_user": {"model": {"encode": 5.4, "rank": 67.6}}}
        storage.write_json(out / "metrics.json", {"metrics": {**means, "ease": {}}, **({"cost": cost} if not_masked else {})})
        groups = {name: own for name, (_, _, own) in found.items()}
        storage.write_json(out / "groups.json", {"recall_contributions": {**groups, "ease": {}}})
        return folder

    return made


def compared(tmp_path: Path, *runs: Path | str, **options: Any) -> dict[str, Any]:
    given = {"split": "test", "metrics": ("recall@20", "ndcg@20"), "storage_path": str(tmp_path), "out": None, **options}
    return storage.read_json(_comparison.compare([str(run) for run in runs], **given) / "compare.json")


def test_without_a_split_it_is_that_of_the_first_runs_recipe(make: Make, tmp_path: Path) -> None:
    def late(temperature: float) -> Recipe:
        tree = recipe(temperature).model_dump(mode="json")
        return config.parse({**tree, "evaluation": {**tree["evaluation"], "split": "test_late"}})

    runs = [make(late(temperature), split="test_late") for temperature in (0.1, 0.2)]
    assert compared(tmp_path, *runs, split=None)["split"] == "test_late"
    other = make(recipe(0.3))
    with pytest.raises(InputError, match=r"^--split: got test, on which small-.* was not evaluated"):
        compared(tmp_path, other, *runs, split=None)


def test_runs_that_differ_in_their_seed_alone_are_one_system(make: Make, tmp_path: Path, capsys: Any) -> None:
    cold = [make(recipe(0.1, seed), noise=0.4) for seed in (3, 1, 2)]
    warm = [make(recipe(0.2, seed), noise=0.8) for seed in (1, 2, 3)]
    about = compared(tmp_path, warm[0], cold[0], warm[1], cold[1], cold[2], warm[2])
    assert [system["name"] for system in about["systems"]] == ["small (temperature 0.2)", "small (temperature 0.1)"]
    assert [[run["seed"] for run in system["runs"]] for system in about["systems"]] == [[1, 2, 3]] * 2
    means = {noise: [evaluated(noise, seed)[1]["recall@20"] for seed in (1, 2, 3)] for noise in (0.4, 0.8)}
    for system, noise in zip(about["systems"], (0.8, 0.4), strict=True):
        assert list(system["metrics"]["recall@20"]["by_seed"].values()) == means[noise]
        assert system["metrics"]["recall@20"]["deviation"] == pytest.approx(np.std(means[noise], ddof=1))
        assert sum(system["groups"]["mean"]) == pytest.approx(np.mean(means[noise]))
        assert len(system["groups"]["mean"]) == len(system["groups"]["deviation"]) == 10
    found = about["differences"]["small (temperature 0.1)"]["recall@20"]
    assert found["value"] == pytest.approx(np.mean(means[0.4]) - np.mean(means[0.8]))
    assert found["value"] > 0.01, "the test shows nothing where they are alike"
    for bounds in (found["over_users"], found["over_seeds_and_users"]):
        assert 0 < bounds[0] < found["value"] < bounds[1]
    said = capsys.readouterr().out
    value, low, high = (f"{number:.4f}".lstrip("0") for number in (found["value"], *found["over_users"]))
    assert re.search(rf"\+{value} .*\+{low} \+{high}\*", said)
    assert "few seeds (3)" in said


def test_what_it_leaves_and_says(make: Make, tmp_path: Path, capsys: Any) -> None:
    runs = [make(recipe(name="plain")), make(recipe(seed=2, name="plain")), make(recipe(0.3, name="warm"), noise=0.5)]
    about = compared(tmp_path, *runs)
    (folder,) = (tmp_path / "comparisons").iterdir()
    assert folder.name.startswith("plain-")
    assert {path.name for path in folder.iterdir()} == {"compare.html", "compare.json", "groups.png", "difference.png"}
    for path in folder.glob("*.png"):
        image = imread(path)[..., :3]
        assert image.shape[0] > 300
        assert (image.min(axis=-1) < 0.9).mean() > 0.01, f"{path.name} is empty"
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines()[:-1])) <= 80, "fits a terminal; a path may be longer"
    assert "…" not in said
    assert str(folder) in said
    assert "one seed: no interval over seeds" in said
    assert about["differences"]["warm"]["ndcg@20"]["over_seeds_and_users"] is None
    assert about["systems"][1]["metrics"]["recall@20"]["deviation"] is None
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    compared(tmp_path, *runs)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, "the same again"


@pytest.mark.parametrize("protocol", ["masked", "not_masked"])
def test_each_protocol_has_its_own_intervals_and_is_named(protocol: Protocol, make: Make, tmp_path: Path, capsys: Any) -> None:
    """Masked the second is better, not masked the first."""
    noise = {"masked": (0.8, 0.4), "not_masked": (0.3, 0.9)}
    runs = [make(recipe(t, 1), noise["masked"][n], not_masked=noise["not_masked"][n]) for n, t in enumerate((0.1, 0.2))]
    about = compared(tmp_path, *runs, protocol=protocol)
    means = [evaluated(each, 1, protocol)[1]["recall@20"] for each in noise[protocol]]
    found = about["differences"]["small (temperature 0.2)"]["recall@20"]
    assert found["value"] == pytest.approx(means[1] - means[0])
    assert (found["over_users"][0] > 0) if protocol == "masked" else (found["over_users"][1] < 0)
    assert sum(about["systems"][1]["groups"]["mean"]) == pytest.approx(means[1])
    words, other = ("seen items masked", "not masked") if protocol == "masked" else ("not masked", "seen items masked")
    assert about["protocol"] == words
    said = capsys.readouterr().out
    assert f"test, 400 users, {words}" in said
    assert f"recall@20, {words}" in said
    (folder,) = (tmp_path / "comparisons").iterdir()
    page = (folder / "compare.html").read_text()
    assert words in page
    chosen = "valid, seen items masked"  # the epoch's choice is told with its own
    assert chosen in page
    assert other not in page.replace(chosen, "") + said
    assert f"--protocol {protocol}" in page
    for number in ("1,234", "5", "68"):
        assert f">{number}</td>" in page, "parameters and microseconds stand beside the training's cost"
    again = compared(tmp_path, *runs, protocol="masked" if protocol == "not_masked" else "not_masked")
    assert again["protocol"] == other
    assert len(list((tmp_path / "comparisons").iterdir())) == 2, "the other protocol's page is another"


def test_a_protocol_that_an_evaluation_lacks_is_refused(make: Make, tmp_path: Path) -> None:
    runs = [make(recipe(0.1), not_masked=0.5), make(recipe(0.2))]
    with pytest.raises(InputError, match=f"^--protocol: got not_masked, by which {runs[1].name} was not .* test, takes masked"):
        compared(tmp_path, *runs, protocol="not_masked")
    assert compared(tmp_path, *runs)["systems"][1]["cost"]["parameters"] is None, "an older evaluation says no cost"


def test_an_epochs_seconds_hold_neither_its_validation_nor_a_wait(make: Make, tmp_path: Path) -> None:
    about = compared(tmp_path, make(recipe()), make(recipe(0.3)))
    cost = about["systems"][0]["cost"]
    assert cost["seconds_per_epoch"] == pytest.approx(MINUTE - 10)
    assert cost["seconds"] == pytest.approx(EPOCHS * MINUTE)
    assert (cost["epochs"], cost["best_epoch"]) == (EPOCHS, 3)


def test_names_stay_plain_where_they_differ(make: Make, tmp_path: Path) -> None:
    widths = {"scale": {"num_workers": 2}, "evaluation": {"ks": [3]}}
    runs = [make(recipe()), make(recipe(0.3, name="warm")), make(recipe(seed=2, **widths))]
    runs.append(make(recipe(0.4, name="warm", optimizer={"learning_rate": 0.5})))
    systems = compared(tmp_path, *runs)["systems"]
    assert [system["name"] for system in systems] == [
        "small",
        "warm (temperature 0.3, learning_rate 0.001)",
        "warm (temperature 0.4, learning_rate 0.5)",
    ]
    assert systems[0]["workers"] == "1, 2", "where they ran does not tell systems apart"


def test_settings_are_named_in_full_where_their_last_word_says_too_little(make: Make, tmp_path: Path) -> None:
    bsl = {"name": "bsl"}
    runs = [
        make(recipe(negatives=[{"name": "in_batch"}])),
        make(worlds.recipe(seed=1, loss=bsl, negatives=[{"name": "uniform"}])),
    ]
    names = [system["name"] for system in compared(tmp_path, *runs)["systems"]]
    assert all("loss.name " in name and "negatives.0.name " in name for name in names)
    assert len(set(names)) == 2


def test_a_run_is_named_by_folder_mlflow_id_or_page(make: Make, tmp_path: Path) -> None:
    runs = [make(recipe(temperature)) for temperature in (0.1, 0.2, 0.3)]
    ids = [storage.read_json(run / storage.MANIFEST)["mlflow_run_id"] for run in runs]
    page = f"http://mlflow:5000/#/experiments/1/runs/{ids[2]}/artifacts"
    systems = compared(tmp_path, runs[0], ids[1], page)["systems"]
    assert [system["runs"][0]["folder"] for system in systems] == list(map(str, runs))


def shuffle(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.take(np.random.default_rng(0).permutation(len(table))), path)


def test_the_order_of_rows_does_not_matter(make: Make, tmp_path: Path) -> None:
    runs = [make(recipe(0.1)), make(recipe(0.2), noise=0.6)]
    before = compared(tmp_path, *runs)["differences"]
    shuffle(runs[1] / "evaluation" / "test" / "per_user.parquet")
    assert compared(tmp_path, *runs)["differences"] == before


def test_fewer_than_two_systems_are_refused(make: Make, tmp_path: Path) -> None:
    runs = [make(recipe(seed=seed)) for seed in (1, 2)]
    with pytest.raises(InputError, match=r"^RUN: got runs of one system alone, small \(seed 1, 2\), takes runs of two systems"):
        compared(tmp_path, *runs)
    with pytest.raises(InputError, match=r"^RUN: got runs of one system alone, small \(seed 1\)"):
        compared(tmp_path, runs[0])


def test_a_run_or_a_seed_given_twice_is_refused(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, other, again = make(recipe()), make(recipe(0.3)), make(recipe())
    monkeypatch.chdir(run)
    with pytest.raises(InputError, match=f"^RUN: got {run} twice, takes each run once"):
        compared(tmp_path, run, other, ".")
    with pytest.raises(InputError, match=f"^RUN: got seed 1 of one recipe twice, {run.name} and {again.name}, takes"):
        compared(tmp_path, run, other, again)


def test_runs_of_two_datasets_are_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"^RUN: got small-.* of dataset dddddddddddd and small-.* of dataset e, takes runs of one"
    ):
        compared(tmp_path, make(recipe()), make(recipe(0.3), dataset="e"))


def test_a_run_that_was_not_evaluated_on_the_split_is_told_how_it_is(make: Make, tmp_path: Path) -> None:
    run, other = make(recipe()), make(recipe(0.3), split="valid")
    with pytest.raises(InputError, match=f"^--split: got test, on which {other.name} was not evaluated; run python") as caught:
        compared(tmp_path, run, other)
    _, _, program, path, *arguments = shlex.split(str(caught.value).partition("; ")[2])
    assert program == "-m"
    assert path == "ray_jobs.evaluate"
    assert config.load(arguments[0]) == recipe(0.3)
    assert arguments[1:] == ["--run", str(other), "--split", "test"]


@pytest.mark.parametrize("metric", ["recall@50", "items", "coverage@20"])
def test_a_metric_that_an_evaluation_lacks_is_refused(metric: str, make: Make, tmp_path: Path) -> None:
    runs = [make(recipe()), make(recipe(0.3))]
    with pytest.raises(InputError, match=f"^--metric: got {metric}, takes what .* on test has: recall@5, ndcg@5, .*map@20$"):
        compared(tmp_path, *runs, metrics=("recall@20", metric))


def test_evaluations_of_other_users_are_refused(make: Make, tmp_path: Path) -> None:
    runs = [make(recipe()), make(recipe(0.3))]
    path = runs[1] / "evaluation" / "test" / "per_user.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    with pytest.raises(InputError, match=rf"^--split: got test with {USERS - 1} users of {runs[1].name}, not the {USERS} of"):
        compared(tmp_path, *runs)


def test_files_of_two_evaluations_are_refused(make: Make, tmp_path: Path) -> None:
    runs = [make(recipe()), make(recipe(0.3))]
    pq.write_table(evaluated(0.6, 1)[0], runs[1] / "evaluation" / "test" / "per_user.parquet")
    with pytest.raises(InputError, match=f"^{runs[1]}/evaluation/test: got .* of two evaluations, .* run python -m ray_jobs"):
        compared(tmp_path, *runs)


def test_what_is_no_run_or_no_folder_is_refused(make: Make, tmp_path: Path) -> None:
    runs = [make(recipe()), make(recipe(0.3))]
    with pytest.raises(InputError, match=f"^RUN: got 'nobody', takes a run's folder or the MLflow id of a run in {tmp_path}"):
        compared(tmp_path, runs[0], "nobody")
    with pytest.raises(InputError, match=f"^run {tmp_path}: not finished or not there"):
        compared(tmp_path, runs[0], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=f"^--out: got {tmp_path}/file, takes a folder"):
        compared(tmp_path, *runs, out=str(tmp_path / "file"))


def test_it_is_a_program_that_needs_neither_ray_nor_mlflow(make: Make, tmp_path: Path) -> None:
    runs = [str(make(recipe())), str(make(recipe(0.3)))]
    program = (
        "import sys, json; from components.evaluation import comparison; comparison.RESAMPLES = 300; "
        "from ray_jobs import compare; compare.run(compare.parse(sys.argv[1:])); "
        "print(json.dumps([name for name in ('ray', 'mlflow') if name in sys.modules]))"
    )
    line = [*runs, "--metric", "hit@5", "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", program, *line], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []
    assert list(storage.read_json(tmp_path / "out" / "compare.json")["systems"][0]["metrics"]) == ["hit@5"]
    wrong = [sys.executable, "-m", "ray_jobs.compare", runs[0], runs[0]]
    done = subprocess.run(wrong, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, f"error: RUN: got {runs[0]} twice, takes each run once\n")
