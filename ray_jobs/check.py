"""Checks a recipe and prints its plan; computes nothing else: python -m ray_jobs.check RECIPE.yaml [--set KEY=VALUE ...]"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.table import Table

from components import plan
from components.config import Recipe
from components.data import manifest
from ray_jobs import _program, _results, _tracking


def run(recipe: Recipe, _: argparse.Namespace) -> None:
    _program.require_server(_tracking.uri(recipe))
    table = Table(title=f"{recipe.name}  {recipe.fingerprint()}", show_header=False, title_justify="left")
    for name, text in plan.of(recipe):
        table.add_row(name, text)
    table.add_row("tracking", _tracking.uri(recipe))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    dataset = manifest.dataset_path(recipe)
    _results.tell(_results.Checked(recipe=recipe.fingerprint(), data=dataset.name, dataset=str(dataset)))


if __name__ == "__main__":
    sys.exit(_program.main(__doc__ or "", run))
