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

from rich.console import Console

from components import steps
from pipelines.stages import STAGES


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0, 2 (wrong input), or that of the first stage that fails; a stage writes to this terminal itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", metavar="RECIPE.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as loss.temperature=0.1")
    given = parser.parse_args(arguments)
    try:
        recipe = steps.parameter(given.recipe, given.set)
    except ValueError as error:
        print("\n".join(f"error: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return 2
    console = Console(stderr=True)
    started, ran = time.perf_counter(), 0
    for number, stage in enumerate(STAGES, start=1):
        title = f"[bold]{number}/{len(STAGES)} {stage.name}[/]"
        if not steps.is_asked(recipe, stage.asked_by):
            console.rule(f"{title}  nothing to do: the recipe has no {stage.asked_by}", align="left")
            continue
        console.rule(f"{title}  python -m {stage.program} {' '.join(arguments)}", align="left")
        with tempfile.TemporaryDirectory() as scratch:
            result = Path(scratch, "result.json")
            environment = {**os.environ, steps.RESULT: str(result)}
            code = subprocess.run([sys.executable, "-m", stage.program, *arguments], env=environment, check=False).returncode
            if code:
                console.print(f"[bold red]{stage.name} failed[/] (exit code {code})")
                return code
            if "recipe" in stage.outputs:  # it has the changes of --set
                left = json.loads(result.read_text(encoding="utf-8"))
                recipe, arguments = left["recipe"], [left["file"]]
        ran += 1
    console.print(f"{ran} stages in {time.perf_counter() - started:.0f} s")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # the stage has said so
        sys.exit(130)
