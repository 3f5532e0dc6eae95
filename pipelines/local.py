"""Runs the stages here, one after the other, as the programs that a cluster runs.

python -m pipelines.local RECIPE.yaml [--set KEY=VALUE ...]
"""

from __future__ import annotations

import subprocess
import sys
import time

from rich.console import Console

from pipelines.stages import STAGES


def main(arguments: list[str]) -> int:
    """Every stage's exit code ends the run if it is not 0; a stage writes to this terminal itself."""
    console = Console(stderr=True)
    started = time.perf_counter()
    for number, stage in enumerate(STAGES, start=1):
        console.rule(
            f"[bold]{number}/{len(STAGES)} {stage.name}[/]  python -m {stage.program} {' '.join(arguments)}", align="left"
        )
        code = subprocess.run([sys.executable, "-m", stage.program, *arguments], check=False).returncode
        if code:
            console.print(f"[bold red]{stage.name} failed[/] (exit code {code})")
            return code
    console.print(f"{len(STAGES)} stages in {time.perf_counter() - started:.0f} s")
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # the stage has said so
        sys.exit(130)
