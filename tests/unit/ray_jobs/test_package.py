"""What is shipped is what Ray packs, without junk; a tree too large is refused with what makes it so."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ray._private import ray_constants
from ray._private.runtime_env import packaging

from components.errors import InputError
from ray_jobs import _package

ROOT = Path(__file__).parents[3]


def small_tree(folder: Path) -> Path:
    """Some of everything that may lie around."""
    for name in ("kept.py", "deep/er/kept.py", "runs/huge.bin", "a.log", "deep/b.log", ".git/objects/x", ".venv/lib/y.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * 1000)
    (folder / ".gitignore").write_text("*.log\n")
    (folder / ".rayignore").write_text("runs/\n")
    return folder


def test_what_is_measured_is_what_ray_packs(tmp_path: Path) -> None:
    for tree in (small_tree(tmp_path / "small"), ROOT):
        excludes = ray_constants.get_runtime_env_default_excludes()
        packed = tmp_path / f"{tree.name}.zip"
        packaging.create_package(str(tree), packed, include_gitignore=True, excludes=excludes)
        with zipfile.ZipFile(packed) as archive:
            names = {entry.filename for entry in archive.infolist() if not entry.is_dir()}
        found = _package.measure(tree)
        assert set(found.files) == names
        assert 0 <= packed.stat().st_size - found.bytes < 2000, "but for empty folders"


def test_ignored_files_are_not_shipped(tmp_path: Path) -> None:
    found = _package.measure(small_tree(tmp_path))
    assert set(found.files) == {"kept.py", "deep/er/kept.py", ".gitignore", ".rayignore"}
    assert "0.0 MiB in 4 files of" in str(found)


def test_this_tree_ships_its_programs_and_no_junk() -> None:
    found = _package.measure(ROOT)
    assert {"ray_jobs/train.py", "components/config.py", "pipelines/recipes/ml100k_mf_ssm.yaml"} <= set(found.files)
    junk = {".git", ".venv", "runs", "tests", "docs", "infra", "__pycache__", ".pytest_cache", ".ruff_cache"}
    assert [name for name in found.files if junk & set(Path(name).parts)] == []
    assert found.bytes < 3 * 2**20


@pytest.mark.parametrize("ignored", [".gitignore", ".rayignore"])
def test_secrets_that_the_readme_has_one_write_are_neither_shipped_nor_committed(tmp_path: Path, ignored: str) -> None:
    text = (ROOT / "infra" / "README.md").read_text()
    written = re.findall(r"> (secrets/[\w-]+/[\w.-]+)", text) + re.findall(r"--output (\S+)", text)
    assert len(written) > 10
    for name in (*written, "kept.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("s3cret")
    shutil.copyfile(ROOT / ignored, tmp_path / ignored)
    assert set(_package.measure(tmp_path).files) == {"kept.py", ignored}


def test_a_tree_too_large_names_its_largest_files(tmp_path: Path) -> None:
    tree = small_tree(tmp_path)
    for n in range(12):
        with (tree / f"table-{n:02d}.bin").open("wb") as file:
            file.truncate((n + 1) * 2 * 2**20)
    with pytest.raises(InputError) as caught:
        _package.measure(tree)
    first, *listed = str(caught.value).splitlines()
    assert first.startswith("working directory: got 156.0 MiB in 16 files of ")
    assert "takes at most 100.0 MiB" in first
    assert ".rayignore" in first
    assert [line.split() for line in listed[:2]] == [["24.0", "MiB", "table-11.bin"], ["22.0", "MiB", "table-10.bin"]]
    assert len(listed) == 10


def test_an_installed_package_ships_nothing(tmp_path: Path) -> None:
    """Its folder is site-packages."""
    program = "import sys; from ray_jobs import _package; print(_package.tree())"
    (tmp_path / "site").mkdir()
    for name in ("components", "ray_jobs"):
        (tmp_path / "site" / name).symlink_to(ROOT / name)
    for root, expected in ((ROOT, str(ROOT)), (tmp_path / "site", "None")):
        code = [sys.executable, "-c", program]
        done = subprocess.run(code, cwd=root, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
