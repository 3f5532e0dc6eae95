"""Prepares a recipe's dataset: python -m ray_jobs.prepare RECIPE.yaml [--set data.k_core.users=10]"""

from __future__ import annotations

import argparse
import sys
import time

from components.config import Recipe
from components.data import manifest, remote, sources
from ray_jobs import _program, _results


def run(recipe: Recipe, _: argparse.Namespace) -> None:
    since = time.monotonic()
    plan = sources.inspect(recipe.data)
    files = len(plan.files) + len(plan.bad)
    _say(f"{'inspect':<10} {files:,} file{'s' * (files > 1)}, {plan.bytes:,} bytes ({time.monotonic() - since:.1f} s)")
    folder = manifest.dataset_path(recipe, plan)
    kept = remote.place_of(recipe.scale, folder)
    is_current = manifest.is_current(folder) if kept is None else remote.look(kept) is not None
    if is_current:
        print(f"{kept or folder}: current, nothing to do")
    else:
        if kept:
            remote.try_writing(kept)  # before the work
        if not manifest.is_current(folder):
            from ray_jobs import _dataflow  # imports Ray: not needed to find a mistake in a recipe

            with _program.cluster():
                _dataflow.prepare(recipe, report=_say, plan=plan)
        if kept:
            from ray_jobs import _remote

            _remote.upload(folder, kept)
        print(kept or folder)
    prepared = remote.prepared(recipe.scale, folder)
    assert prepared is not None, "it is current"
    about = prepared[1]
    sizes = {"rows": about["rows"], "users": about["num_users"], "items": about["num_items"]}
    _results.tell(_results.Prepared(dataset=kept or str(folder), fingerprint=about["fingerprint"], **sizes))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(_program.main(__doc__ or "", run))
