"""Compares evaluated runs: differences with bootstrap intervals over users and over seeds, popularity groups, cost.

python -m ray_jobs.compare RUN RUN [RUN ...] [--split NAME] [--metric recall@20 ...] [--protocol masked | not_masked]
                            [--storage-path runs] [--out DIR]

Runs that differ in their seed alone are one system; the first RUN's is the baseline. Needs no recipe and no Ray. Leaves
compare.html, a page that stands alone; the runs' MLflow gets it, below comparisons/, where there is one and it answers.
"""

from __future__ import annotations

import argparse
import sys

from components.config import Scale
from ray_jobs import _program

METRICS = ("recall@20", "ndcg@20")


def parse(line: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, MLflow id or the address of its MLflow page")
    parser.add_argument("--split", help="on which the runs were evaluated; evaluation.split of the first's recipe by default")
    parser.add_argument(
        "--metric", action="append", metavar="NAME@K", help=f"may be repeated; {' and '.join(METRICS)} by default"
    )
    parser.add_argument(
        "--protocol", choices=("masked", "not_masked"), default="masked", help="whether seen items are; masked by default"
    )
    parser.add_argument(
        "--storage-path", default="runs", metavar="DIR", help="where runs are looked for by id; runs by default"
    )
    parser.add_argument("--out", metavar="DIR", help="by default comparisons/<baseline>-<digest>/ in the storage path")
    return parser.parse_args(line)


def run(arguments: argparse.Namespace) -> int:
    from ray_jobs import _comparison

    storage_path = Scale(storage_path=arguments.storage_path).storage_path
    metrics = tuple(dict.fromkeys(arguments.metric or METRICS))
    _comparison.compare(arguments.runs, arguments.split, metrics, storage_path, arguments.out, arguments.protocol)
    return 0


if __name__ == "__main__":
    sys.exit(_program.guarded(lambda: run(parse(sys.argv[1:]))))
