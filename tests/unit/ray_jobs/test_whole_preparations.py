"""Whole preparations, done at once and without Ray: what the manifest lists, what no task exceeds, which faults are borne."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from components import storage
from components.data import locations, readers
from components.data.files import Part
from components.data.lines import Lines
from components.data.locations import StorageError
from components.data.manifest import WORK
from tests.inline import inline
from tests.integration.preparing import RULES, contents, prepare, write_log


def test_the_manifest_lists_what_was_written_as_it_is(tmp_path: Path) -> None:
    with inline():
        folder, manifest = prepare(write_log(tmp_path / "log.csv"), tmp_path, **RULES)
    found = {str(path.relative_to(folder)): storage.entry(path) for path in folder.rglob("*") if path.is_file()}
    del found[storage.MANIFEST]
    assert manifest["files"] == found
    assert {name.partition("/")[0] for name in found} >= {"quarantine", "train", "users.parquet", "items.parquet", "report"}
    assert not (folder / WORK).exists()


@pytest.mark.parametrize("passes", [True, False])
def test_a_fault_that_passes_in_mid_file_costs_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: bool) -> None:
    """Every part fails once behind its first lines, as a network's file system may; put aside, its file would be missing."""
    log = write_log(tmp_path / "log.csv")
    lines_of, failed = readers.lines_of, set[int]()

    def faulty(part: Part) -> Iterator[Lines]:
        yield from lines_of(part)
        if part.index not in failed or not passes:
            failed.add(part.index)
            raise OSError(errno.ETIMEDOUT, "Connection timed out")

    monkeypatch.setattr(locations, "PAUSE_SECONDS", 0.0)
    with inline():
        undisturbed, _ = prepare(log, tmp_path / "apart", **RULES)
        monkeypatch.setattr(readers, "lines_of", faulty)
        if passes:
            assert contents(prepare(log, tmp_path, **RULES)[0]) == contents(undisturbed)
            assert len(failed) > 3
            return
        message = "^data.source: got no data in 4 tries, takes a storage that answers: .*Connection timed out"
        with pytest.raises(StorageError, match=message):
            prepare(log, tmp_path, on_bad_file="quarantine", **RULES)
