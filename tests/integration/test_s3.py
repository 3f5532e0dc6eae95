"""Sources in S3, on moto's real server: the same rows as from local files; throttling is waited out; denial is said once."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import storage
from components.config import Data
from components.data import locations, sources
from components.data.locations import StorageError
from components.errors import InputError
from ray_jobs import _dataflow
from tests.inline import inline
from tests.integration.preparing import RULES, contents, prepare, program, recipe, recipe_text, write_log
from tests.integration.s3 import BUCKET, Server, proxy, server, use
from tests.unit.data.cleaned import clean, file
from tests.unit.data.test_formats import LOGS, compress

LIST_ONLY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "*"}]}


@pytest.fixture(scope="module")
def s3() -> Iterator[Server]:
    with server() as found:
        yield found


@pytest.fixture
def own(s3: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, and the environment to read from it."""
    use(monkeypatch, s3.environment())
    return s3


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", LOGS)
def test_text_is_what_it_is_in_a_local_file(own: Server, tmp_path: Path, name: str, suffix: str) -> None:
    data = (LOGS[name] + "a line that is no row\n").encode()
    path = file(tmp_path, compress(data, suffix) if suffix else data, name + suffix)
    local, remote = (clean(place, part_bytes=20_000) for place in (path, own.put(f"text/{name}{suffix}", path.read_bytes())))
    assert remote.kept.equals(local.kept)
    assert remote.counts == local.counts
    assert [(r["line"], r["reason"], r["raw"]) for r in remote.refused] == [
        (r["line"], r["reason"], r["raw"]) for r in local.refused
    ]
    assert {row["file"] for row in remote.refused} <= {f"s3://{BUCKET}/text/{name}{suffix}"}


def test_a_folder_of_parquet_has_hives_columns_and_no_hidden_files(own: Server, tmp_path: Path) -> None:
    for n, day in enumerate(("2020-01-01", "2020-01-02")):
        folder = tmp_path / "log" / f"day={day}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"user_id": [n, 5], "item_id": [1, 2]}), folder / "part 0.parquet", row_group_size=1)
        (folder / "_SUCCESS").touch()
    source = own.put_folder(tmp_path / "log", "hive")
    local, remote = (clean(place, part_rows=1, columns={"time": "day"}) for place in (tmp_path / "log", source))
    assert remote.kept.equals(local.kept)
    assert len(remote.kept) == 4
    assert [f.path for f in remote.plan.files] == [f"{source}/day=2020-01-0{n}/part 0.parquet" for n in (1, 2)]


def test_a_listing_of_more_than_a_page_is_whole(own: Server) -> None:
    """S3 lists a thousand at a time."""
    for n in range(1010):
        own.put_at_once(f"many/{n:04d}.csv", b"user_id,item_id\n1,2\n")
    found = locations.files(f"s3://{BUCKET}/many")
    assert [one.inside.name for one in found] == [f"{n:04d}.csv" for n in range(1010)]


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.parquet"])
def test_another_object_of_the_same_name_and_moment_is_another_source(own: Server, tmp_path: Path, name: str) -> None:
    def described(item: int) -> tuple[list[dict[str, Any]], str]:
        if name == "log.parquet":
            pq.write_table(pa.table({"user_id": [1], "item_id": [item]}), tmp_path / name)
            content = (tmp_path / name).read_bytes()
        else:
            text = f"user_id,item_id\n1,{item}\n".encode()
            content = gzip.compress(text, mtime=0) if name.endswith(".gz") else text
        plan = sources.inspect(Data.model_validate({"source": own.put(f"etags/{name}", content)}))
        theirs = own.client("s3").head_object(Bucket=BUCKET, Key=f"etags/{name}")["ETag"]
        return [{**one, "mtime_ns": 0, "bytes": 0, "footer": ""} for one in plan.describe()], theirs

    (one, first), (other, second), (again, _) = described(2), described(3), described(2)
    assert one == again != other
    assert [one[0]["etag"].strip('"'), other[0]["etag"].strip('"')] == [first.strip('"'), second.strip('"')]


def test_slow_down_is_waited_out(own: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    source = own.put("slow/log.csv", LOGS["log.csv"].encode())
    own.put("slow/more.csv", LOGS["log.csv"].encode())
    table = pa.BufferOutputStream()
    pq.write_table(pa.table({"user_id": list(range(50)), "item_id": list(range(50))}), table)
    own.put("slow parquet/log.parquet", table.getvalue().to_pybytes())
    for prefix, part in (("slow", 9000), ("slow parquet", 10)):
        wanted = clean(f"s3://{BUCKET}/{prefix}", part_bytes=part, part_rows=part)
        with proxy(own.url, slow=lambda number: number % 3 == 0) as between:
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", between.url)
            found = clean(f"s3://{BUCKET}/{prefix}", part_bytes=part, part_rows=part)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", own.url)
        assert found.kept.equals(wanted.kept)
        assert {"GET", "HEAD"} <= set(between.refused), "of listing, opening and reading some were refused"
    assert source.endswith("log.csv")


def test_slow_down_for_ever_ends_in_one_error(own: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    source = own.put("for ever/log.csv", LOGS["log.csv"].encode())
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    with proxy(own.url, slow=lambda number: True) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", between.url)
        with pytest.raises(
            StorageError, match=rf"data\.source: {source}: got no answer but to slow down in 3 tries \(AWS_MAX_"
        ):
            clean(source)
    assert len(between.refused) == 3


def test_a_user_who_may_not_list_is_told_once(own: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    source = own.put("denied/log.csv", LOGS["log.csv"].encode())
    key, secret = own.account(policy=None)
    use(monkeypatch, own.environment(key, secret))
    with own.checking(), pytest.raises(StorageError) as caught:
        clean(source.removesuffix("/log.csv"), on_bad_file="quarantine")
    told = str(caught.value)
    assert told.startswith(
        f"data.source: s3://{BUCKET}/denied: got access denied, takes a key in AWS_ACCESS_KEY_ID that may list"
    )
    assert secret not in told
    assert len(told.splitlines()) == 1


def test_a_file_that_is_denied_is_not_put_aside(own: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nor where it is denied after it was found: a dataset without it would look finished."""
    table = pa.table({"user_id": list(range(40)), "item_id": list(range(40))})
    pq.write_table(table, tmp_path / "log.parquet")
    sources_ = [
        own.put("later/log.csv", LOGS["log.csv"].encode()),
        own.put("later/log.parquet", (tmp_path / "log.parquet").read_bytes()),
    ]
    key, secret = own.account(json.dumps(LIST_ONLY))
    for source in sources_:
        use(monkeypatch, own.environment())
        rules = recipe(Path("/nowhere"), tmp_path).data.model_copy(update={"source": source, "on_bad_file": "quarantine"})
        plan = sources.inspect(rules)
        use(monkeypatch, own.environment(key, secret))
        with own.checking():
            with pytest.raises(StorageError, match=rf"data\.source: {source}: got access denied"):
                sources.inspect(rules)
            with pytest.raises(StorageError, match=rf"{source}: got access denied"):
                list(sources.readers.read(plan.parts()[0], ["user_id"], "utf-8"))


@pytest.mark.parametrize("change", [{"AWS_SECRET_ACCESS_KEY": "another-secret"}, {"AWS_ACCESS_KEY_ID": "nobody"}])
def test_wrong_keys_are_denied(own: Server, monkeypatch: pytest.MonkeyPatch, change: dict[str, str]) -> None:
    source = own.put("keys/log.csv", LOGS["log.csv"].encode())
    use(monkeypatch, {**own.environment(*own.account(json.dumps(LIST_ONLY))), **change})
    with own.checking(), pytest.raises(StorageError, match=rf"{source}: got access denied, takes a key") as caught:
        clean(source)
    assert "another-secret" not in str(caught.value)


def test_what_is_not_there_is_named(own: Server) -> None:
    with pytest.raises(
        StorageError, match=rf"data\.source: s3://no-such/log: got the bucket 'no-such', takes one .*: {own.url}"
    ):
        clean("s3://no-such/log")
    with pytest.raises(InputError, match=rf"data\.source: s3://{BUCKET}/nothing: no such file or folder"):
        clean(f"s3://{BUCKET}/nothing")
    own.put("empty/log.csv", b"")
    with pytest.raises(InputError, match=r"empty/log\.csv: got an empty file, takes a header and rows"):
        clean(f"s3://{BUCKET}/empty")


def test_no_server_is_named(own: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageError, match=r"data\.source: s3://logs/log: got no data from http://127\.0\.0\.1:9: "):
        clean(f"s3://{BUCKET}/log")


def test_titles_may_lie_there_too(own: Server, tmp_path: Path) -> None:
    log = file(tmp_path, "user_id,item_id\n1,2\n1,3\n")
    titles = {"source": own.put("titles/names.csv.gz", gzip.compress(b"id,name\n3,Three\n")), "item": "id", "title": "name"}
    with inline():
        _, manifest = prepare(log, tmp_path, titles=titles)
    assert manifest["statistics"]["items_with_title"] == 1


def test_the_program_prepares_the_bytes_of_local_files(s3: Server, tmp_path: Path) -> None:
    """On a Ray of its own, whose workers have the environment of the program; and keeps them in S3, where it is asked to."""
    folder = tmp_path / "log"
    folder.mkdir()
    write_log(folder / "a.csv")
    (folder / "b.csv.gz").write_bytes(gzip.compress(write_log(tmp_path / "b.csv", seed=1).read_bytes()))
    (tmp_path / "recipe.yaml").write_text(recipe_text(s3.put_folder(folder, "whole"), tmp_path / "remote", **RULES))
    run = program(tmp_path / "recipe.yaml", "--set", f"scale.datasets=s3://{BUCKET}/prepared", **s3.environment())
    out, errors = run.communicate(timeout=240)
    assert run.returncode == 0, errors
    with inline():
        local, _ = prepare(folder, tmp_path / "local", _dataflow.Sizes(), **RULES)
    (remote,) = (tmp_path / "remote" / "datasets").iterdir()
    assert out == f"s3://{BUCKET}/prepared/{remote.name}\n"
    kept = s3.client("s3").get_object(Bucket=BUCKET, Key=f"prepared/{remote.name}/{storage.MANIFEST}")["Body"].read()
    assert kept == (remote / storage.MANIFEST).read_bytes()
    naming = ("quarantine", "report")  # what has the source's own name in it
    same = {name: digest for name, digest in contents(local).items() if not name.startswith(naming)}
    assert same == {name: digest for name, digest in contents(remote).items() if not name.startswith(naming)}
