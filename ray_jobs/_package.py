"""What a submitted job takes along: the tree, less what .gitignore and .rayignore name, measured as Ray will pack it."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from components.errors import InputError

LIMIT = 100 * 2**20  # bytes that a head's HTTP server takes at once
ZIP_BYTES, ZIP_BYTES_PER_FILE = 22, 76  # headers, apart from names, which are there twice; Ray does not compress
LISTED = 10
TREE = Path(__file__).parents[1]


def tree() -> Path | None:
    """The project's tree; None where it is an installed package, which the cluster must have too."""
    return TREE if (TREE / ".rayignore").is_file() else None


@dataclass(frozen=True)
class Package:
    """`files` by path, relative to the tree, with their sizes."""

    folder: Path
    files: dict[str, int]

    @property
    def bytes(self) -> int:
        return ZIP_BYTES + sum(size + 2 * len(name.encode()) + ZIP_BYTES_PER_FILE for name, size in self.files.items())

    def __str__(self) -> str:
        return f"{_mib(self.bytes)} in {len(self.files)} files of {self.folder}"


def measure(folder: Path) -> Package:
    """Walks the tree by Ray's own rules.

    Raises:
        InputError: it is larger than Ray takes; lists the largest files.
    """
    from ray._private import ray_constants
    from ray._private.runtime_env import packaging  # no public function says what Ray will pack

    files: dict[str, int] = {}

    def add(path: Path) -> None:
        if path.is_file():
            files[str(path.relative_to(folder))] = path.stat().st_size

    excludes = [packaging._get_excludes(folder, ray_constants.get_runtime_env_default_excludes())]
    honours_gitignore = os.environ.get(ray_constants.RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
    silent = logging.Logger("silent", logging.ERROR)
    packaging._dir_travel(folder, excludes, add, include_gitignore=honours_gitignore, logger=silent)
    package = Package(folder, files)
    if package.bytes > LIMIT:
        largest = sorted(files, key=lambda name: -files[name])[:LISTED]
        lines = [f"working directory: got {package}, takes at most {_mib(LIMIT)}; name in .rayignore what a job does not need:"]
        lines += [f"  {_mib(files[name]):>12}  {name}" for name in largest]
        raise InputError("\n".join(lines))
    return package


def _mib(count: float) -> str:
    return f"{count / 2**20:,.1f} MiB"
