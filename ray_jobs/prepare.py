"""Prepares a recipe's dataset: python -m ray_jobs.prepare RECIPE.yaml [--set data.k_core.users=10]"""

from __future__ import annotations

import argparse
import sys
import time

from components import storage
from components.config import Recipe
from components.data import manifest, sources
from ray_jobs import _program, _results


def run(recipe: Recipe, _: argparse.Namespace) -> None:
    since = time.monotonic()
    plan = sources.inspect(recipe.data)
    files = len(plan.files) + len(plan.bad)
    _say(f"{'inspect':<10} {files:,} file{'s' * (files > 1)}, {plan.bytes:,} bytes ({time.monotonic() - since:.1f} s)")
    folder = manifest.dataset_path(recipe, plan)
    if manifest.is_current(folder):
        print(f"{folder}: current, nothing to do")
    else:
        from ray_jobs import _dataflow  # imports Ray: not needed to find a mistake in a recipe

        with _program.cluster():
            _dataflow.prepare(recipe, report=_say, plan=plan)
        print(folder)
    about = storage.open_finished(folder, "dataset")
    sizes = {"rows": about["rows"], "users": about["num_users"], "items": about["num_items"]}
    _results.tell(_results.Prepared(dataset=str(folder), fingerprint=about["fingerprint"], **sizes))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(_program.main(__doc__ or "", run))
