"""Typed artifacts by URI: KFP keeps a small file, which says where on the storage path the real thing is.

KFP's own URI of an artifact stays what KFP made it: its launcher refuses an input whose URI is no bucket, and copies into the
step's pod whatever lies at one that is, were it a terabyte.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname


def write(artifact: Any, folder: str, **facts: Any) -> None:
    """Makes an artifact point to a folder or to s3://; `facts` (texts and numbers; None is left out) join its metadata."""
    artifact.metadata["uri"] = folder if "://" in folder else Path(folder).as_uri()
    artifact.metadata.update({name: value for name, value in facts.items() if value is not None})
    save(artifact)


def save(artifact: Any) -> None:
    """Writes an artifact's metadata as its file: kfp finds nothing in its cache without one."""
    Path(artifact.path).write_text(json.dumps(artifact.metadata, indent=1), encoding="utf-8")


def best(runs: list[Any]) -> Any:
    """The run that validated best; of those that were not validated, the first."""
    return max(runs, key=lambda run: run.metadata.get("best_value", 0.0))


def folder(artifact: Any) -> str:
    """Where an artifact points to."""
    return url2pathname(urlsplit(artifact.metadata["uri"]).path)
