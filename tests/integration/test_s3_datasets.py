"""Datasets kept in S3, on moto's real server: the manifest last, brought whole or not at all, trouble said before the work."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components import config, plan, storage
from components.config import Recipe
from components.data import interactions, manifest, remote
from components.data.locations import StorageError
from components.errors import InputError
from ray_jobs import _dataflow, _program, _remote, _tracking, _training
from ray_jobs import prepare as program
from tests.inline import inline
from tests.integration.preparing import ROOT, RULES, check_layout, contents, recipe_text, write_log
from tests.integration.s3 import BUCKET, Server, proxy, server, use

READS = ["s3:ListBucket", "s3:HeadBucket", "s3:GetObject"]  # AWS takes ListBucket for HeadBucket, which moto asks for
OPEN = """
import sys
from pathlib import Path
from components import config
from components.data import interactions, manifest
from ray_jobs import _remote
recipe = config.load(sys.argv[1])
log = interactions.load(_remote.bring(recipe, manifest.dataset_path(recipe)), "train")
print(len(log), int(log.items.sum()))
"""
UPLOAD = """
import sys
from pathlib import Path
from components.data import remote
remote.upload(Path(sys.argv[1]), sys.argv[2], lambda _: None)
"""


def text_of(folder: Path, place: str, storage_path: str = "store") -> str:
    """A recipe of the log in a folder, with a storage path in it, and datasets at a place."""
    tree = json.loads(recipe_text(folder / "log.csv", folder / storage_path, **RULES))
    tree["training"] = {"metric": "recall@5"}
    tree["evaluation"] = {"ks": [5], "recommend_k": 5}
    tree["scale"]["datasets"] = place
    return json.dumps(tree)


def recipe_of(folder: Path, place: str, storage_path: str = "store") -> Recipe:
    return config.parse(json.loads(text_of(folder, place, storage_path)))


def prepare(recipe: Recipe) -> None:
    """As the program does, with Ray's part done inline."""
    assert _dataflow
    with inline(), pytest.MonkeyPatch.context() as patched:
        patched.setattr(_program, "cluster", contextlib.nullcontext)
        program.run(recipe, argparse.Namespace())


def policy(*actions: str) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": list(actions), "Resource": "*"}]})


@pytest.fixture(scope="module")
def s3() -> Iterator[Server]:
    with server() as found:
        yield found


@pytest.fixture
def own(s3: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    """The server, the environment to use it, and a cache of nobody else."""
    use(monkeypatch, {**s3.environment(), "HARDNEG_CACHE": str(tmp_path / "cache")})
    return s3


@pytest.fixture(scope="module")
def made(s3: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(the folder of the log and its storage path, a dataset that is prepared there and at s3://logs/kept)"""
    folder = tmp_path_factory.mktemp("made")
    write_log(folder / "log.csv")
    recipe = recipe_of(folder, f"s3://{BUCKET}/kept")
    with pytest.MonkeyPatch.context() as patched:
        use(patched, s3.environment())
        prepare(recipe)
    return folder, manifest.dataset_path(recipe)


def keys(s3: Server, prefix: str) -> dict[str, int]:
    found = s3.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/").get("Contents", [])
    return {each["Key"].removeprefix(f"{prefix}/"): each["Size"] for each in found}


def test_what_is_prepared_is_there_too(own: Server, made: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    folder, dataset = made
    listed = {path.relative_to(dataset).as_posix(): path.stat().st_size for path in dataset.rglob("*") if path.is_file()}
    assert keys(own, f"kept/{dataset.name}") == listed
    assert {name.partition("/")[0] for name in keys(own, "kept")} == {dataset.name, remote.PROBE}
    before = len(list(folder.rglob("*")))
    for storage_path in ("store", "elsewhere"):
        prepare(recipe_of(folder, f"s3://{BUCKET}/kept", storage_path))
        out, _ = capfd.readouterr()
        assert out == f"s3://{BUCKET}/kept/{dataset.name}: current, nothing to do\n"
    assert len(list(folder.rglob("*"))) == before, "what is current in S3 needs no storage path"


def test_what_is_on_the_storage_path_alone_is_put_there_and_not_made_again(
    own: Server, made: tuple[Path, Path], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, dataset = made
    monkeypatch.setattr(_dataflow, "prepare", lambda *_, **__: pytest.fail("it was finished"))
    prepare(recipe_of(folder, f"s3://{BUCKET}/second"))
    out, errors = capfd.readouterr()
    assert out == f"s3://{BUCKET}/second/{dataset.name}\n"
    (line,) = (line for line in errors.splitlines() if line.startswith("upload"))
    assert f"{len(contents(dataset))} files, " in line
    assert "bytes/s" in line
    assert remote.look(f"s3://{BUCKET}/second/{dataset.name}") == storage.read_json(dataset / storage.MANIFEST)


def test_a_storage_path_that_lacks_it_gets_it(own: Server, made: tuple[Path, Path]) -> None:
    folder, dataset = made
    recipe = recipe_of(folder, f"s3://{BUCKET}/kept", "third")
    told = dict(plan.of(recipe))
    assert told["sizes"].endswith(f"(prepared: s3://{BUCKET}/kept/{dataset.name})")
    assert not (folder / "third").exists(), "a plan needs its manifest alone"
    brought = _training.dataset_of(recipe)
    assert brought == folder / "third" / "datasets" / dataset.name
    check_layout(brought, storage.open_finished(brought, "dataset"))
    assert (brought / storage.MANIFEST).read_bytes() == (dataset / storage.MANIFEST).read_bytes()
    assert {name: storage.digest(brought / name) for name in contents(dataset)} == contents(dataset)
    run = folder / "run"
    run.mkdir()
    storage.write_json(run / _tracking.LINKS, {"dataset": str(brought)})
    shutil.rmtree(brought)
    assert _remote.linked(recipe, run) == brought, "and so does a run that goes on, whose dataset is gone"
    assert len(interactions.load(brought, "train")) == storage.read_json(dataset / storage.MANIFEST)["rows"]["train"]


def test_a_program_waits_for_another_that_brings_it(own: Server, made: tuple[Path, Path], tmp_path: Path) -> None:
    """As seeds of a pipeline do; in a process of its own, the node's cache being empty."""
    folder, dataset = made
    (tmp_path / "recipe.yaml").write_text(text_of(folder, f"s3://{BUCKET}/kept", "fourth"))
    command = [sys.executable, "-c", OPEN, str(tmp_path / "recipe.yaml")]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with storage.lock(folder / "fourth" / "datasets" / dataset.name):
        process = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), **pipes)
        assert process.stderr is not None
        assert process.stderr.readline().startswith(f"waiting: {folder}/fourth/datasets/{dataset.name}: locked by ")
    out, errors = process.communicate(timeout=120)
    log = interactions.load(dataset, "train")
    assert out == f"{len(log)} {log.items.sum()}\n", errors
    assert errors.startswith("fetch ")


def test_of_an_upload_that_was_killed_there_is_no_dataset(own: Server, made: tuple[Path, Path], tmp_path: Path) -> None:
    _, dataset = made
    place, reached, killed = f"s3://{BUCKET}/killed/{dataset.name}", threading.Event(), threading.Event()

    def hold(number: int) -> bool:
        if number == 9:
            reached.set()
            killed.wait(60)
        return False

    with proxy(own.url, slow=hold) as between:
        environment = {**os.environ, "AWS_ENDPOINT_URL_S3": between.url}
        process = subprocess.Popen([sys.executable, "-c", UPLOAD, str(dataset), place], cwd=ROOT, env=environment)
        try:
            assert reached.wait(60)
        finally:
            process.kill()
            process.wait()
            killed.set()
    recipe = recipe_of(made[0], f"s3://{BUCKET}/killed", "fifth")
    assert remote.look(place) is None
    with pytest.raises(InputError, match=rf"^dataset {place}: not prepared; run python -m ray_jobs\.prepare"):
        _training.dataset_of(recipe)
    remote.upload(dataset, place, lambda _: None)
    remote.fetch(place, tmp_path / "brought", lambda _: None)
    assert contents(tmp_path / "brought") == contents(dataset)


def test_slow_down_is_waited_out_both_ways(
    own: Server, made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, dataset = made
    place = f"s3://{BUCKET}/slow/{dataset.name}"
    with proxy(own.url, slow=lambda number: number % 16 == 0) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", between.url)
        remote.upload(dataset, place, lambda _: None)
        remote.fetch(place, tmp_path / "brought", lambda _: None)
    assert {"GET", "HEAD", "POST", "PUT"} <= set(between.refused)
    assert storage.open_finished(tmp_path / "brought", "dataset") == storage.read_json(dataset / storage.MANIFEST)


def test_a_fetch_goes_on_where_another_was_killed(own: Server, made: tuple[Path, Path], tmp_path: Path) -> None:
    """And what a killed preparation has left in the folder is not taken for the dataset's."""
    _, dataset = made
    shutil.copytree(dataset, tmp_path / "brought")
    (tmp_path / "brought" / storage.MANIFEST).unlink()
    users, train = (tmp_path / "brought" / name / "part-00000.parquet" for name in ("users.parquet", "train"))
    kept = users.stat().st_ino
    train.write_bytes(train.read_bytes()[:-1] + b"?")
    strange = [tmp_path / "brought" / name for name in ("train/part-00007.parquet", ".work/00-read.json", "train/.part.0")]
    for path in strange:
        path.parent.mkdir(exist_ok=True)
        path.write_text("left")
    taken: list[int] = []
    remote.fetch(f"s3://{BUCKET}/kept/{dataset.name}", tmp_path / "brought", taken.append)
    assert {name: storage.digest(tmp_path / "brought" / name) for name in contents(dataset)} == contents(dataset)
    assert users.stat().st_ino == kept, "it was whole"
    assert not any(path.exists() for path in strange)
    assert sum(taken) == sum(each["bytes"] for each in storage.read_json(dataset / storage.MANIFEST)["files"].values())


@pytest.mark.parametrize("damage", ["other", "gone", "climbs", "no json", "a run"])
def test_what_is_not_what_its_manifest_says_is_refused(
    own: Server, made: tuple[Path, Path], tmp_path: Path, damage: str
) -> None:
    _, dataset = made
    prefix = f"damaged {damage}/{dataset.name}"
    place = own.put_folder(dataset, prefix)
    about, client = storage.read_json(dataset / storage.MANIFEST), own.client("s3")
    train = about["files"]["train/part-00000.parquet"]
    if damage == "other":
        own.put(f"{prefix}/train/part-00000.parquet", bytes(train["bytes"]))
        wanted = rf"train/part-00000\.parquet: got {train['bytes']} bytes of sha256 \w+, takes .* {train['sha256'][:12]} as in"
    elif damage == "gone":
        client.delete_object(Bucket=BUCKET, Key=f"{prefix}/train/part-00000.parquet")
        wanted = r"train/part-00000\.parquet: got no object, takes the one that manifest\.json lists"
    elif damage == "climbs":
        files = {**about["files"], "../../outside": train}
        own.put(f"{prefix}/{storage.MANIFEST}", json.dumps({**about, "files": files}).encode())
        wanted = rf"^dataset {place}: manifest\.json lists \.\./\.\./outside, takes files below that folder$"
    elif damage == "no json":
        own.put(f"{prefix}/{storage.MANIFEST}", b"{")
        wanted = rf"^{place}/manifest\.json: got no JSON .*, takes the manifest of a dataset$"
    else:
        own.put(f"{prefix}/{storage.MANIFEST}", json.dumps({**about, "kind": "run"}).encode())
        wanted = rf"^dataset {place}: got the folder of a run, takes that of a dataset$"
    with pytest.raises(InputError, match=wanted):
        remote.fetch(place, tmp_path / "in" / "brought", lambda _: None)
    assert not storage.is_finished(tmp_path / "in" / "brought")
    assert not (tmp_path / "outside").exists()


def test_a_file_that_changed_is_not_put_there_as_a_dataset(own: Server, made: tuple[Path, Path], tmp_path: Path) -> None:
    _, dataset = made
    shutil.copytree(dataset, tmp_path / "changed")
    train = tmp_path / "changed" / "train" / "part-00000.parquet"
    train.write_bytes(train.read_bytes()[:-1] + b"?")
    place = f"s3://{BUCKET}/changed/{dataset.name}"
    with pytest.raises(
        InputError, match=rf"^dataset {train.parents[1]}: train/part-00000\.parquet: got .* as in manifest\.json"
    ):
        remote.upload(tmp_path / "changed", place, lambda _: None)
    assert remote.look(place) is None


@pytest.mark.parametrize(("rights", "told"), [(READS, r"/\.probe: .*s3:PutObject"), ([], r"manifest\.json: .*GetObject")])
def test_denial_is_said_before_the_work(
    own: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rights: list[str], told: str
) -> None:
    write_log(tmp_path / "log.csv")
    key, secret = own.account(policy(*rights) if rights else None)
    use(monkeypatch, own.environment(key, secret))
    with own.checking(), pytest.raises(StorageError, match=rf"^scale\.datasets: s3://{BUCKET}/denied.*{told}") as caught:
        prepare(recipe_of(tmp_path, f"s3://{BUCKET}/denied"))
    assert "got access denied, takes a key in AWS_ACCESS_KEY_ID that may list" in str(caught.value)
    assert secret not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "store").exists()


def test_the_rights_that_it_names_are_enough(
    own: Server, made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, dataset = made
    place = f"s3://{BUCKET}/least/{dataset.name}"
    use(monkeypatch, own.environment(*own.account(policy(*READS, "s3:PutObject"))))
    with own.checking():
        assert remote.look(place) is None
        remote.try_writing(place)
        remote.upload(dataset, place, lambda _: None)
        remote.fetch(place, tmp_path / "brought", lambda _: None)
    assert contents(tmp_path / "brought") == contents(dataset)


def test_a_bucket_that_is_not_there_is_named(own: Server, made: tuple[Path, Path]) -> None:
    with pytest.raises(StorageError, match=r"^scale\.datasets: s3://no-such/.*: got the bucket 'no-such', takes one that is"):
        prepare(recipe_of(made[0], "s3://no-such/kept"))
