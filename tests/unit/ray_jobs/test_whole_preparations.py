"""Whole preparations, done at once and without Ray: what the manifest lists, what no task exceeds, which faults are borne."""

from __future__ import annotations

from pathlib import Path

from components import storage
from components.data.manifest import WORK
from tests.inline import inline
from tests.integration.preparing import RULES, prepare, write_log


def test_the_manifest_lists_what_was_written_as_it_is(tmp_path: Path) -> None:
    with inline():
        folder, manifest = prepare(write_log(tmp_path / "log.csv"), tmp_path, **RULES)
    found = {str(path.relative_to(folder)): storage.entry(path) for path in folder.rglob("*") if path.is_file()}
    del found[storage.MANIFEST]
    assert manifest["files"] == found
    assert {name.partition("/")[0] for name in found} >= {"quarantine", "train", "users.parquet", "items.parquet", "report"}
    assert not (folder / WORK).exists()
