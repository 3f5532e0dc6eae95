"""An artifact that points: its file and its metadata say where, and it can be followed."""

from __future__ import annotations

import json
from pathlib import Path

from kfp.dsl import Dataset, Model

from components.steps import pointers


def test_what_an_artifact_points_to_is_found_again(tmp_path: Path) -> None:
    own = tmp_path / "kfp" / "dataset"
    own.parent.mkdir()
    artifact = Dataset(name="dataset", uri=str(own))
    pointers.write(artifact, "/shared/my runs/a%20b", users=3, best_value=None, metric="recall@20")
    assert artifact.uri == str(own), "kfp's own"
    assert artifact.metadata == {"uri": "file:///shared/my%20runs/a%2520b", "users": 3, "metric": "recall@20"}
    assert json.loads(own.read_text()) == artifact.metadata
    assert pointers.folder(artifact) == "/shared/my runs/a%20b"
    pointers.write(artifact, "s3://bucket/kept/abc")
    assert artifact.metadata["uri"] == "s3://bucket/kept/abc"


def test_the_best_run_is_the_one_that_validated_best() -> None:
    runs = [Model(name=name, uri=name) for name in "abc"]
    assert pointers.best(runs) is runs[0], "none was validated"
    for run, value in zip(runs, (0.1, 0.3, 0.2), strict=True):
        run.metadata["best_value"] = value
    assert pointers.best(runs) is runs[1]
