"""Checks a recipe and prints its plan; computes nothing else: python -m ray_jobs.check RECIPE.yaml [--set KEY=VALUE ...]"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.table import Table

from components import plan
from components.config import Recipe
from components.errors import InputError
from ray_jobs import _program, _tracking


def run(recipe: Recipe, _: argparse.Namespace) -> None:
    if _program.is_submitted() and _tracking.is_local(recipe):
        raise InputError(
            "tracking.uri: got none, takes the URI of an MLflow server where the program is a submitted job "
            "(or set MLFLOW_TRACKING_URI): its own SQLite would be lost or locked on the cluster"
        )
    table = Table(title=f"{recipe.name}  {recipe.fingerprint()}", show_header=False, title_justify="left")
    for name, text in plan.of(recipe):
        table.add_row(name, text)
    table.add_row("tracking", _tracking.uri(recipe))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    sys.exit(_program.main(__doc__ or "", run))
