"""Gowalla and Yelp2018, the classic split, both choices of the epoch, by the project's own programs.

python -m tests.benchmarks.classic_split RECIPE [--seeds 1 2 3] [--quick] [--keep] [--storage DIR] [--set KEY=VALUE ...]

RECIPE is the name of one of pipelines/recipes, such as gowalla_lightgcn_ssm.
(h) epochs chosen on validation (a tenth of each user's training rows), then refit on train + valid for as many, tested once.
(p) fit on train + valid, best epoch on test: how published logs choose, for comparison with them alone.
Both fit the same rows from the same seed, and what is looked at changes no weight (tests/unit/training/test_choices.py): the
refit of (h) is (p)'s run at that epoch, bit for bit. So (h) is read off (p)'s history instead of being trained a second time.
Finished runs of the same recipe and seed on the storage path are taken as they are. Needs HARDNEG_DATA.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from components import config, storage
from ray_jobs import _mlflow, _tracking
from tests.benchmarks import _common, _programs

METRICS = ("recall@20", "ndcg@20")
LOG = "; log of junkangwu/BSL, best epoch on test"
SL_MF = "MF + softmax loss, cosine, 800 uniform negatives per row, dropout" + LOG
BSL_MF = "MF + BSL, cosine, 800 uniform negatives per row, dropout" + LOG
SL_GCN = "LightGCN + softmax loss without the positive in its denominator, in-batch, 1 hop" + LOG
SL_GCN_3 = (
    "LightGCN + softmax loss without the positive in its denominator, in-batch, 3 hops, temperature .15, batch 1024" + LOG
)
BSL_GCN = "LightGCN + BSL, in-batch" + LOG
PUBLISHED = {
    **dict.fromkeys(("gowalla_mf_ssm", "gowalla_mf_sl_800"), (0.1759, 0.1395, SL_MF)),
    **dict.fromkeys(("yelp2018_mf_ssm", "yelp2018_mf_sl_800"), (0.0721, 0.0592, SL_MF)),
    **dict.fromkeys(("gowalla_mf_bsl", "gowalla_mf_bsl_800"), (0.1882, 0.1584, BSL_MF)),
    **dict.fromkeys(("yelp2018_mf_bsl", "yelp2018_mf_bsl_800"), (0.0725, 0.0599, BSL_MF)),
    **dict.fromkeys(("gowalla_lightgcn_ssm", "gowalla_lightgcn_sl"), (0.1874, 0.1571, SL_GCN)),
    **dict.fromkeys(("yelp2018_lightgcn_ssm", "yelp2018_lightgcn_sl"), (0.0736, 0.0612, SL_GCN_3)),
    "gowalla_lightgcn_bsl": (0.1892, 0.1590, BSL_GCN),
    "yelp2018_lightgcn_bsl": (0.0744, 0.0617, BSL_GCN),
}
QUICK = ("training.epochs=1", "training.validate_every=1", "training.min_epochs=0")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", choices=sorted(PUBLISHED))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--storage", default="runs", help="storage path, where finished runs are looked for")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    path = _programs.recipe(arguments.recipe)
    changes = [f"scale.storage_path={Path(arguments.storage).absolute()}", *arguments.set, *(QUICK if arguments.quick else ())]
    base = config.load(path, changes)
    _programs.start("prepare", path, changes)
    seeds = [_of_seed(path, changes, seed) for seed in arguments.seeds]
    *wanted, source = PUBLISHED[arguments.recipe]
    p = {name: statistics.fmean(seed["p"][name] for seed in seeds) for name in METRICS}
    return {
        "variant": arguments.recipe,
        "seeds": arguments.seeds,
        "recipe": base.model_dump(mode="json", exclude={"data": {"source"}, "scale": True, "tracking": True, "search": True}),
        "figures": {
            "recipe": arguments.recipe,
            "runs": seeds,
            "published_p": {**dict(zip(METRICS, wanted, strict=True)), "source": source},
            "p_over_published": {name: p[name] / value for name, value in zip(METRICS, wanted, strict=True)},
        },
    }


def _of_seed(path: Path, changes: list[str], seed: int) -> dict[str, Any]:
    (chosen,) = _programs.trained(path, changes, [seed])
    on_test = [*changes, "training.fit_on=train+valid", "training.select_on=test"]
    (published,) = _programs.trained(path, on_test, [seed])
    _programs.start("evaluate", path, on_test, "--run", str(published))
    evaluated = storage.read_json(published / "evaluation" / "test" / "metrics.json")
    about = {what: storage.read_json(run / storage.MANIFEST) for what, run in (("h", chosen), ("p", published))}
    epochs = {what: manifest["best_epoch"] + 1 for what, manifest in about.items()}
    history = _tracking.read_history(published)
    tested = {entry["step"]: entry["metrics"] for entry in history}
    if epochs["h"] not in tested:
        raise RuntimeError(f"(p) stopped before epoch {epochs['h']}: raise training.patience")
    return {
        "seed": seed,
        "trained_at": {what: _trained_at(run) for what, run in (("h", chosen), ("p", published))},
        "h": {**{name: tested[epochs["h"]][f"test_{name}"] for name in METRICS}, "epochs": epochs["h"]},
        "h_validation_recall@20": about["h"]["best_value"],
        "curve_p": {step: tested[step]["test_recall@20"] for step in sorted(tested) if "test_recall@20" in tested[step]},
        "p": {**{name: evaluated["metrics"]["model"][name] for name in METRICS}, "epochs": epochs["p"]},
        "seconds_per_epoch": _tracking.seconds_per_epoch(history),
        "groups_p": storage.read_json(published / "evaluation" / "test" / "groups.json")["recall_contributions"]["model"]["20"],
        "most_popular": {name: evaluated["metrics"]["most popular"][name] for name in METRICS},
    }


def _trained_at(run: Path) -> str:
    """The commit that trained a run, which may be older than this benchmark's; of an extended one, all of them."""
    tracked = _tracking.attach(run)
    client, run_id, commits = _mlflow.client(tracked.tracking_uri), tracked.run_id, []
    while run_id:
        tags = client.get_run(run_id).data.tags
        commit, run_id = tags["mlflow.source.git.commit"], tags.get("extends")
        commits.append(commit[:12] + "+" * commit.endswith("+"))
    return ", extended at ".join(dict.fromkeys(reversed(commits)))


if __name__ == "__main__":
    sys.exit(_common.main("classic_split", __doc__ or "", measure, add_arguments))
