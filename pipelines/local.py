"""Runs the stages here, one after the other, as the programs that a cluster runs.

python -m pipelines.local RECIPE.yaml [--set KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from components import steps
from pipelines.stages import STAGES


def main(arguments: Sequence[str]) -> int:
    """Every stage's exit code ends the run if it is not 0; a stage writes to this terminal itself. 2: the recipe is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", metavar="RECIPE.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as loss.temperature=0.1")
    given = parser.parse_args(arguments)
    console = Console(stderr=True)
    started = time.perf_counter()
    try:
        recipe = steps.parameter(given.recipe, given.set)
    except ValueError as error:
        print("\n".join(f"error: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return 2
    for number, stage in enumerate(STAGES, start=1):
        title = f"[bold]{number}/{len(STAGES)} {stage.name}[/]"
        if not steps.is_asked(recipe, stage.asked_by):
            console.rule(f"{title}  nothing to do: the recipe has no {stage.asked_by}", align="left")
            continue
        console.rule(f"{title}  python -m {stage.program} {' '.join(arguments)}", align="left")
        code, result = _run(stage.program, arguments)
        if code:
            console.print(f"[bold red]{stage.name} failed[/] (exit code {code})")
            return code
        if "recipe" in stage.outputs:  # which has the changes of --set
            recipe, arguments = result["recipe"], [result["file"]]
    console.print(f"{len(STAGES)} stages in {time.perf_counter() - started:.0f} s")
    return 0


def _run(program: str, arguments: Sequence[str]) -> tuple[int, dict[str, Any]]:
    """A program's exit code and, where that is 0, its result."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder, "result.json")
        command = [sys.executable, "-m", program, *arguments]
        code = subprocess.run(command, env={**os.environ, steps.RESULT: str(told)}, check=False).returncode
        return code, {} if code else json.loads(told.read_text(encoding="utf-8"))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # the stage has said so
        sys.exit(130)
