"""Systems side by side over several seeds, by the project's own programs: train, evaluate, compare.

python -m tests.benchmarks.systems COMPARISON [--seeds 1 2 3] [--quick] [--keep] [--storage DIR] [--set KEY=VALUE ...]

Every system is chosen on validation and tested once. The first is the baseline of the differences, whose intervals are those of
ray_jobs.compare. Finished runs of the same recipe and seed on the storage path are taken as they are; so are searches, for
systems that are tuned. Needs HARDNEG_DATA.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from components import config, storage
from components.evaluation.protocols import Protocol
from ray_jobs import _comparison, _results, _tracking
from tests.benchmarks import _common, _programs, search

METRICS = ("recall@20", "ndcg@20")
TOLD = ("hardness_kl", "false_negative_rate", "false_negative_rate_shuffled", "alignment", "uniformity")
QUICK = ("training.epochs=2", "training.validate_every=1", "training.min_epochs=0")
FEW = ("training.epochs=20", "training.validate_every=4")  # of 80 or 100: what was affordable


class System(NamedTuple):
    """Where `search` names one (search.py), what that varies is as it was best on validation."""

    label: str
    recipe: str
    changes: tuple[str, ...] = ()
    search: str | None = None


class Published(NamedTuple):
    """Figures of others, by the protocol that they were made by, in the order of the metrics; `of` one of its systems."""

    label: str
    protocol: Protocol
    values: tuple[float, ...]
    of: str = ""


class Comparison(NamedTuple):
    """`seeds` are those of the kept results; `split` is the one that is tested on, by `protocol`.

    `pairs` are labels of a system and of what it is set against, beside the differences from the first.
    """

    title: str
    split: str
    seeds: tuple[int, ...]
    systems: tuple[System, ...]
    changes: tuple[str, ...] = ()
    metrics: tuple[str, ...] = METRICS
    protocol: Protocol = "masked"
    published: tuple[Published, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()


def _passes(recipe: str, *numbers: int) -> tuple[System, ...]:
    changes = {n: (f"objective.total_passes={n}", "objective.adv_interval=5", "training.min_epochs=200") for n in numbers}
    return tuple(System(f"{n} passes", recipe, changes[n]) for n in numbers)


def _margins(log: str, high: float, mean: float, negatives: int) -> Comparison:
    """The controls that tell margins from weights, and both from tuning (Ozsoy 2024 compares M0 with C0)."""
    ccl, mml = f"{log}_mf_ccl", f"{log}_mf_mml"
    systems = {
        "C0": System("C0: CCL(.9, 150)", ccl),
        "C1": System(f"C1: CCL(.9, {high:g})", ccl, (f"loss.negative_weight={high}",)),
        "C2": System(f"C2: CCL({mean}, {high:g})", ccl, (f"loss.negative_weight={high}", f"loss.margin={mean}")),
        "C3": System("C3: CCL, tuned", ccl, search=f"{log}_ccl_{negatives}"),
        "M0": System("M0: Multi-Margin", mml),
        "M1": System("M1: Multi-Margin, tuned", mml, search=f"{log}_mml_{negatives}"),
    }
    title = f"{log.capitalize()}, MF: Multi-Margin Loss against CCL at {negatives} negatives for each row"
    pairs = tuple((systems[one].label, systems[other].label) for one, other in (("M0", "C2"), ("M1", "C3")))
    return Comparison(title, "test", (1, 2, 3), (*systems.values(),), (*FEW, f"negatives.0.count={negatives}"), pairs=pairs)


def _against_infonce(log: str, name: str, seeds: tuple[int, ...], *in_numpy: tuple[float, float]) -> Comparison:
    """`in_numpy` are InfoNCE's and AdvInfoNCE's figures by another implementation of the same settings."""
    losses = {"InfoNCE": "infonce", "AdvInfoNCE": "adv_infonce", "BPR": "bpr", "CCL": "ccl"}
    systems = tuple(System(label, f"{name}_{loss}") for label, loss in losses.items())
    known = zip(("InfoNCE", "AdvInfoNCE"), in_numpy, strict=True)
    published = tuple(Published(f"{label}, the same settings in numpy", "masked", values, label) for label, values in known)
    title = f"{log}: AdvInfoNCE against InfoNCE, BPR and CCL"
    return Comparison(title, "test_ood", seeds, systems, published=published)


def _by_both_protocols(name: str, asked: Comparison) -> dict[str, Comparison]:
    """The second has the same trainings and evaluations, and tells of the other lists."""
    return {name: asked, f"{name}_not_masked": asked._replace(protocol="not_masked")}


LEFT_OUT = tuple(f"{name}@{k}" for name in ("hit", "ndcg") for k in (5, 10, 20))
CONTROLS = (
    System("SASRec", "beauty_sasrec"),
    System("SASRec, two updates", "beauty_sasrec_twice"),
    System("CL4SRec", "beauty_cl4srec"),
    System("MCLRec", "beauty_mclrec"),
    System("mean pooling", "beauty_mean_pool"),
    System("CCL4Rec-style", "beauty_ccl4rec"),
)
SAMPLED = (
    System("mean pooling", "beauty_mean_pool_sampled"),
    System("CCL4Rec-style", "beauty_ccl4rec_sampled"),
    System("SASRec", "beauty_sasrec_sampled"),
)
BEAUTY_PUBLISHED = (
    Published("MCLRec (2304.07763, table 3)", "not_masked", (0.0581, 0.0871, 0.1243, 0.0352, 0.0446, 0.0539), "MCLRec"),
    Published("MCLRec's released checkpoint, by others", "masked", (0.0693, 0.0951, 0.1306, 0.0493, 0.0576, 0.0665), "MCLRec"),
    Published("SASRec + CE (DuoRec's issue 3)", "not_masked", (0.0555, 0.083, 0.1191, 0.0326, 0.0415, 0.0506), "SASRec"),
)
BEAUTY_MASKED = (
    Published("BSARec, its repository's log", "masked", (0.0736, 0.1008, 0.1373, 0.0523, 0.0611, 0.0703)),
    Published("ICSRec, its released checkpoint, by others", "masked", (0.0698, 0.0960, 0.1298, 0.0494, 0.0579, 0.0663)),
    *(each for each in BEAUTY_PUBLISHED if each.protocol == "masked"),
)
VANILLA = {"importance": "false", "relatedness": "false", "strengths": "equal", "ranking_weight": "0"}


def _ccl4rec(label: str, **changes: str) -> System:
    return System(label, "beauty_ccl4rec", tuple(f"objective.{key}={value}" for key, value in changes.items()))


CCL4REC = (  # each of our design's parts alone, and all but one
    System("A0: mean pooling, no views", "beauty_mean_pool"),
    _ccl4rec("A1: views at random, equal strengths", **VANILLA),
    _ccl4rec("A2: A1 with importance", **VANILLA | {"importance": "true"}),
    _ccl4rec("A3: A1 with relatedness", **VANILLA | {"relatedness": "true"}),
    _ccl4rec("A4: without the ranking term", ranking_weight="0"),
    _ccl4rec("A5: CCL4Rec-style, whole"),
    _ccl4rec("A6: near negatives pushed hardest", strengths="hard"),
    System("A7: sharpness 0, no curriculum", "beauty_ccl4rec", ("views.0.sharpness=0", "views.1.sharpness=0")),
    _ccl4rec("B1: without importance", importance="false"),
    _ccl4rec("B2: without relatedness", relatedness="false"),
    _ccl4rec("B3: equal strengths", strengths="equal"),
)
MCLREC = (  # Qin et al. 2023, table 4; on Beauty, lambda is 0
    System("A: MCLRec", "sports_mclrec"),
    System("B: without L_cl1", "sports_mclrec", ("objective.lambda_=0",)),
    System("C: without L_cl2, random views alone", "sports_mclrec", ("objective.beta=0",)),
    System("D: without R", "sports_mclrec", ("objective.gamma=0",)),
    System("E: one augmenter", "sports_mclrec", ("objective.shared_augmenter=true",)),
    System("SASRec, two updates", "sports_mclrec", ("objective.lambda_=0", "objective.beta=0")),
    System("SASRec", "sports_sasrec"),
)
BEAUTY_MCLREC = (
    System("A: MCLRec", "beauty_mclrec"),
    System("C: without L_cl2", "beauty_sasrec_twice"),
    System("D: without R", "beauty_mclrec_no_r"),
    System("E: one augmenter", "beauty_mclrec_shared"),
    System("random views alone", "beauty_mclrec", ("objective.lambda_=0.1", "objective.beta=0")),
    System("MCLRec-J: one update of all at once", "beauty_mclrec_joint"),
    System("by its paper, not its code", "beauty_mclrec_paper"),
)
MICRO = ("recall@50", "precision@50", "ndcg@50")


def _micro_videos(title: str, **labels: str) -> Comparison:
    """Of recipes, by their labels."""
    return Comparison(title, "test", (1, 2, 3), tuple(System(labels[name], name) for name in labels), (), MICRO)


TERMS = ((True, True), (True, False), (False, True), (False, False))  # with logQ, with masks
BATCH, POOL_EPOCHS = 512, 4  # of a batch that is no pool, and how often it meets all rows
POOL_RATE = 3e-3  # three times the recipe's, so that few steps go far; not tuned for any pool
MIDDLE = 2048  # of the pools of BY_TERMS
MULTI_MARGIN = {"name": "multi_margin", "margins": [0.7, 0.8, 0.9], "weights": [0.1, 0.15, 0.75], "negative_weight": 700.0}


def _pool(kind: str, size: int, *, logq: bool = True, masks: bool = True) -> System:
    """InfoNCE, or the Multi-Margin Loss of gowalla_mf_mml, against `size` candidates: as many steps whatever the batch."""
    of_batch = {"name": "in_batch", "exclude": "seen" if masks else "nothing"}
    uniform, bank = {"name": "uniform", "exclude": of_batch["exclude"]}, {"name": "memory_bank"}
    sources: dict[str, list[dict[str, Any]]] = {
        "in-batch": [of_batch],
        "uniform": [{**uniform, "count": size}],
        "Multi-Margin": [{**uniform, "count": size}],
        "fresh bank": [of_batch, {**bank, "size": size - BATCH}],
        "stale bank": [of_batch, {**bank, "size": size - BATCH, "stale": True}],
        "mixture": [of_batch, {**bank, "size": (size - BATCH) // 2}, {**uniform, "count": (size - BATCH) // 2}],
    }
    loss = f"loss={json.dumps(MULTI_MARGIN)}" if kind == "Multi-Margin" else f"loss.logq={json.dumps(logq)}"
    changes = [f"negatives={json.dumps(sources[kind])}", loss]
    if kind == "in-batch":
        times = size // BATCH
        changes += [
            f"training.{key}" for key in (f"batch_size={size}", f"epochs={POOL_EPOCHS * times}", f"validate_every={times}")
        ]
    terms = {(True, True): "", (True, False): ", no masks", (False, True): ", no logQ", (False, False): ", neither"}
    return System(f"{kind}, {size:,}{terms[logq, masks]}", "gowalla_mf_bank", tuple(changes))


def _pools(title: str, *systems: System) -> Comparison:
    stopping = ("validate_every=1", f"patience={POOL_EPOCHS}", "metric=recall@20")
    same = tuple(f"training.{key}" for key in (f"batch_size={BATCH}", f"epochs={POOL_EPOCHS}", *stopping))
    return Comparison(title, "test", (1,), systems, (*same, f"optimizer.learning_rate={POOL_RATE}"))


BY_SIZE = (
    *(_pool("in-batch", size) for size in (512, 2048)),  # a batch of 8,192 takes 64 epochs for as many steps
    *(_pool("uniform", size) for size in (64, 512, 2048, 8192)),
    *(_pool("Multi-Margin", size) for size in (64, 512, 2048)),
    *(_pool("fresh bank", size) for size in (2048, 8192, 32_768)),
    *(_pool(kind, size) for kind in ("stale bank", "mixture") for size in (2048, 8192)),
    System("all items", "gowalla_mf_bank", ('negatives=[{"name": "all_items", "exclude": "seen"}]',)),
)
BY_TERMS = (
    *(_pool(kind, MIDDLE, logq=logq, masks=masks) for kind in ("in-batch", "uniform") for logq, masks in TERMS),
    *(_pool(kind, MIDDLE, logq=logq) for kind in ("fresh bank", "stale bank") for logq in (True, False)),  # which mask always
)


def _against(title: str, recipe: str, first: str, second: str, *changes: str) -> Comparison:
    """A recipe, and what a switch of it does, after some epochs."""
    return Comparison(title, "test", (1, 2, 3), (System(first, recipe), System(second, recipe, changes)), FEW)


COMPARISONS = {
    "coat_mf": _against_infonce("Coat, MF", "coat_mf", (1, 2, 3, 4, 5), (0.2730, 0.1864), (0.2760, 0.1925)),
    "coat_lightgcn": _against_infonce("Coat, LightGCN", "coat_lightgcn", (1, 2, 3, 4, 5), (0.2763, 0.1900), (0.2718, 0.1976)),
    "coat_passes": Comparison(
        "Coat, MF: AdvInfoNCE by the number of adversarial passes, one every five epochs",
        "test_ood",
        (1, 2, 3, 4, 5),
        _passes("coat_mf_adv_infonce", 0, 6, 12, 18, 30, 40),
    ),
    "yahoo_mf": _against_infonce("Yahoo! R3, MF", "yahoo_mf", (1, 2, 3), (0.1484, 0.0701), (0.1446, 0.0686)),
    "gowalla_lightgcn": Comparison(
        "Gowalla, LightGCN: sampled softmax beside BPR and CCL",
        "test",
        (1, 2, 3),
        tuple(System(label, f"gowalla_lightgcn_{loss}") for label, loss in (("SSM", "ssm"), ("BPR", "bpr"), ("CCL", "ccl"))),
        ("training.epochs=30", "training.validate_every=5"),  # of 1,000 published for BPR: what is affordable
    ),
    "gowalla_margins_10": _margins("gowalla", 700, 0.865, 10),
    "gowalla_margins_100": _margins("gowalla", 700, 0.865, 100),
    "gowalla_pools": _pools("Gowalla, MF: InfoNCE by the size and kind of its pool, at equal steps", *BY_SIZE),
    "gowalla_pool_terms": _pools("Gowalla, MF: InfoNCE with and without logQ and masks, at equal steps", *BY_TERMS),
    "gowalla_lazy": _against(
        "Gowalla, MF: Adam of the rows in use against Adam of all", "gowalla_mf_ssm", "dense", "lazy", "optimizer.lazy=true"
    ),
    "gowalla_precision": _against(
        "Gowalla, MF: bfloat16 against float32", "gowalla_mf_ssm", "float32", "bfloat16", "training.precision=bfloat16"
    ),
    **_by_both_protocols("beauty", Comparison("Beauty: models on histories", "test", (1, 2), CONTROLS, (), LEFT_OUT)),
    **_by_both_protocols(
        "beauty_published",
        Comparison(
            "Beauty: MCLRec and its encoder beside published figures",
            "test",
            (1, 2),
            tuple(system for system in CONTROLS if system.label in ("SASRec", "SASRec, two updates", "MCLRec")),
            ("training.mask_seen=false",),  # as those who published chose
            LEFT_OUT,
            published=BEAUTY_PUBLISHED,
        ),
    ),
    **_by_both_protocols(
        "beauty_ccl4rec",
        Comparison("Beauty: CCL4Rec-style and its ablations", "test", (1, 2, 3), CCL4REC, (), LEFT_OUT),
    ),
    **_by_both_protocols(
        "beauty_sampled",
        Comparison("Beauty: models on histories, with sampled candidates", "test", (1, 2, 3), SAMPLED, (), LEFT_OUT),
    ),
    "beauty_best": Comparison(
        "Beauty: the best found, beside the best that is known",
        "test",
        (1, 2, 3),
        (SAMPLED[-1], System("SASRec, tuned", "beauty_sasrec_sampled", search="beauty_masked")),
        (),
        LEFT_OUT,
        published=BEAUTY_MASKED,
    ),
    **_by_both_protocols(
        "beauty_mclrec", Comparison("Beauty: MCLRec's ablations", "test", (1, 2), BEAUTY_MCLREC, (), LEFT_OUT)
    ),
    **_by_both_protocols("sports_mclrec", Comparison("Sports: MCLRec and SASRec", "test", (1,), MCLREC, (), LEFT_OUT)),
    "kuairec": _micro_videos(
        "KuaiRec, micro-videos in the order of time",
        kuairec_mean_pool="mean pooling",
        kuairec_ccl4rec="CCL4Rec-style",
        kuairec_sasrec="SASRec",
    ),
    "tiktok": _micro_videos(
        "TikTok, micro-videos without an order",
        tiktok_mean_pool="mean pooling",
        tiktok_ccl4rec="CCL4Rec-style",
        tiktok_mf_ssm="MF, sampled softmax",
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("comparison", choices=sorted(COMPARISONS))
    parser.add_argument("--seeds", type=int, nargs="+", help="by default those of the comparison")
    parser.add_argument("--storage", default="runs", help="storage path, where finished runs are looked for")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    asked = COMPARISONS[arguments.comparison]
    seeds = arguments.seeds or list(asked.seeds[:1] if arguments.quick else asked.seeds)
    path = Path(arguments.storage).absolute()
    storage_path, asked_for = f"scale.storage_path={path}", [*arguments.set, *(QUICK if arguments.quick else ())]
    systems = [_settled(system, path, quick=arguments.quick) for system in asked.systems]
    runs: dict[str, list[Path]] = {}
    for system in systems:
        recipe, changes = _programs.recipe(system.recipe), [storage_path, *asked.changes, *system.changes, *asked_for]
        _programs.start("prepare", recipe, changes)
        runs[system.label] = _programs.trained(recipe, changes, seeds)
        for run in runs[system.label]:
            if not (run / "evaluation" / asked.split / "metrics.json").is_file():
                _programs.start("evaluate", recipe, changes, "--run", str(run), "--split", asked.split)

    def compared_to(*labels: str) -> dict[str, Any]:
        of = [str(run) for label in labels for run in runs[label]]
        return storage.read_json(
            _comparison.compare(of, asked.split, asked.metrics, str(path), None, asked.protocol) / "compare.json"
        )

    compared = compared_to(*runs)
    names = [system["name"] for system in compared["systems"]]
    return {
        "variant": arguments.comparison,
        "seeds": seeds,
        "figures": {
            "comparison": arguments.comparison,
            "title": asked.title,
            "split": asked.split,
            "protocol": compared["protocol"],
            "metrics": list(asked.metrics),
            "users": compared["users"],
            "changes": list(asked.changes) + arguments.set,
            "published": [
                {"label": each.label, "of": each.of, "metrics": dict(zip(asked.metrics, each.values, strict=True))}
                for each in asked.published
                if each.protocol == asked.protocol
            ],
            "systems": [
                {
                    **systems[n]._asdict(),
                    "chosen_on": compared["systems"][n]["chosen_on"],
                    "metrics": compared["systems"][n]["metrics"],
                    "cost": compared["systems"][n].get("cost"),
                    "differences": compared["differences"].get(name),
                    "runs": [_of_run(run, asked) for run in runs[systems[n].label]],
                }
                for n, name in enumerate(names)
            ],
            "pairs": [
                {"label": label, "against": other, "differences": differences}
                for label, other in asked.pairs
                for differences in compared_to(other, label)["differences"].values()
            ],
        },
    }


def _settled(system: System, storage_path: Path, *, quick: bool) -> System:
    """With what its search has found among its changes."""
    if system.search is None:
        return system
    return system._replace(changes=(*system.changes, *search.best(system.search, storage_path, quick=quick)))


def _of_run(run: Path, asked: Comparison) -> dict[str, Any]:
    """What validation chose, and what hardness had become by then; and F1, which no user has by itself."""
    about = storage.read_json(run / storage.MANIFEST)
    history = _tracking.read_history(run)
    until = [entry["metrics"] for entry in history if entry["step"] <= about["best_epoch"] + 1]
    told = [metrics for metrics in until if "hardness_kl" in metrics]
    tested = storage.read_json(run / "evaluation" / asked.split / "metrics.json")
    values = tested["metrics"][_results.named(_results.MODEL, asked.protocol)]
    return {
        "seed": config.Recipe.from_json((run / "recipe.json").read_text(encoding="utf-8")).seed,
        "commit": about["commit"],
        "best_epoch": about["best_epoch"] + 1,
        "epochs": about["epochs"],
        "validation": about["best_value"],
        "f1": {name: value for name, value in values.items() if name.startswith("f1@")},
        "adversarial_passes": len(told),
        "told": {name: told[-1][name] for name in TOLD} if told else {},
    }


if __name__ == "__main__":
    sys.exit(_common.main("systems", __doc__ or "", measure, add_arguments))
