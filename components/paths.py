"""Paths as a recipe writes them: absolute, since Ray's workers change directory; sources and whole datasets may lie in S3."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from components.errors import InputError

S3 = "s3://"
BUCKET = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"


def _expanded(path: str) -> str:
    expanded = os.path.expandvars(path)
    unset = re.search(r"\$\{?(\w+)", expanded)
    if unset:
        raise ValueError(f"a path whose environment variables are set ({unset[1]} is not)")
    return expanded


def absolute(path: str) -> str:
    """Expands `~` and `$VARIABLES` and makes a local path absolute."""
    expanded = _expanded(path)
    if "://" in expanded:
        more = "; finished datasets may be kept in S3 too: scale.datasets" if expanded.startswith(S3) else ""
        raise ValueError(f"a path of a local or shared file system{more}")
    return str(Path(expanded).expanduser().absolute())


def place(path: str, section: str = "data") -> str:
    """What is read: a local path, absolute, or s3://bucket/prefix. An address with more in it is not shown: it may be a key."""
    expanded = _expanded(path)
    if not expanded.startswith(S3):
        if "://" in expanded:
            raise ValueError("a path of a local or shared file system, or s3://bucket/prefix")
        return absolute(expanded)
    if not re.fullmatch(BUCKET, expanded.removeprefix(S3).partition("/")[0]):
        takes = "takes s3://bucket/prefix; keys are the environment's alone"
        raise InputError(f"{section}: got s3:// and after it what is no bucket's name, {takes}")
    if "//" in expanded.removeprefix(S3):
        raise ValueError("s3://bucket/prefix without an empty part (//), which Arrow does not read")
    return expanded.rstrip("/")


def bucket(path: str) -> str:
    """Where finished datasets are kept: s3://bucket/prefix alone."""
    if not _expanded(path).startswith(S3):
        raise ValueError("s3://bucket/prefix; by default datasets are in scale.storage_path alone")
    return place(path, "scale.datasets")


LocalPath = Annotated[str, AfterValidator(absolute)]
Place = Annotated[str, AfterValidator(place)]
Bucket = Annotated[str, AfterValidator(bucket)]
