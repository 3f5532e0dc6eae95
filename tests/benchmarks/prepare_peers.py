"""Preparing a log beside RecBole's and RePlay's own ways, on the same log: seconds, memory, and the rows that are left.

python -m tests.benchmarks.prepare_peers [--rows 1000000 10000000] [--storage DIR] [--quick] [--keep]

Log and work are those of `prepare`: dedupe, 10-core, ids, leave-one-out, on disk. All are whole programs, timed from start to
end, Ray's start and the peers' imports included, one after the other. What a peer has no part for, and what of its own is no
part of the work, is told by its program (_recbole_prepare.py, _replay_prepare.py). RecBole reads text in a format of its own:
that is written before, and not counted. A peer may take LIMIT_SECONDS, and offers itself to the kernel where memory runs out;
how it ended is told in place of its figures. Its memory is the kernel's high-water mark of its one process; ours is that of the
tree, as in `prepare`. Peers live in environments of their own in the storage path, made once (pip; --quick makes none, and
leaves out who has none). --quick: 200,000 rows.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from tests.benchmarks import _common, _environments, _peers, prepare
from tests.benchmarks._environments import Environment

LIMIT_SECONDS = 600.0
QUICK_ROWS = 200_000


class Peer(NamedTuple):
    """Where it runs, its program, what makes its input of the log's folder, and the package whose version it goes by."""

    environment: Environment
    program: str
    source: Callable[[Path, Path], Path]
    package: str


def _text(log: Path, place: Path) -> Path:
    """The log in RecBole's format, file by file."""
    path = place / "log" / "log.inter"
    path.parent.mkdir(parents=True)
    path.write_text("user_id:token\titem_id:token\ttimestamp:float\n")
    with path.open("ab") as file:
        for part in sorted(log.glob("*.parquet")):
            pl.read_parquet(part).write_csv(file, separator="\t", include_header=False)
    return place


PEERS = {
    "RecBole": Peer(_environments.RECBOLE, "_recbole_prepare", _text, "recbole"),
    "RePlay": Peer(_environments.REPLAY, "_replay_prepare", lambda log, _: log, "replay-rec"),
}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    pythons = {name: _environments.python(peer.environment, arguments.storage, arguments.quick) for name, peer in PEERS.items()}
    runs = []
    for rows in [QUICK_ROWS] if arguments.quick else arguments.rows:
        with tempfile.TemporaryDirectory(prefix="hardneg-peers-", dir=arguments.folder) as folder:
            runs.append(_one(rows, Path(folder), {name: python for name, python in pythons.items() if python}))
    return {"seeds": [prepare.SEED], "figures": {"law": prepare.LAW, "limit_seconds": LIMIT_SECONDS, "runs": runs}}


def _one(rows: int, folder: Path, pythons: dict[str, Path]) -> dict[str, Any]:
    prepare.write_log(folder / "log", rows)
    _common.say(f"{rows:,} rows are written")
    ours = prepare.prepared(folder)
    _common.say(f"{rows:,} rows, hardneg: {ours['total_seconds']:.1f} s, {ours['peak_gib']:.2f} GiB")
    peers = {}
    for name, python in pythons.items():
        with tempfile.TemporaryDirectory(dir=folder) as place:
            found = peers[name] = _peer(PEERS[name], python, folder / "log", Path(place))
        how = found.get("ended", f"{found['total_seconds']:.1f} s")
        _common.say(f"{rows:,} rows, {name}: {how}, {found['peak_gib']:.2f} GiB, {found.get('rows')} for {ours['rows']}")
        if "ended" not in found:
            found["times_hardneg"] = found["total_seconds"] / ours["total_seconds"]
    return {"log_rows": rows, "prepare": ours, "peers": peers}


def _peer(peer: Peer, python: Path, log: Path, place: Path) -> dict[str, Any]:
    """Its figures, or what it told until it ended, and how it did."""
    source = peer.source(log, place / "source")
    command = [str(python), "-m", f"tests.benchmarks.{peer.program}", str(source), str(place / "out"), str(prepare.CORE)]
    run = prepare.watched(command, limit=LIMIT_SECONDS)
    told = _peers.heard(run.output)
    peak = told.pop("peak", run.largest) / 2**30
    found = {**told, "total_seconds": run.seconds, "peak_gib": peak}
    if run.code:
        return {**found, "ended": run.ended()}
    rest = run.seconds - sum(told["seconds"].values())
    return {**found, "seconds": {**told["seconds"], "start and end": rest}}


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--storage", default="runs", help="where environments for the peers are made")
    parser.add_argument("--folder", help="where the log and what is made of it lie for a while")


if __name__ == "__main__":
    sys.exit(_common.main("prepare_peers", __doc__ or "", measure, _arguments))
