"""Environments of their own for libraries that benchmarks stand beside: their pins exclude the project's."""

from __future__ import annotations

import subprocess
import sys
import venv
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tests.benchmarks import _common


@dataclass(frozen=True)
class Environment:
    """A library and what else is installed, torch as the project has it; `alone`: without what it asks for itself."""

    name: str
    library: str
    alone: bool = False
    others: tuple[str, ...] = ()


RECBOLE = Environment(
    "recbole",
    "recbole==1.2.1",
    alone=True,  # it asks for an old Ray too, which what is measured has no use for
    others=(
        "numpy==1.26.4",  # it asks for numpy's names of before 2
        "pandas==2.2.3",
        "scipy==1.13.1",
        "torch",
        "colorlog",
        "colorama",
        "thop",
        "tabulate",
        "texttable",
        "scikit-learn",
        "pyyaml",
        "tensorboard",
        "tqdm",
        "psutil",
    ),
)
REPLAY = Environment("replay", "replay-rec==0.22.0")


def python(environment: Environment, storage: str, quick: bool) -> Path | None:
    """The Python of an environment in the storage path, made there now if it is missing; None where a quick look has none."""
    home = Path(storage).absolute() / environment.name
    found = home / "bin" / "python"
    if not (home / "ready").is_file():
        if quick:
            _common.say(f"{environment.library}: left out of a quick look, which makes no environment")
            return None
        venv.create(home, with_pip=True, clear=True)
        alone = ("--no-deps",) if environment.alone else ()
        torch = f"torch=={metadata.version('torch').partition('+')[0]}"
        others = [torch if name == "torch" else name for name in environment.others]
        for packages in filter(None, ((*alone, environment.library), others)):
            install = [str(found), "-m", "pip", "install", "--quiet", *packages]
            subprocess.run(install, check=True, stdout=sys.stderr)
        (home / "ready").touch()
    return found
