"""Gowalla and Yelp2018, the classic split, under both protocols, by the project's own programs.

python -m tests.benchmarks.classic_split {gowalla,yelp2018} [--quick] [--keep] [--storage DIR] [--set KEY=VALUE ...]

(h) epochs chosen on validation (a tenth of each user's training rows), then refit on train + valid for as many, tested once.
(p) fit on train + valid, best epoch on test: the protocol of published logs, for comparison with them alone.
Both fit the same rows from the same seed, and what is looked at changes no weight (tests/unit/training/test_protocols.py): the
refit of (h) is (p)'s run at that epoch, bit for bit. So (h) is read off (p)'s history instead of being trained a second time.
Finished runs of the same recipe on the storage path are taken as they are. Needs HARDNEG_DATA.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from components import config, storage
from components.config import Recipe
from ray_jobs import _tracking
from tests.benchmarks import _common

ROOT = Path(__file__).parents[2]
PUBLISHED = {"gowalla": {"recall@20": 0.1759, "ndcg@20": 0.1395}, "yelp2018": {"recall@20": 0.0721, "ndcg@20": 0.0592}}
PUBLISHED_BY = "MF + softmax loss, cosine, 800 uniform negatives per row, dropout; log of junkangwu/BSL, best epoch on test"
QUICK = ("training.epochs=1", "training.validate_every=1", "negatives.0.count=256")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", choices=sorted(PUBLISHED))
    parser.add_argument("--storage", default="runs", help="storage path, where finished runs are looked for")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    path = ROOT / "pipelines" / "recipes" / f"{arguments.log}_mf_ssm.yaml"
    changes = [f"scale.storage_path={Path(arguments.storage).absolute()}", *arguments.set, *(QUICK if arguments.quick else ())]
    base = config.load(path, changes)
    _program("prepare", path, changes)
    chosen = _run(path, base, changes)
    on_test = [*changes, "training.fit_on=train+valid", "training.select_on=test"]
    published = _run(path, config.load(path, on_test), on_test)
    _program("evaluate", path, on_test, "--run", str(published))
    metrics = storage.read_json(published / "evaluation" / "test" / "metrics.json")["metrics"]
    about = {what: storage.read_json(run / storage.MANIFEST) for what, run in (("h", chosen), ("p", published))}
    epochs = {protocol: manifest["best_epoch"] + 1 for protocol, manifest in about.items()}
    tested = {entry["step"]: entry["metrics"] for entry in _tracking.read_history(published)}
    if epochs["h"] not in tested:
        raise RuntimeError(f"(p) stopped before epoch {epochs['h']}: raise training.patience")
    wanted = PUBLISHED[arguments.log]
    names = ("recall@20", "ndcg@20")
    p = {name: metrics["model"][name] for name in names}
    return {
        "variant": arguments.log,
        "seeds": [base.seed],
        "recipe": base.model_dump(mode="json", exclude={"data": {"source"}, "scale": True, "tracking": True, "search": True}),
        "figures": {
            "log": arguments.log,
            "trained_at": {what: _trained_at(run) for what, run in (("h", chosen), ("p", published))},
            "h": {**{name: tested[epochs["h"]][f"test_{name}"] for name in names}, "epochs": epochs["h"]},
            "h_validation_recall@20": about["h"]["best_value"],
            "curve_p": {step: tested[step]["test_recall@20"] for step in sorted(tested) if "test_recall@20" in tested[step]},
            "p": {**p, "epochs": epochs["p"]},
            "most_popular": {name: metrics["most popular"][name] for name in names},
            "published_p": {**wanted, "source": PUBLISHED_BY},
            "p_over_published": {name: p[name] / wanted[name] for name in wanted},
        },
    }


def _trained_at(run: Path) -> str:
    """The commit that trained a run, which may be older than this benchmark's."""
    tracked = _tracking.attach(run)
    commit = _tracking.client(tracked.tracking_uri).get_run(tracked.run_id).data.tags["mlflow.source.git.commit"]
    return commit[:12] + "+" * commit.endswith("+")


def _run(path: Path, recipe: Recipe, overrides: list[str], *arguments: str) -> Path:
    """The newest finished run of exactly this recipe, trained now if there is none."""
    if not (found := _finished(recipe)):
        _program("train", path, overrides, *arguments)
        found = _finished(recipe)
    _common.say(f"{recipe.training.fit_on}, chosen on {recipe.training.select_on}: {found[-1].name}")
    return found[-1]


def _finished(recipe: Recipe) -> list[Path]:
    folder = Path(recipe.scale.storage_path) / "runs"
    finished = sorted(run for run in folder.glob(f"{recipe.name}-*") if storage.is_finished(run))
    return [
        run for run in finished if Recipe.from_json((run / "recipe.json").read_text()).fingerprint() == recipe.fingerprint()
    ]


def _program(name: str, path: Path, overrides: list[str], *arguments: str) -> None:
    command = [sys.executable, "-m", f"ray_jobs.{name}", str(path), *arguments, *(f"--set={change}" for change in overrides)]
    subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=True)


if __name__ == "__main__":
    sys.exit(_common.main("classic_split", __doc__ or "", measure, add_arguments))
