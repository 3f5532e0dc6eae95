"""Checks a recipe and prints its plan; computes nothing else. On a cluster it tries every node too.

python -m ray_jobs.check RECIPE.yaml [--set KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.table import Table

from components import plan
from components.config import Recipe
from components.data import manifest, remote
from ray_jobs import _program, _results, _tracking


def _try_nodes(recipe: Recipe) -> int:
    from ray_jobs import _nodes  # imports Ray: not needed to find a mistake in a recipe

    with _program.cluster():
        count = _nodes.check(recipe)
        _program.require_slots(recipe.scale, recipe.scale.num_workers, recipe.scale.use_gpu)
    return count


def run(recipe: Recipe, _: argparse.Namespace) -> None:
    _program.require_server(_tracking.uri(recipe))
    if recipe.search.space:
        from ray_jobs import _search  # imports Ray

        _search.check(recipe)
    nodes = _try_nodes(recipe) if _program.has_cluster() else None
    table = Table(title=f"{recipe.name}  {recipe.fingerprint()}", show_header=False, title_justify="left")
    for name, text in plan.of(recipe):
        table.add_row(name, text)
    table.add_row("tracking", _tracking.uri(recipe))
    if nodes is not None:
        table.add_row("nodes", f"{nodes}: each sees the source, shares the storage path and reaches MLflow")
    dataset = manifest.dataset_path(recipe)
    if kept := remote.place_of(recipe.scale, dataset):
        table.add_row("datasets", f"{kept}: {'prepared' if remote.look(kept) else 'nothing there yet'}")
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    _results.tell(_results.Checked(recipe=recipe.fingerprint(), data=dataset.name, dataset=kept or str(dataset)))


if __name__ == "__main__":
    sys.exit(_program.main(__doc__ or "", run))
