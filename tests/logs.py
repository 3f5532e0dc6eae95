"""Real logs for tests: the folder that HARDNEG_DATA names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def log(name: str) -> Path:
    """The file of a real log. Skips where HARDNEG_DATA is unset; fails where it is set and lacks the file."""
    folder = os.environ.get("HARDNEG_DATA")
    if not folder:
        pytest.skip(f"HARDNEG_DATA is unset: it names the folder of {name}.parquet")
    path = Path(folder) / f"{name}.parquet"
    if not path.is_file():
        pytest.fail(f"HARDNEG_DATA: {path} is missing")
    return path
