"""The demo's data is what was checked in, by its checksum, or it is not used."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pipelines import movielens


def serve(monkeypatch: pytest.MonkeyPatch, returncode: int = 0) -> list[list[str]]:
    """Puts another wheel where pip would put RecBole's; returns the commands that were run."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        if returncode == 0:
            with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "recbole-1.2.1-py3-none-any.whl", "w") as wheel:
                for name in movielens.FILES:
                    wheel.writestr(f"recbole/dataset_example/ml-100k/{name}", f"content of {name}")
        return subprocess.CompletedProcess(command, returncode)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_a_wheel_with_another_checksum_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    serve(monkeypatch)
    with pytest.raises(RuntimeError, match=f"got sha256 [0-9a-f]{{64}}, takes {movielens.SHA256}"):
        movielens.fetch(tmp_path)
    assert not (tmp_path / "ml-100k").exists()


def test_a_download_that_fails_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    serve(monkeypatch, returncode=1)
    with pytest.raises(RuntimeError, match="recbole==1.2.1 could not be downloaded"):
        movielens.fetch(tmp_path)


def test_files_are_read_out_of_the_wheel_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commands = serve(monkeypatch)
    monkeypatch.setattr(movielens.hashlib, "sha256", lambda _: type("Digest", (), {"hexdigest": lambda _: movielens.SHA256})())
    folder = movielens.fetch(tmp_path)
    assert sorted(file.name for file in folder.iterdir()) == sorted(movielens.FILES)
    assert (folder / "ml-100k.item").read_text() == "content of ml-100k.item"
    assert movielens.fetch(tmp_path) == folder
    assert len(commands) == 1
    assert "--no-deps" in commands[0]
