"""Where a secret of `make cluster` could show: MLflow's tables, its artifacts in S3, the files of Ray's nodes and programs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg2
from psycopg2 import sql

from infra.local import cluster
from infra.local.parts import BUCKET, OWNER, REGION
from tests.integration import submitting


def secrets(folder: Path) -> dict[str, str]:
    """The words of the cluster of a folder that nobody may see, by what they are."""
    found = {path.name: path.read_text() for path in (folder / "secrets").iterdir()}
    return {
        "token": found["ray-token"],
        "password": found["mlflow-password"],
        "database": found["postgres-pass"].strip().rpartition(":")[2],
        "s3": found["s3-keys"].strip().rpartition(" ")[2],
    }


def seen(folder: Path, said: str, words: Mapping[str, str], *folders: Path) -> list[str]:
    """Each place where one of the words is, as `word in place`. `said` is what `make cluster` told, `folders` are jobs' own."""
    places = [*_rows(folder, said), *_objects(folder, said)]
    assert len(places) >= 3, "MLflow keeps something"
    files = [path for each in (folder / cluster.LOGS, *folders) for path in each.rglob("*") if path.is_file()]
    assert len(files) > 6
    places += [(str(path), path.read_bytes()) for path in files]
    found = [f"{what} in {place}" for what, word in words.items() for place, held in places if word.encode() in held]
    ray = next(path for path in map(Path, cluster.State(folder).scratch) if (path / "1").is_dir())
    return found + [f"{what} in {path}" for what, word in words.items() for path in submitting.files_with(ray, word)]


def _rows(folder: Path, said: str) -> Iterator[tuple[str, bytes]]:
    """Every row of every table of MLflow's database, its users' among them."""
    host, port = re.findall(r"PostgreSQL at ([\d.]+):(\d+);", said)[0]
    password = secrets(folder)["database"]
    connection = psycopg2.connect(host=host, port=port, user=OWNER, dbname="postgres", password=password)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
            tables = [name for (name,) in cursor.fetchall()]
            assert {"params", "tags", "runs", "model_version_tags"} <= set(tables)
            for table in tables:
                cursor.execute(sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(table)))
                for (row,) in cursor.fetchall():
                    yield f"MLflow's {table}", row.encode()
    finally:
        connection.close()


def _objects(folder: Path, said: str) -> Iterator[tuple[str, bytes]]:
    """Every artifact of MLflow's."""
    import boto3

    (where,) = set(re.findall(r"S3 at (http://\S+),", said))
    key, secret = re.findall(r"= (\S+)", (folder / "secrets" / "s3-keys").read_text())
    own = {"aws_access_key_id": key, "aws_secret_access_key": secret, "region_name": REGION}
    s3 = boto3.client("s3", endpoint_url=where, **own)  # pyright: ignore
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for each in page.get("Contents", []):
            yield f"S3's {each['Key']}", s3.get_object(Bucket=BUCKET, Key=each["Key"])["Body"].read()
