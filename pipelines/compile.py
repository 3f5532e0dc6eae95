"""Compiles the Kubeflow pipeline, or makes its parameter `recipe`.

python -m pipelines.compile [--output FILE] [--image IMAGE]
python -m pipelines.compile --recipe RECIPE.yaml [--set KEY=VALUE ...]   prints it as `kfp run create` takes it
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

OUTPUT = Path(__file__).with_name("training.yaml")


def main(arguments: list[str]) -> int:
    """The exit code: 0, or 2 (wrong input, or the extra is missing)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="by default pipelines/training.yaml")
    parser.add_argument("--image", help="for the steps and RayJobs")
    parser.add_argument("--recipe", metavar="RECIPE.yaml", help="prints the parameter `recipe`, and compiles nothing")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as loss.temperature=0.1")
    given = parser.parse_args(arguments)
    try:
        from components import steps
        from pipelines import training
    except ImportError as error:
        install = "pip install -c constraints.txt -e '.[pipelines]'"
        print(f"error: Kubeflow's pipelines need the extra `pipelines`: {install} ({error})", file=sys.stderr)
        return 2
    if given.recipe:
        try:
            print(json.dumps(steps.parameter(given.recipe, given.set)))  # quoted: kfp's command line reads values as JSON
        except ValueError as error:
            print("\n".join(f"error: {line}" for line in str(error).splitlines()), file=sys.stderr)
            return 2
        return 0
    from kfp import compiler

    compiler.Compiler().compile(training.build(given.image or steps.IMAGE), str(given.output))
    print(given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
