"""A local cluster's parts, and how one knows that each answers. No secret goes by a command line, a log or the screen."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import pwd
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import psutil

from components.errors import FailedError, InputError
from infra.local import processes, s3
from infra.local.processes import Process

HOST, ADMIN, OWNER, BUCKET, REGION = s3.HOST, "admin", "hardneg", "mlflow", "us-east-1"
BIN = Path(sys.executable).parent
DEBIAN = Path("/usr/lib/postgresql")  # a folder for each version, none of them on the PATH
ANSWER_SECONDS = 180.0
WORKERS = 2
NODE_UP = "This command will now block forever"
NODE_GAVE_UP, NODE_ATTEMPTS = "timed out during startup", 3  # Ray waits for 30 s, little on a busy machine
S3_POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
UNSIGNED_CALLS = 3  # those that make S3's user; after them moto takes none without that user's signature
CLIENTS = {  # as ray_jobs._mlflow, for other clients: moto looks for a signature in headers alone, and so refuses signed links
    f"MLFLOW_ENABLE_PROXY_MULTIPART_{way}": "false" for way in ("DOWNLOAD", "UPLOAD")
}

DIRECTLY = dict.fromkeys(("NO_PROXY", "no_proxy"), f"{HOST},127.0.0.2,127.0.0.3,localhost")  # whatever proxy this shell has


class Folders(NamedTuple):
    """`ray` and `database` are temporary: Ray's sockets take a short path, PostgreSQL one that its own user may enter."""

    secrets: Path
    ray: Path
    database: Path


class Links(NamedTuple):
    """Where people and programs go: URLs, and PostgreSQL's host and port."""

    ray: str
    mlflow: str
    s3: str
    database: str


class Start(Protocol):
    """Begins the part of a name, which is recorded."""

    def __call__(self, name: str, command: Sequence[str | Path], environment: dict[str, str], **owner: Any) -> Process: ...


def require() -> None:
    """Raises InputError where this machine or its Python lacks something."""
    if not sys.platform.startswith("linux"):
        raise InputError(f"make cluster: got {sys.platform}, takes Linux")
    _postgres_programs()
    missing = [name for name in ("boto3", "flask_wtf", "moto", "psycopg2") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"make cluster: got a Python without {', '.join(missing)}, takes the extra `cluster`: "
            "pip install -c constraints.txt -e '.[cluster]'"
        )


def start_all(folders: Folders, start: Start) -> Links:
    """Starts every part and waits until each answers those who have its password, and only them.

    Raises:
        FailedError: one ends, does not answer, or answers anybody.
    """
    ray, mlflow, s3_port, database, head = (_port(preferred) for preferred in (8265, 5000, 9000, 5432, 6379))
    links = Links(f"http://{HOST}:{ray}", f"http://{HOST}:{mlflow}", f"http://{HOST}:{s3_port}", f"{HOST}:{database}")
    token, password = secrets.token_hex(32), secrets.token_urlsafe(24)
    token_file = _secret(folders, "ray-token", token)
    _secret(folders, "mlflow-password", password)

    tables = _start_postgres(folders, database, start)
    server = [sys.executable, "-P", Path(s3.__file__), str(s3_port)]
    store = start("s3", server, _environment(INITIAL_NO_AUTH_ACTION_COUNT=str(UNSIGNED_CALLS)))
    ports = ["--port", str(head), "--ray-client-server-port", str(_port())]
    ports += ["--dashboard-host", HOST, "--dashboard-port", str(ray)]
    first = _start_node(1, ["--head", "--num-cpus", "0", *ports], folders, token_file, start)
    processes.wait(store, lambda: _status(f"{links.s3}{s3.CLOSED}") == 403, ANSWER_SECONDS)
    keys = _secret(folders, "s3-keys", _s3_keys(links.s3))
    ready = [_postgres_programs() / "pg_isready", "-q", "-h", HOST, "-p", str(database)]
    processes.wait(tables, lambda: subprocess.run(ready, check=False).returncode == 0, ANSWER_SECONDS)
    tracking = _start_mlflow(folders, links, keys, password, start)
    cpus = str(max(1, len(os.sched_getaffinity(0)) // WORKERS))
    for number in range(2, WORKERS + 2):
        _start_node(number, ["--address", f"{HOST}:{head}", "--num-cpus", cpus], folders, token_file, start)
    basic = f"Basic {b64encode(f'{ADMIN}:{password}'.encode()).decode()}"
    experiment = f"{links.mlflow}/api/2.0/mlflow/experiments/get?experiment_id=0"
    processes.wait(tracking, lambda: _answers(experiment, basic), ANSWER_SECONDS)
    processes.wait(first, lambda: _answers(f"{links.ray}/api/jobs/", f"Bearer {token}"), ANSWER_SECONDS)
    return links


def exports(folders: Folders, links: Links) -> str:
    """Shell lines for those who talk to the cluster: they name the secrets' files."""
    token, password = (shlex.quote(str(folders.secrets / name)) for name in ("ray-token", "mlflow-password"))
    return "\n".join(
        [
            f'export PATH={shlex.quote(str(BIN))}:"$PATH"',
            f"export RAY_API_SERVER_ADDRESS={links.ray} RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={token}",
            f"export MLFLOW_TRACKING_URI={links.mlflow} MLFLOW_TRACKING_USERNAME={ADMIN}",
            f'export MLFLOW_TRACKING_PASSWORD="$(cat {password})"',
            f"export {' '.join(f'{name}={value}' for name, value in {**CLIENTS, **DIRECTLY}.items())}",
        ]
    )


# PostgreSQL, S3, MLflow, Ray ----------------------------------------------------------------------------------------


def _postgres_programs() -> Path:
    """The folder of initdb, postgres and pg_isready."""
    debian = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda found: [int(n) for n in re.findall(r"\d+", found.parents[1].name)])
    found = shutil.which("initdb") or (debian[-1] if debian else None)
    if found is None:
        raise InputError(
            f"make cluster: got no initdb on the PATH or in {DEBIAN}/*/bin, takes PostgreSQL; "
            "on Debian: apt-get install postgresql"
        )
    return Path(found).resolve().parent  # a link on the PATH may stand alone


def _start_postgres(folders: Folders, port: int, start: Start) -> Process:
    """With data of its own. PostgreSQL refuses root: then it is the system's user `postgres` that runs it."""
    programs, password, owner = _postgres_programs(), secrets.token_urlsafe(24), {}
    _secret(folders, "postgres-pass", f"{HOST}:{port}:*:{OWNER}:{password}\n")  # as libpq reads it
    once = folders.database / "password"
    once.touch(mode=0o600)
    once.write_text(password, encoding="ascii")
    if os.geteuid() == 0:
        try:
            account = pwd.getpwnam("postgres")
        except KeyError as error:
            raise InputError("make cluster: got root and no user `postgres`, who runs PostgreSQL: it refuses root") from error
        owner = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        for path in (folders.database, once):
            os.chown(path, account.pw_uid, account.pw_gid)
    data = folders.database / "data"
    create = [programs / "initdb", "-D", data, "--username", OWNER, "--pwfile", once, "--auth", "scram-sha-256"]
    create += ["--encoding", "UTF8", "--locale", "C", "--no-sync"]
    done = subprocess.run(create, cwd="/", env=_environment(), capture_output=True, text=True, check=False, **owner)
    once.unlink()
    if done.returncode:
        raise FailedError(f"initdb ended with {done.returncode}: {done.stderr.strip()}")
    command = [programs / "postgres", "-D", data, "-h", HOST, "-p", str(port), "-k", "", "-F", "-c", "max_connections=200"]
    return start("postgres", command, _environment(), **owner)


def _s3_keys(url: str) -> str:
    """Makes S3's one user and MLflow's bucket; returns the user's keys as AWS' libraries read them from a file."""
    import boto3
    from botocore.config import Config

    def client(service: str, key: str, secret: str) -> Any:
        own = {"aws_access_key_id": key, "aws_secret_access_key": secret, "region_name": REGION}
        return boto3.client(service, endpoint_url=url, config=Config(proxies={}), **own)  # pyright: ignore

    iam = client("iam", "anybody", "anything")
    iam.create_user(UserName=OWNER)
    iam.put_user_policy(UserName=OWNER, PolicyName="s3", PolicyDocument=json.dumps(S3_POLICY))
    made = iam.create_access_key(UserName=OWNER)["AccessKey"]
    client("s3", made["AccessKeyId"], made["SecretAccessKey"]).create_bucket(Bucket=BUCKET)
    return f"[default]\naws_access_key_id = {made['AccessKeyId']}\naws_secret_access_key = {made['SecretAccessKey']}\n"


def _start_mlflow(folders: Folders, links: Links, keys: Path, password: str, start: Start) -> Process:
    uri = f"postgresql+psycopg2://{OWNER}@{links.database}/postgres"
    users = {"default_permission": "READ", "database_uri": uri, "admin_username": ADMIN, "admin_password": password}
    auth = _secret(folders, "mlflow-auth.ini", "\n".join(["[mlflow]", *(f"{name} = {value}" for name, value in users.items())]))
    host, port = links.mlflow.removeprefix("http://").split(":")
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", host, "--port", port]
    command += ["--workers", "1", "--backend-store-uri", uri, "--artifacts-destination", f"s3://{BUCKET}/artifacts"]
    command += ["--uvicorn-opts", "--timeout-worker-healthcheck 120"]  # by default 5 s: a busy machine imports for longer
    own = _environment(
        MLFLOW_AUTH_CONFIG_PATH=str(auth),
        MLFLOW_FLASK_SERVER_SECRET_KEY=secrets.token_hex(32),
        MLFLOW_S3_ENDPOINT_URL=links.s3,
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
        MLFLOW_DISABLE_TELEMETRY="true",
        AWS_SHARED_CREDENTIALS_FILE=str(keys),
        AWS_DEFAULT_REGION=REGION,
        PGPASSFILE=str(folders.secrets / "postgres-pass"),
    )
    return start("mlflow", command, own)


def _start_node(number: int, arguments: list[str], folders: Folders, token: Path, start: Start) -> Process:
    """One of Ray's nodes, of an address, ports and a folder of its own: Ray Train tells nodes apart by address."""
    command = [str(BIN / "ray"), "start", *arguments, "--block", "--node-ip-address", f"127.0.0.{number}"]
    command += ["--temp-dir", str(folders.ray / str(number)), "--dashboard-agent-listen-port", str(_port())]
    command += ["--min-worker-port", "0", "--max-worker-port", "0"]  # any that are free
    command += ["--object-store-memory", str(psutil.virtual_memory().total // 10)]
    own = _environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token), RAY_USAGE_STATS_ENABLED="0")
    for attempt in range(1, NODE_ATTEMPTS + 1):
        node = start(f"ray-{number}", command, own)
        try:
            processes.wait(node, functools.partial(_is_up, node), ANSWER_SECONDS)
            return node
        except FailedError:
            if NODE_GAVE_UP not in processes.log_of(node) or attempt == NODE_ATTEMPTS:
                raise
            processes.end([node])
    raise AssertionError("a node is up, or it has failed")


def _is_up(node: Process) -> bool:
    return NODE_UP in processes.log_of(node)


# small things -------------------------------------------------------------------------------------------------------


def _environment(**own: str) -> dict[str, str]:
    """This shell's, less what it says of other servers, or of this one when it was up before."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_", "PG", "RAY_"))}
    return {**kept, **DIRECTLY, "PATH": f"{BIN}:{os.environ['PATH']}", **own}


def _secret(folders: Folders, name: str, text: str) -> Path:
    """A file that its owner alone reads, from its first moment on."""
    path = folders.secrets / name
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(text)
    return path


def _port(preferred: int = 0) -> int:
    """That one, or where it is taken (or none is given) a free one."""
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((HOST, preferred))
        except OSError:
            return _port()
        return candidate.getsockname()[1]


def _answers(url: str, authorization: str) -> bool:
    """Whether it answers those who have the password.

    Raises:
        FailedError: it answers those who have none.
    """
    found = _status(url)
    if found == 200:
        raise FailedError(f"{url} answers whoever asks, takes a password before it")
    return found == 401 and _status(url, authorization) == 200


def _status(url: str, authorization: str | None = None) -> int | None:
    """HTTP's, or None where nothing answers; by no proxy."""
    headers = {"Authorization": authorization} if authorization else {}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None
