"""ray_jobs.submit as people run it, at a terminal or not; and an MLflow that wants a password."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import pty
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests

from tests.integration import training
from tests.integration.preparing import ROOT
from tests.integration.training import wait_for

PLACES = {"RAY_ADDRESS": None, "RAY_API_SERVER_ADDRESS": None, "RAY_AUTH_TOKEN": None}


class Submit:
    """python -m ray_jobs.submit, with what it prints."""

    def __init__(self, out: Path, *arguments: str, **environment: str | None) -> None:
        self._out = out
        self.process = training.program("submit", *arguments, out=out, **{**PLACES, "RAY_AUTH_MODE": "disabled", **environment})

    @property
    def log(self) -> str:
        return Path(f"{self._out}.out").read_text()

    @property
    def said(self) -> str:
        return Path(f"{self._out}.err").read_text()

    def end(self) -> int:
        wait_for(lambda: self.process.poll() is not None, f"the end of what said {self.said}")
        return self.process.returncode

    def says(self, what: str) -> None:
        wait_for(lambda: what in self.said, f"{what!r} in\n{self.said}", self.process)


class Terminal:
    """The same on a terminal, where it can be interrupted by a key."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self._master, slave = pty.openpty()
        own = {name: value for name, value in os.environ.items() if name not in PLACES}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ray_jobs.submit", *arguments],
            cwd=ROOT,
            env={**own, "RAY_AUTH_MODE": "disabled", "TERM": "xterm", "COLUMNS": "200", **environment},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.text = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # nobody writes any more
            while piece := os.read(self._master, 65536):
                self.text += piece.decode(errors="replace")

    def shows(self, what: str) -> None:
        wait_for(lambda: what in self.text, f"{what!r} in\n{self.text}", self.process)

    def press_ctrl_c(self) -> int:
        """Its exit code."""
        os.write(self._master, b"\x03")
        wait_for(lambda: self.process.poll() is not None, "the end")
        self._reader.join()
        return self.process.returncode


@contextlib.contextmanager
def asking_for(user: str, password: str, behind: str, answering: threading.Event | None = None) -> Iterator[str]:
    """The URI of a proxy that wants a name and a password before it asks the server `behind` it, once it is `answering`."""
    wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Authorization") != wanted:
                self.send_error(401)
                return
            assert answering is None or answering.wait(60)
            headers = {"Content-Type": self.headers.get("Content-Type", "application/json")}
            answer = requests.request(self.command, behind + self.path, data=body, headers=headers, timeout=60)
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", training.free_port()), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@contextlib.contextmanager
def watching_commands(words: list[str]) -> Iterator[set[str]]:
    """The words that were seen on the command line of any process of this machine."""
    seen: set[str] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    line = file.read_bytes()
                    seen.update(word for word in words if word.encode() in line)
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def files_with(folder: Path, word: str) -> list[Path]:
    """Files below a folder that contain a word, apart from shipped sources."""
    found = [file for file in folder.rglob("*") if file.is_file() and "working_dir_files" not in file.parts]
    assert len(found) > 20, f"{folder} has logs"
    return [file for file in found if word.encode() in _read(file)]


def _read(file: Path) -> bytes:
    """Ray, still up, renames what it has written; the file of the new name is listed too, or is written the next time."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""
