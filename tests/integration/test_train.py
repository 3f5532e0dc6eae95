"""Training on a real local Ray: what a run leaves behind, and that kills of workers and drivers change no bit of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from components import storage
from components.config import Recipe
from components.errors import DivergedError, InputError
from ray_jobs import _checkpoints, _dataflow, _evaluation, _recommendation, _runs, _tracking, _training
from tests.integration import training
from tests.integration.preparing import ROOT, RULES, parts
from tests.integration.training import (
    Tracked,
    has_all_epochs,
    latest_position,
    meanwhile,
    outcome,
    program,
    recipe_file,
    reported,
    runs,
    train_workers,
    wait_for,
)


@pytest.fixture(scope="module")
def given(source: Path, store: Path) -> Recipe:
    """With a bank of which each worker keeps a share, in checkpoints too."""
    bank = {"name": "memory_bank", "size": 301, "stale": True}
    return training.recipe(source, store, negatives=[{"name": "in_batch"}, {"name": "uniform", "count": 20}, bank])


@pytest.fixture(scope="module")
def dataset(cluster: None, given: Recipe) -> Path:
    return _dataflow.prepare(given, report=lambda line: None)


@pytest.fixture(scope="module")
def scraped(given: Recipe, dataset: Path) -> tuple[Path, set[tuple[str, str, float]]]:
    """The run of a training that nothing disturbed, and the gauges that were scraped meanwhile."""
    found, ended = set(), threading.Event()

    def scrape() -> None:
        while not ended.wait(1):
            with contextlib.suppress(OSError):  # a busy machine's port may be slow; a later scrape will do
                found.update(training.gauges(given.name))

    with meanwhile(scrape):
        try:
            run = _training.train(given, dataset)
        finally:
            ended.set()
    return run, found


@pytest.fixture(scope="module")
def calm(scraped: tuple[Path, set[tuple[str, str, float]]]) -> Path:
    return scraped[0]


def under_way(store: Path, before: list[Path]) -> Path:
    """The run that has begun since, once it has checkpoints."""
    found = [run for run in runs(store) if run not in before and (run / _checkpoints.LIST).exists()]
    return found[0] if found else Path("/does/not/exist")


def test_a_run_and_what_mlflow_has_of_it(calm: Path, given: Recipe, dataset: Path) -> None:
    manifest = storage.open_finished(calm, "run")
    assert set(manifest["files"]) == {"recipe.json", "metrics.jsonl", "model/model.safetensors"}
    newest = max(path.stat().st_mtime_ns for path in calm.rglob("*") if path.is_file())
    assert (calm / storage.MANIFEST).stat().st_mtime_ns == newest, "the manifest is written last"
    assert not (calm / storage.LOCK).exists()
    assert Recipe.from_json((calm / "recipe.json").read_text()) == given
    fingerprint = storage.read_json(dataset / storage.MANIFEST)["fingerprint"]
    assert (manifest["dataset"], manifest["recipe"], manifest["epochs"]) == (fingerprint, given.fingerprint(), 8)
    history = _tracking.read_history(calm)
    assert [entry["step"] for entry in history] == list(range(1, 9))
    values = [entry["metrics"]["valid_recall@20"] for entry in history]
    assert (manifest["best_value"], manifest["best_epoch"]) == (max(values), values.index(max(values)))

    tracked = Tracked(calm)
    assert tracked.status == "FINISHED"
    assert tracked.run_id == manifest["mlflow_run_id"]
    assert training.params_of(given).items() <= tracked.run.data.params.items()
    assert tracked.run.data.params["dataset"] == fingerprint
    has_all_epochs(calm, tracked)
    assert {"seed": "0", "folder": str(calm)}.items() <= tracked.tags.items()
    log = subprocess.run(["git", "log", "--format=%H", "-n", "50"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert tracked.tags["mlflow.source.git.commit"].removesuffix("+") in log.splitlines()
    assert tracked.tags["ray_job_id"] == ray.get_runtime_context().get_job_id()
    (data,) = tracked.run.inputs.dataset_inputs
    assert (data.dataset.digest, str(dataset) in data.dataset.source) == (fingerprint, True)
    assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "training")]
    pictures = {f"dataset/report/{path.name}" for path in (dataset / storage.REPORT).iterdir()}
    assert "dataset/report/report.html" in pictures
    assert tracked.artifacts() == {"recipe.json", "dataset/manifest.json", "plots/learning_curves.png"} | pictures


def test_prometheus_sees_what_the_history_has(scraped: tuple[Path, set[tuple[str, str, float]]]) -> None:
    run, found = scraped
    metrics = {
        "ray_hardneg_rows_per_second": "rows_per_second",
        "ray_hardneg_step_seconds": "step_seconds",
        "ray_hardneg_exchange_share": "exchange_share",
        "ray_hardneg_bank_age_steps": "negatives.2_age",
    }
    assert {name for name, _, _ in found} == set(metrics)
    history = _tracking.read_history(run)
    for name, of, value in found:
        assert of == run.name
        assert value in [entry["metrics"][metrics[name]] for entry in history], name


def test_a_killed_worker_costs_nothing_but_time(calm: Path, given: Recipe, dataset: Path, store: Path, capfd: Any) -> None:
    before = runs(store)

    def kill() -> None:
        def is_mid_epoch() -> bool:
            run = under_way(store, before)
            return latest_position(run)["step"] > 0 and reported(run) >= 2

        wait_for(is_mid_epoch, "a checkpoint inside an epoch")
        train_workers()[-1].kill()

    with meanwhile(kill):
        run = _training.train(given, dataset)
    assert outcome(run) == outcome(calm)
    has_all_epochs(run, Tracked(run))
    assert "failed (" in capfd.readouterr().err, "a person was told"
    assert len(list(run.glob("checkpoint_2*"))) == 1, "nothing that the killed worker left stays"


def test_a_killed_driver_is_resumed_and_nobody_else_gets_in(
    calm: Path, given: Recipe, dataset: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a RayJob: the next try has the job's name too, and no other word of what was."""
    before = runs(store)
    own = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, _runs.ATTEMPT: "job"}
    driver = program("train", str(recipe_file(tmp_path / "r.yaml", given)), out=tmp_path / "train", **own)
    run = wait_for(lambda: (found := under_way(store, before)).exists() and found, "a run", driver)
    wait_for(lambda: reported(run) >= 2, "two epochs", driver)
    with pytest.raises(InputError, match=rf"locked by .*process {driver.pid} "):
        _training.resume(given, run)
    driver.kill()
    driver.wait()
    assert not storage.is_finished(run)
    wait_for(lambda: Tracked(run).status == "KILLED", "the guard to end the MLflow run")
    assert Tracked(run).tags["reason"] == "the driver was killed"
    (run / _checkpoints.LIST).write_text('{"ray_version"')  # the worst moment: Ray writes its list in place
    monkeypatch.setenv(_runs.ATTEMPT, "job")
    assert _training.train(given, dataset) == run
    assert [each for each in runs(store) if each not in before] == [run]
    assert run.name == f"{given.name}-{given.fingerprint()}-job"
    assert outcome(run) == outcome(calm)
    assert Tracked(run).status == "FINISHED"
    assert "reason" not in Tracked(run).tags, "it was not killed in the end"
    has_all_epochs(run, Tracked(run))
    assert _training.train(given, dataset) == run, "it is done: MLflow is sent again what it may lack, which changes nothing"
    has_all_epochs(run, Tracked(run))


def stopping_epoch(values: list[float], patience: int, min_epochs: int) -> int:
    """Epochs until `patience` validations in a row brought nothing better, `min_epochs` at least; in plain loops."""
    for epochs in range(max(1, min_epochs), len(values) + 1):
        best = max(range(epochs), key=lambda n: values[n])
        if epochs - 1 - best >= patience:
            return epochs
    return len(values) + 1


def test_each_seed_is_a_run_that_stops_early(given: Recipe, dataset: Path, store: Path, tmp_path: Path) -> None:
    """As a program, into a new database; also what it prints."""
    before = runs(store)
    limits = {"training": {"batch_size": 256, "epochs": 40, "patience": 2, "min_epochs": 5}}
    file = recipe_file(tmp_path / "r.yaml", Recipe.model_validate({**given.model_dump(), **limits}))
    own = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    changes = ("--set", "scale.num_workers=1", "--set", f"tracking.uri=sqlite:///{tmp_path}/new/mlflow.db")
    driver = program("train", str(file), "--seeds", "1", "2", *changes, out=tmp_path / "train", **own)
    assert training.code(driver) == 0, (tmp_path / "train.err").read_text()
    trained = [run for run in runs(store) if run not in before]
    assert [Tracked(run).tags["seed"] for run in trained] == ["1", "2"]
    for run in trained:
        values = [entry["metrics"]["valid_recall@20"] for entry in _tracking.read_history(run)]
        assert len(values) < 40
        assert stopping_epoch(values, patience=2, min_epochs=5) == len(values)
        assert Tracked(run).status == "FINISHED"
        assert storage.open_finished(run, "run")["best_epoch"] == values.index(max(values))
    told = training.lines(tmp_path / "train.out")
    assert [line for line in told if line.startswith("epoch ")], told
    assert len(told) == len(set(told)), "no line twice"
    warned = [line for line in training.lines(tmp_path / "train.err") if "/dev/shm" not in line]  # Ray's, where that is small
    assert warned == [], "no library's warning"


def test_what_cannot_be_placed_is_refused_at_once(given: Recipe, dataset: Path, store: Path) -> None:
    before = runs(store)
    for scale in ({"num_workers": 64}, {"num_workers": 1, "cpus_per_worker": 64}):
        wide = given.model_copy(update={"scale": given.scale.model_copy(update=scale)})
        with pytest.raises(InputError, match=rf"scale.num_workers: got {scale['num_workers']} of .*takes at most"):
            _training.train(wide, dataset)
    assert runs(store) == before


def test_what_does_not_fit_a_worker_is_refused_with_the_figure(given: Recipe, dataset: Path, store: Path) -> None:
    before = runs(store)
    narrow = given.model_copy(update={"scale": given.scale.model_copy(update={"memory_per_worker_gib": 1e-4})})
    with pytest.raises(
        InputError, match=r"^scale\.memory_per_worker_gib: got 0\.0001, takes at least 0\.00\d+ for what each of 2"
    ):
        _training.train(narrow, dataset)
    assert runs(store) == before


def test_a_loss_that_diverges_fails_the_run_once(given: Recipe, dataset: Path, store: Path, capfd: Any) -> None:
    before = runs(store)
    wild = given.model_copy(update={"optimizer": given.optimizer.model_copy(update={"learning_rate": 1e38})})
    batch = r"loss is (nan|inf) on the batch of rows \d+ to \d+ in its order(, where .* are not finite)?"
    with pytest.raises(DivergedError, match=f"the ({batch}|weights are not finite, .*); try a lower optimizer.learning_rate"):
        _training.train(wild, dataset)
    (run,) = [run for run in runs(store) if run not in before]
    tracked = Tracked(run)
    assert tracked.status == "FAILED"
    assert "optimizer.learning_rate" in tracked.tags["reason"]
    assert not storage.is_finished(run)
    assert "failed (" not in capfd.readouterr().err, "no worker was tried again"


def test_a_run_is_not_evaluated_on_another_dataset(calm: Path, given: Recipe, source: Path, store: Path, dataset: Path) -> None:
    other = training.recipe(source, store, data={"source": str(source), **RULES, "k_core": {"users": 5, "items": 5}})
    another = _dataflow.prepare(other, report=lambda line: None)
    with pytest.raises(InputError, match=f"trained on dataset {dataset.name}, takes one trained on dataset {another.name}"):
        _evaluation.evaluate(other, calm, another, "test")


def test_resuming_what_was_never_started_or_from_another_recipe_is_refused(given: Recipe, calm: Path, tmp_path: Path) -> None:
    another = given.model_copy(update={"optimizer": given.optimizer.model_copy(update={"learning_rate": 0.5})})
    with pytest.raises(InputError, match=f"--resume: {calm} was started from another recipe"):
        _training.resume(another, calm)
    with pytest.raises(InputError, match=f"--resume: got {tmp_path}"):
        _training.resume(given, tmp_path)


@pytest.mark.slow
def test_an_extended_run_is_the_longer_run(given: Recipe, calm: Path, dataset: Path, tmp_path: Path) -> None:
    def shorter(**training: Any) -> Recipe:
        return given.model_copy(update={"training": given.training.model_copy(update=training)})

    short = _training.train(shorter(epochs=3), dataset)
    recipe, found = _training.extend(given.model_copy(update={"seed": 5}), short)
    assert (recipe, found) == (given, dataset)
    extended = _training.train(recipe, found, short)
    assert outcome(extended) == outcome(calm)
    has_all_epochs(extended, Tracked(extended))
    assert Tracked(extended).tags["extends"] == Tracked(short).run_id
    assert not (extended / _checkpoints.BEGUN).exists()
    assert len(_tracking.read_history(short)) == 3, "what was extended is as it was"
    with pytest.raises(InputError, match=r"^training\.epochs: got 8, takes more than the 8 of the run to extend$"):
        _training.extend(given, calm)
    forged = shutil.copytree(short, tmp_path / "forged")
    storage.write_text(forged / "recipe.json", shorter(epochs=3, validate_every=2).to_json())
    with pytest.raises(InputError, match=f"--extend: {forged} ended at epoch 3, takes one that ended at a multiple of .*, 2$"):
        _training.extend(shorter(epochs=8, validate_every=2), forged)
    storage.write_text(forged / "recipe.json", shorter(epochs=3).to_json())
    (position,) = forged.glob("checkpoint_2*/position.json")
    saved = storage.read_json(position)
    storage.write_json(position, {**saved, "position": {**saved["position"], "validations_since_best": 100}})
    with pytest.raises(InputError, match=f"--extend: {forged} ended for want of patience"):
        _training.extend(given, forged)
    shutil.rmtree(position.parent)
    with pytest.raises(InputError, match=f"--extend: {forged} has no checkpoint left"):
        _training.extend(given, forged)
    with pytest.raises(InputError, match=f"--extend: {short} is of another recipe"):
        _training.extend(shorter(batch_size=300), short)


def test_a_refit_takes_seed_and_dataset_of_the_run_that_chose(given: Recipe, calm: Path, dataset: Path) -> None:
    other_seed = given.model_copy(update={"seed": given.seed + 7})  # of which random splits are another dataset
    recipe, found = _training.refit(other_seed, calm)
    assert (recipe.seed, found) == (given.seed, dataset)
    epochs = storage.open_finished(calm, "run")["best_epoch"] + 1
    assert (recipe.training.epochs, recipe.training.fit_on, recipe.training.select_on) == (epochs, "train+valid", "none")
    warmer = given.model_copy(update={"loss": {**given.loss, "temperature": 0.3}})
    with pytest.raises(InputError, match=f"--refit: {calm} is of another recipe"):
        _training.refit(warmer, calm)


def test_runs_are_found_by_recipe_folder_and_mlflow_id(given: Recipe, calm: Path, store: Path) -> None:
    shorter = given.model_copy(update={"evaluation": given.evaluation.model_copy(update={"ks": [3]})})
    assert _runs.find(shorter, None) == _runs.find(given, None), "what comes after training is none of a run's"
    assert storage.read_json(_runs.find(given, None) / storage.MANIFEST)["recipe"] == given.fingerprint()
    assert _runs.find(given, str(calm)) == _runs.find(given, Tracked(calm).run_id) == calm
    with pytest.raises(InputError, match="--run: got 'nobody'"):
        _runs.find(given, "nobody")
    warmer = given.model_copy(update={"loss": {**given.loss, "temperature": 0.3}})
    with pytest.raises(InputError, match=f"no finished run of tiny {warmer.fingerprint()} .*of other settings: .*{calm.name}"):
        _runs.find(warmer, None)


def test_evaluate_and_recommend_as_programs(calm: Path, given: Recipe, dataset: Path, tmp_path: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    file = str(recipe_file(tmp_path / "r.yaml", given))

    def ended(name: str, *arguments: str) -> tuple[int, str]:
        process = program(name, file, "--run", *arguments, out=tmp_path / name, RAY_ADDRESS=address)
        return training.code(process), (tmp_path / f"{name}.err").read_text()

    code, said = ended("evaluate", Tracked(calm).run_id)
    assert code == 0, said
    found = storage.read_json(calm / "evaluation" / "test" / "metrics.json")
    assert set(found["metrics"]) == {"model", "most popular", "ease"}
    assert found["fitted"] == "fit on train, epoch chosen on valid, seen items masked"
    assert set(found["protocol"].values()) == {"seen items masked"}
    names = {"metrics.json", "groups.json", "per_user.parquet", "popularity_groups.png", "scores.png"}
    assert {f"evaluation/test/{name}" for name in names} <= Tracked(calm).artifacts()
    with pytest.raises(InputError, match=r"^--split: got 'train', takes one of valid, test$"):
        _evaluation.evaluate(given, calm, dataset, "train")
    users = sorted(parts(dataset / "users.parquet")["raw"])[:3]
    code, said = ended("recommend", str(calm), "--users", f"{users[2]},{users[0]}", "--k", "4")
    assert code == 0, said
    lists = parts(calm / "recommendations")
    assert lists.columns == ["user", "item", "rank", "score"]
    assert set(lists["user"]) == {users[0], users[2]}
    assert lists["rank"].to_list() == [1, 2, 3, 4] * 2
    with pytest.raises(InputError, match=r"^--users: got nobody, takes ids of users in the dataset$"):
        _recommendation.recommend(given, calm, dataset, f"{users[0]},nobody", 4, "--k")
    assert parts(calm / "recommendations").equals(lists), "a mistake leaves the lists as they were"


@pytest.fixture
def interrupted(given: Recipe, dataset: Path, store: Path, tmp_path: Path) -> Iterator[tuple[Path, Path, int]]:
    """A driver that got Ctrl-C in the middle: (its run, what it printed, its exit code)."""
    before = runs(store)
    file = recipe_file(tmp_path / "r.yaml", given)
    driver = program("train", str(file), out=tmp_path / "train", RAY_ADDRESS=ray.get_runtime_context().gcs_address)
    run = wait_for(lambda: (found := under_way(store, before)).exists() and found, "a run", driver)
    os.kill(driver.pid, signal.SIGINT)
    yield run, tmp_path / "train", training.code(driver)


@pytest.mark.slow
def test_ctrl_c_ends_the_run_as_killed_and_it_can_go_on(interrupted: tuple[Path, Path, int], given: Recipe, calm: Path) -> None:
    run, printed, code = interrupted
    assert code == 130
    assert training.lines(f"{printed}.err")[-1] == "interrupted"
    assert "Traceback" not in Path(f"{printed}.err").read_text()
    assert Tracked(run).status == "KILLED"
    _training.resume(given, run)
    assert outcome(run) == outcome(calm)
    assert Tracked(run).status == "FINISHED"
