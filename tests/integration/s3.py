"""A real S3 server on localhost (moto's), with its own accounts, and a proxy before it that says `slow down`."""

from __future__ import annotations

import contextlib
import functools
import http.client
import importlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

BUCKET = "logs"
VARIABLES = ("AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_MAX_ATTEMPTS", "AWS_PROFILE")
SLOW = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


def require(name: str) -> Any:
    """A module of the development extra; where it is not installed the test is skipped, and fails in CI."""
    try:
        return importlib.import_module(name)
    except ImportError:
        missing = f"{name} is not installed: pip install -c constraints.txt -e .[dev]"
    if "HARDNEG_DATA" in os.environ:
        pytest.fail(missing)
    pytest.skip(missing)  # says what to install; in CI it has failed above


@dataclass(frozen=True)
class Server:
    url: str

    def environment(self, key: str = "administrator", secret: str = "a-secret-of-his", url: str = "") -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": url or self.url,
        }

    def client(self, service: str) -> Any:
        return _client(self.url, service)

    def put(self, key: str, content: bytes) -> str:
        self.client("s3").put_object(Bucket=BUCKET, Key=key, Body=content)
        return f"s3://{BUCKET}/{key}"

    def put_at_once(self, key: str, content: bytes) -> None:
        """Without a request: into the server's own memory."""
        backend = require("moto.backends").get_backend("s3")[require("moto.core").DEFAULT_ACCOUNT_ID]["aws"]
        backend.put_object(BUCKET, key, content)

    def put_folder(self, folder: Path, prefix: str) -> str:
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"s3://{BUCKET}/{prefix}"

    def account(self, policy: str | None) -> tuple[str, str]:
        """(key, secret) of a new user, who may do what a policy says."""
        iam = self.client("iam")
        name = f"user{len(iam.list_users()['Users'])}"
        iam.create_user(UserName=name)
        if policy:
            iam.put_user_policy(UserName=name, PolicyName="own", PolicyDocument=policy)
        made = iam.create_access_key(UserName=name)["AccessKey"]
        return made["AccessKeyId"], made["SecretAccessKey"]

    @contextlib.contextmanager
    def checking(self) -> Iterator[None]:
        """For as long as this lasts it looks at keys and signatures."""
        self._check("0")
        try:
            yield
        finally:
            self._check("inf")

    def _check(self, after: str) -> None:
        headers = {"Content-Type": "text/plain"}
        with urlopen(Request(f"{self.url}/moto-api/reset-auth", after.encode(), headers)) as answer:
            assert answer.status == 200


@functools.cache
def _client(url: str, service: str) -> Any:
    keys = {"aws_access_key_id": "administrator", "aws_secret_access_key": "a-secret-of-his"}
    return require("boto3").client(service, endpoint_url=url, region_name="us-east-1", **keys)


@contextlib.contextmanager
def server() -> Iterator[Server]:
    moto = require("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        found = Server(f"http://{host}:{port}")
        found.client("s3").create_bucket(Bucket=BUCKET)
        yield found
    finally:
        moto.stop()


@dataclass
class Proxy:
    """Passes requests on, apart from those that `slow` picks by their number, from 0, among those of their method: 503."""

    upstream: str
    slow: Callable[[int], bool]
    url: str = ""
    seen: Counter[str] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def refuses(self, method: str) -> bool:
        with self.lock:
            self.seen[method] += 1
            if self.slow(self.seen[method] - 1):
                self.refused.append(method)
                return True
            return False


@contextlib.contextmanager
def proxy(upstream: str, slow: Callable[[int], bool]) -> Iterator[Proxy]:
    found = Proxy(upstream.removeprefix("http://"), slow)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.body()
            if found.refuses(self.command):
                self.answer(503, {"Content-Type": "application/xml"}, SLOW)
                return
            connection = http.client.HTTPConnection(found.upstream)
            own = {name: value for name, value in self.headers.items() if name.lower() not in ("expect", "transfer-encoding")}
            connection.request(self.command, self.path, body, {**own, "Content-Length": str(len(body))} if body else own)
            with connection.getresponse() as theirs:
                self.answer(theirs.status, dict(theirs.headers), theirs.read())

        do_HEAD = do_PUT = do_POST = do_GET

        def body(self) -> bytes:
            if self.headers.get("Expect"):
                self.send_response_only(100)
                self.end_headers()
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found

        def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("connection", "transfer-encoding"):
                    self.send_header(name, value)
            if "content-length" not in {name.lower() for name in headers}:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{listening.server_address[1]}"
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


def use(monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
