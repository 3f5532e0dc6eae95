"""A real PostgreSQL of a test's own: Debian's programs, one cluster in a temporary folder, gone with the test."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.integration import s3
from tests.integration.training import free_port, kill_group, wait_for

CONNECTIONS = 300
USER = "hardneg"


@dataclass(frozen=True)
class Database:
    """Where it listens; its password goes by the environment (PGPASSWORD), as libpq reads it, and into no command line."""

    port: int
    password: str

    @property
    def uri(self) -> str:
        return f"postgresql+psycopg2://{USER}@127.0.0.1:{self.port}/postgres"

    def connect(self) -> Any:
        return psycopg2.connect(host="127.0.0.1", port=self.port, user=USER, dbname="postgres", password=self.password)


def programs() -> Path:
    """The folder of initdb and postgres. Skips where they are not installed; fails in CI, where HARDNEG_DATA is set."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        missing = "there is no /usr/lib/postgresql/*/bin/initdb; on Debian: apt-get install postgresql"
        if os.environ.get("HARDNEG_DATA"):
            pytest.fail(missing)
        pytest.skip(missing)  # says what to install; in CI it has failed above
    return found[-1].parent


def require_cluster() -> None:
    """What `make cluster` takes. Skips or fails as `programs` does."""
    programs()
    for module in ("moto", "flask_wtf"):
        s3.require(module)


@contextlib.contextmanager
def database() -> Iterator[Database]:
    """A cluster on localhost. PostgreSQL refuses root: then it is Debian's user `postgres` that runs it.

    Its folder is below the system's temporary one, not pytest's, into which nobody but its owner may look.
    """
    folder = Path(tempfile.mkdtemp(prefix="hardneg-postgres-"))
    found, server = Database(free_port(), secrets.token_urlsafe(16)), None
    owner: dict[str, Any] = {}
    try:
        (folder / "password").write_text(found.password)
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            owner = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            for path in (folder, folder / "password"):
                os.chown(path, account.pw_uid, account.pw_gid)
        create = [programs() / "initdb", "-D", folder / "data", "--username", USER, "--pwfile", folder / "password"]
        create += ["--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync"]
        subprocess.run(create, check=True, capture_output=True, cwd=folder, **owner)
        start = [programs() / "postgres", "-D", folder / "data", "-h", "127.0.0.1", "-p", str(found.port), "-k", "", "-F"]
        start += ["-c", f"max_connections={CONNECTIONS}"]
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(start, stdout=log, stderr=log, cwd=folder, start_new_session=True, **owner)
        wait_for(lambda: _answers(found), "PostgreSQL", server)
        yield found
    finally:
        if server is not None:
            server.send_signal(signal.SIGINT)  # PostgreSQL's fast end: it does not wait for its clients
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(timeout=30)
            kill_group(server)
        shutil.rmtree(folder)


def _answers(found: Database) -> bool:
    try:
        found.connect().close()
    except psycopg2.OperationalError:
        return False
    return True
