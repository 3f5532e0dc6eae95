"""Comparisons of systems: each names settings that there are, and what is reported is what was asked for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from components import config, plan, storage
from components.training.batches import steps_per_epoch
from tests.benchmarks import _plan, _programs, _report_classic, _report_models, _report_sequential, search, systems
from tests.benchmarks.gpu_train import GOALS
from tests.benchmarks.search import SEARCHES
from tests.benchmarks.systems import COMPARISONS, Comparison, System
from tests.worlds import recipe


@pytest.mark.parametrize("name", COMPARISONS)
def test_its_systems_are_recipes_that_differ(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDNEG_DATA", "/somewhere")
    asked = COMPARISONS[name]
    loaded = [config.load(_programs.recipe(each.recipe), [*asked.changes, *each.changes]) for each in asked.systems]
    settled = [each for each, system in zip(loaded, asked.systems, strict=True) if system.search is None]
    assert len({each.fingerprint() for each in settled}) == len(settled)
    assert len({each.label for each in asked.systems}) == len(loaded)
    assert {label for pair in asked.pairs for label in pair} <= {each.label for each in asked.systems}
    assert len({each.data.model_dump_json() for each in loaded}) == 1, "one dataset"
    for metric in asked.metrics:
        assert all(int(metric.partition("@")[2]) in each.evaluation.ks for each in loaded)


def test_the_ablations_are_those_of_the_specifications(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDNEG_DATA", "/somewhere")

    def objective(name: str, letter: str) -> dict[str, Any]:
        (system,) = (each for each in COMPARISONS[name].systems if each.label.startswith(letter))
        recipe = config.load(_programs.recipe(system.recipe), system.changes)
        return {**recipe.objective, "sharpness": [view.get("sharpness") for view in recipe.views], "on": recipe.encoder["name"]}

    whole, keys = objective("beauty_ccl4rec", "A5"), ("importance", "relatedness", "strengths", "ranking_weight", "sharpness")
    assert objective("beauty_ccl4rec", "A0")["name"] == "supervised"
    assert objective("beauty_ccl4rec", "A0")["on"] == whole["on"] == "mean_pool"
    differ = {
        "A1": {"importance": False, "relatedness": False, "strengths": "equal", "ranking_weight": 0},
        "A2": {"importance": True, "relatedness": False, "strengths": "equal", "ranking_weight": 0},
        "A3": {"importance": False, "relatedness": True, "strengths": "equal", "ranking_weight": 0},
        "A4": {"ranking_weight": 0},
        "A6": {"strengths": "hard"},
        "A7": {"sharpness": [0, 0]},
        "B1": {"importance": False},
        "B2": {"relatedness": False},
        "B3": {"strengths": "equal"},
    }
    for letter, wanted in differ.items():
        found = objective("beauty_ccl4rec", letter)
        assert {key: found[key] for key in keys} == {key: whole[key] for key in keys} | wanted
    whole = objective("sports_mclrec", "A")
    assert (whole["lambda_"], whole["beta"]) == (0.04, 0.4)  # Qin et al. 2023, section 4.5.2
    for letter, wanted in {"B": {"lambda_": 0}, "C": {"beta": 0}, "D": {"gamma": 0}, "E": {"shared_augmenter": True}}.items():
        assert objective("sports_mclrec", letter) == whole | wanted
    assert objective("sports_mclrec", "SASRec, two") == whole | {"lambda_": 0, "beta": 0}
    plain = [each for each in COMPARISONS["sports_mclrec"].systems if each.recipe != "sports_mclrec"]
    assert [(each.label, each.recipe) for each in plain] == [("SASRec", "sports_sasrec")]
    whole = objective("beauty_mclrec", "A")
    assert objective("beauty_mclrec", "E") == whole | {"shared_augmenter": True}
    assert objective("beauty_mclrec", "MCLRec-J") == whole | {"updates": "joint"}
    paper = {"updates": "encoder_once", "pairs": "learned", "margin": "global", "augmenter_gamma": "times_beta"}
    assert objective("beauty_mclrec", "by its paper") == whole | paper | {"normalise": False}


@pytest.mark.parametrize("negatives", [10, 100])
def test_both_losses_are_tuned_at_the_comparisons_negatives_with_equal_budgets(negatives: int) -> None:
    asked = COMPARISONS[f"gowalla_margins_{negatives}"]
    assert [each.label[:2] for each in asked.systems] == ["C0", "C1", "C2", "C3", "M0", "M1"]
    assert [(one[:2], other[:2]) for one, other in asked.pairs] == [("M0", "C2"), ("M1", "C3")]
    tuned = {each.label[:2]: each for each in asked.systems if each.search is not None}
    assert tuned.keys() == {"C3", "M1"}
    searches = {label: SEARCHES[str(each.search)] for label, each in tuned.items()}
    for label, each in tuned.items():
        assert searches[label].recipe == each.recipe
        assert f"negatives.0.count={negatives}" in {*asked.changes} & {*searches[label].changes}
    one, other = searches["C3"], searches["M1"]
    assert (one.trials, one.seeds, one.changes) == (other.trials, other.seeds, other.changes)
    assert one.space["loss.negative_weight"] == other.space["loss.negative_weight"]


def test_a_tuned_system_has_what_its_search_varied_as_in_its_best_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARDNEG_DATA", "/somewhere")
    tuned = System("C3", "gowalla_mf_ccl", search="gowalla_ccl_10")
    best = config.load(_programs.recipe(tuned.recipe), ["loss.margin=0.61", "loss.negative_weight=321.5", "training.epochs=6"])
    storage.write_text(tmp_path / "best.yaml", best.to_json())  # JSON is YAML
    asked: list[Any] = []

    def searched(*given: Any, **options: Any) -> Path:
        asked.append((*given, options))
        return tmp_path

    monkeypatch.setattr(search, "searched", searched)
    settled = systems._settled(tuned, Path("/runs"), quick=True)
    assert asked == [("gowalla_ccl_10", Path("/runs"), 1, {"quick": True})]
    loaded = config.load(_programs.recipe(settled.recipe), settled.changes)
    assert loaded.loss == {**loaded.loss, "name": "ccl", "margin": 0.61, "negative_weight": 321.5}
    assert loaded.training.epochs == config.load(_programs.recipe(tuned.recipe)).training.epochs, "nothing else"
    plain = System("C0", "gowalla_mf_ccl")
    assert systems._settled(plain, Path("/runs"), quick=True) == plain


def test_the_best_on_beauty_is_what_was_searched_for_and_stands_beside_the_best_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARDNEG_DATA", "/somewhere")
    first, tuned = COMPARISONS["beauty_best"].systems
    assert (first.recipe, first.search) == (tuned.recipe, None) == (SEARCHES[str(tuned.search)].recipe, None)
    recipe, settings = _programs.recipe(tuned.recipe), ["encoder.layers=3", "encoder.dropout=0.31", "loss.temperature=1.7"]
    best = config.load(recipe, [*settings, "optimizer.learning_rate=5.5e-4", "training.metric=ndcg@20"])
    storage.write_text(tmp_path / "best.yaml", best.to_json())
    monkeypatch.setattr(search, "searched", lambda *_, **__: tmp_path)
    found = config.load(recipe, systems._settled(tuned, Path("/runs"), quick=False).changes)
    assert found == config.load(recipe, [*settings, "optimizer.learning_rate=5.5e-4"]), (
        "by the recipe's own choice of the epoch"
    )
    assert (
        {each.protocol for each in COMPARISONS["beauty_best"].published} == {COMPARISONS["beauty_best"].protocol} == {"masked"}
    )
    assert max(each.values[1] for each in COMPARISONS["beauty_best"].published) == 0.1008, "hit@10 of the best known"


@pytest.mark.parametrize(
    ("over_users", "over_both", "says"),
    [
        ([0.01, 0.03], [0.005, 0.04], "**a gain** in recall@20, over seeds and users."),
        ([0.01, 0.03], [-0.005, 0.04], "**no difference that is certain** in recall@20, over seeds and users."),
        ([-0.03, -0.01], None, "**a loss** in recall@20, over users alone."),
    ],
)
def test_a_pair_is_told_with_its_verdict(results: Path, over_users: Any, over_both: Any, says: str) -> None:
    apart = {"value": 0.02, "relative": 0.1, "over_users": over_users, "over_seeds_and_users": over_both}
    run = {"validation": 0.5, "told": {}, "best_epoch": 3, "adversarial_passes": 0}
    values = {"recall@20": {"by_seed": {"1": 0.25, "2": 0.25}}}
    what = {"recipe": "gowalla_mf_ccl", "changes": []}
    one = {"label": "M1", **what, "metrics": values, "runs": [run, run], "differences": {"recall@20": apart}, "cost": None}
    found = {**one, "search": "gowalla_ccl_10", "changes": ['loss={"name": "ccl"}']}
    first = {**one, "label": "C0", "differences": None}
    figures = {"title": "T", "comparison": "t", "split": "test", "users": 9, "metrics": ["recall@20"], "changes": []}
    pair = {"label": "M1", "against": "C3", "differences": {"recall@20": apart}}
    text = "\n".join(_report_models.systems({"figures": {**figures, "systems": [first, found], "pairs": [pair]}}))
    assert f"M1 against C3: {says}" in text
    assert "| M1 | C3 | recall@20 | +0.0200 (+10.0%) |" in text
    assert "| C0 | `gowalla_mf_ccl` |  |" in text
    assert '| M1 | `gowalla_mf_ccl` | `loss={"name": "ccl"}`, the best on validation of `search gowalla_ccl_10` |' in text


@pytest.mark.parametrize("name", ["gowalla_pools", "gowalla_pool_terms"])
def test_pools_are_of_their_size_and_take_as_many_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDNEG_DATA", "/somewhere")
    asked, rows, found = COMPARISONS[name], 729_115, set()
    for system in asked.systems:
        recipe = config.load(_programs.recipe(system.recipe), [*asked.changes, *system.changes])
        plan.try_parts(recipe)
        kind, _, size = system.label.partition(", ")
        training = recipe.training
        steps = steps_per_epoch(rows, training.batch_size) * training.epochs
        assert abs(steps / 5_700 - 1) < 0.02
        assert training.epochs == training.patience * training.validate_every, "validated as often, and none stops early"
        sizes = {"in_batch": training.batch_size, "all_items": 0}
        pool = sum(spec.get("size", spec.get("count", sizes.get(spec["name"]))) for spec in recipe.negatives)
        assert pool == int(re.sub(r"\D", "", size) or 0)
        masks = [spec["exclude"] == "seen" for spec in recipe.negatives if "exclude" in spec]
        assert masks == [not system.label.endswith(("no masks", "neither"))] * len(masks)
        if kind == "Multi-Margin":
            assert "logq" not in recipe.loss
        else:
            assert recipe.loss["logq"] == (not system.label.endswith(("no logQ", "neither")))
        found |= {(kind, any(spec.get("stale") for spec in recipe.negatives))}
    assert {kind for kind, stale in found if stale} == {"stale bank"}


def test_the_other_protocol_has_the_same_trainings() -> None:
    pairs = [(COMPARISONS[name], COMPARISONS[name.removesuffix("_not_masked")]) for name in COMPARISONS if "not_masked" in name]
    assert len(pairs) >= 4
    for free, masked in pairs:
        assert (free.protocol, masked.protocol) == ("not_masked", "masked")
        assert free._replace(protocol="masked") == masked


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (_report_classic, _report_models, _report_sequential):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
        monkeypatch.setattr(module, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize("log", ["beauty", "sports"])
def test_what_is_left_out_is_told_at_every_published_k_by_both_protocols(log: str) -> None:
    asked = [each for name, each in COMPARISONS.items() if name.startswith(log)]
    assert len(asked) >= 2
    for each in asked:
        assert set(each.metrics) == {f"{name}@{k}" for name in ("hit", "ndcg") for k in (5, 10, 20)}
    assert {each.protocol for each in asked} == {"masked", "not_masked"}


def test_published_figures_stand_beside_runs_that_chose_as_they_did() -> None:
    for name, protocol in (("beauty_published", "masked"), ("beauty_published_not_masked", "not_masked")):
        asked = COMPARISONS[name]
        assert asked.changes == ("training.mask_seen=false",)
        assert {"SASRec", "SASRec, two updates", "MCLRec"} == {each.label for each in asked.systems}
        told = [dict(zip(asked.metrics, each.values, strict=True)) for each in asked.published if each.protocol == protocol]
        assert told, "of either protocol"
        assert {each.of for each in asked.published} <= {each.label for each in asked.systems}
        for values in told:
            for metric in ("hit", "ndcg"):
                assert values[f"{metric}@5"] < values[f"{metric}@10"] < values[f"{metric}@20"]
            assert all(values[f"ndcg@{k}"] < values[f"hit@{k}"] for k in (5, 10, 20)), "one item is held out"


def test_adversaries_stand_beside_the_figures_that_they_are_to_reach() -> None:
    """Specification 8b of AdvInfoNCE."""
    wanted = {"coat_mf": (0.1864, 0.1925), "coat_lightgcn": (0.1900, 0.1976), "yahoo_mf": (0.0701, 0.0686)}
    for name, values in wanted.items():
        asked = COMPARISONS[name]
        assert [each.of for each in asked.published] == [each.label for each in asked.systems[:2]]
        assert tuple(each.values[asked.metrics.index("ndcg@20")] for each in asked.published) == values
        assert {each.protocol for each in asked.published} == {asked.protocol}
    assert COMPARISONS["coat_mf"].published[1].values[1] == GOALS["coat_mf_adv_infonce"].value


def test_both_protocols_are_planned_and_trained_once() -> None:
    both = [name for name in COMPARISONS if f"{name}_not_masked" in COMPARISONS]
    assert len(both) >= 5
    for name in both:
        assert _plan.PLANNED[f"systems {name}"].trainings
        other = _plan.PLANNED[f"systems {name}_not_masked"]
        assert (other.seeds, other.trainings) == (_plan.PLANNED[f"systems {name}"].seeds, ())


def test_a_report_names_the_protocols_its_metrics_and_the_cost(results: Path) -> None:
    def system(label: str, value: float, **cost: float) -> dict[str, Any]:
        values = {m: {"by_seed": {"1": value, "2": value + 0.02}} for m in ("ndcg@10", "hit@10")}
        run = {"validation": 0.5, "told": {}, "best_epoch": 3, "adversarial_passes": 0}
        apart = {"value": 0.1, "relative": 0.5, "over_users": [0.05, 0.2], "over_seeds_and_users": None}
        differences = None if label == "first" else dict.fromkeys(("ndcg@10", "hit@10"), apart)
        about = {"label": label, "changes": [], "metrics": values, "runs": [run, run], "differences": differences}
        return {**about, "chosen_on": "valid, seen items masked", "cost": {"seconds_per_epoch": 7.0, **cost}}

    figures = {
        "title": "Named",
        "comparison": "named",
        "split": "test",
        "users": 1000,
        "protocol": "not masked",
        "metrics": ["ndcg@10", "hit@10"],
        "changes": [],
        "published": [
            {"label": "theirs", "metrics": {"ndcg@10": 0.3, "hit@10": 0.5}},
            {"label": "of it", "of": "second", "metrics": {"ndcg@10": 0.2, "hit@10": 0.25}},
        ],
        "systems": [system("first", 0.1, seconds=1234.5, parameters=1234.0, encode=5.4, rank=67.6), system("second", 0.2)],
    }
    text = "\n".join(_report_models.systems({"figures": figures}))
    assert "| recipe |" not in text, "where none changes anything"
    assert "Epoch chosen on valid, seen items masked; tested once on test (1,000 users), not masked." in text
    assert "| first | 0.1100 ± 0.0141 | 0.1100 ± 0.0141 | 0.5000 ± 0.0000 | 3, 3 | 7.0 | 1,234 | 1,234 | 5 | 68 |" in text
    assert "| second | 0.2100 ± 0.0141 | 0.2100 ± 0.0141 | 0.5000 ± 0.0000 | 3, 3 | 7.0 |  |  |  |  |" in text
    assert "| elsewhere: theirs | 0.3000 | 0.5000 |  |  |  |  |  |  |  |" in text
    table = [line for line in text.splitlines() if line.startswith(("| system", "| first", "| second | 0", "| elsewhere"))]
    assert [line.count("|") for line in table] == [11] * 5
    assert "second beside of it: ndcg@10 +5.0% (0.7 deviations), hit@10 -16.0% (2.8 deviations)." in text
    assert "beside theirs" not in text, "which system of ours that is nobody said"
    assert "recall@20" not in text
    assert "f1" not in text
    assert "KL" not in text, "what only an adversary has is no column here"
    assert "| second | hit@10 | +0.1000 (+50.0%) | +0.0500 to +0.2000 * | one seed |" in text


def test_quality_stands_against_what_it_costs_where_all_of_it_is_known(results: Path) -> None:
    def system(label: str, **cost: float | None) -> dict[str, Any]:
        return {"label": label, "metrics": {"recall@50": {"by_seed": {"1": 0.25}}}, "cost": cost or None}

    whole = {"parameters": 1000.0, "seconds": 60.0, "rank": 5.0}
    larger = system("b", **{**whole, "parameters": 2000.0})
    told = [system("a", **whole, encode=2.0), larger, system("c"), system("d", parameters=9.0, seconds=None)]
    figures = {"comparison": "tiktok", "title": "T", "split": "test", "systems": told}
    costs = _report_models._priced(figures)
    assert costs == {"a": (1000, 60, 7), "b": (2000, 60, 5)}
    path = _report_models._frontier(figures, costs, "recall@50")
    assert path.name == "systems_tiktok_cost.png"
    assert path.stat().st_size > 10_000
    assert not _report_models._priced({**figures, "systems": told[1:]}), "one alone is no comparison"
    assert not _report_models._priced({**figures, "systems": [told[0], system("e", **whole)]}), "nor are two of one size"


def test_the_best_of_the_classic_split_are_told_beside_records_with_their_cost(results: Path) -> None:
    def told(name: str) -> str:
        at = {"recall@20": 0.1824, "ndcg@20": 0.1617, "epochs": 40}
        runs = [{"seed": n, "h": at, "p": at, "trained_at": {"h": "a", "p": "b"}, "curve_p": {"20": 0.17}} for n in (1, 2)]
        runs = [{**run, "seconds_per_epoch": seconds} for run, seconds in zip(runs, (60.0, 120.0), strict=True)]
        published = {"recall@20": 0.18, "ndcg@20": 0.15, "source": "theirs"}
        ratios = {"recall@20": 1.01, "ndcg@20": 1.07}
        figures = {"recipe": name, "runs": runs, "published_p": published, "p_over_published": ratios}
        about = {"encoder": {"name": "lightgcn"}, "loss": {"name": "bsl"}, "training": {"epochs": 40}}
        return "\n".join(_report_classic.classic({"figures": figures, "recipe": about}))

    text = told("gowalla_lightgcn_bsl")
    assert "recall@20 0.1920 of BSPM-EM, from which (p) is -5.0%; ndcg@20 0.1617 of NESCL, from which (p) is +0.0%" in text
    assert "a training took 1.0 h without" in text, "40 epochs of 90 s"
    assert "Records" not in told("gowalla_lightgcn_ssm")


def test_records_are_told_of_models_that_are_planned() -> None:
    for name in _report_classic.BEYOND:
        assert _plan.PLANNED[f"classic_split {name}"].trainings
        assert name.partition("_")[0] in _report_classic.RECORDS


def test_pools_are_curves_by_their_size(results: Path) -> None:
    def system(label: str, value: float) -> dict[str, Any]:
        return {"label": label, "metrics": {"recall@20": {"by_seed": {"1": value}}}}

    told = [
        system("all items", 0.2),
        *(system(f"uniform, {size:,}", 0.1) for size in (512, 2048)),
        system("in-batch, 512", 0.1),
    ]
    path = _report_models._pools({"comparison": "gowalla_pools", "title": "T", "systems": told})
    assert path == results / "systems_gowalla_pools_curve.png"
    assert path.stat().st_size > 10_000


def test_f1_stands_beside_precision_and_recall_where_every_run_has_it(results: Path) -> None:
    metrics = ["recall@50", "precision@50", "ndcg@50"]

    def told(*f1: dict[str, float]) -> str:
        runs = [{"validation": 0.5, "told": {}, "best_epoch": 3, "adversarial_passes": 0, "f1": each} for each in f1]
        values = {m: {"by_seed": {str(n): 0.25 for n, _ in enumerate(f1)}} for m in metrics}
        about = {"label": "one", "changes": [], "metrics": values, "runs": runs, "differences": None, "cost": None}
        apart = {"value": 0.1, "relative": 0.5, "over_users": [0.05, 0.2], "over_seeds_and_users": None}
        other = {**about, "label": "other", "differences": dict.fromkeys(metrics, apart)}
        figures = {"title": "T", "comparison": "t", "split": "test", "users": 9, "metrics": metrics, "changes": []}
        return "\n".join(_report_models.systems({"figures": {**figures, "systems": [about, other]}}))

    both = told({"f1@50": 0.1, "f1@20": 0.7}, {"f1@50": 0.3})
    assert "| system | recall@50 | precision@50 | ndcg@50 | f1@50 | validation |" in both
    assert "| 0.2500 ± 0.0000 | 0.2000 ± 0.1414 | 0.5000 ± 0.0000 |" in both
    assert "f1" not in told({"f1@50": 0.1}, {})


def test_a_sequential_result_says_what_was_reached_and_what_was_not(results: Path) -> None:
    runs = {
        "SASRec": {"seconds": 200.0, "epochs": 2, "ndcg@10": [0.03, 0.046]},
        "SASRec, whole sequences": {"seconds": 100.0, "epochs": 3, "ndcg@10": [0.01, 0.02, 0.03]},
        "RecBole": {"seconds": 900.0, "epochs": 2, "ndcg@10": [0.04, 0.05]},
    }
    figures = {
        "threads": 1,
        "models": {"MCLRec": {"parameters": 885_280, "steps_per_epoch": 514, "seconds_per_epoch": 123.4}},
        "recbole": {"parameters": 877_824, "steps_per_epoch": 514, "seconds_per_epoch": 300.0},
        "parts": {"Adam": {"milliseconds": 2.0, "bound": 1.5}, "the whole step": {"milliseconds": 99.0, "bound": None}},
        "turns": {"1: model": 80.0, "2: augmenters": 20.0},
        "to_ndcg": {"ndcg@10": 0.045, "target": 5.0, "runs": runs},
    }
    text = "\n".join(_report_sequential.sequential({"figures": figures}))
    assert "| MCLRec | 885,280 | 514 | 123 |" in text
    assert "| RecBole 1.2.1's SASRec, batches 50 wide | 877,824 | 514 | 300 |" in text
    assert "| Adam | 2.0 | 1.5 |" in text
    assert "1: model 80 ms, 2: augmenters 20 ms" in text
    assert "| SASRec | 200 | 2 | 0.0460 | 4.5 |" in text
    assert "| SASRec, whole sequences | 100 | 3 | 0.0300 (**not reached**) |  |" in text
    assert "Target: 5 times" in text
    del figures["recbole"], figures["to_ndcg"]
    assert "RecBole" not in "\n".join(_report_sequential.sequential({"figures": figures}))


def test_a_run_tells_f1_by_the_comparisons_protocol(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "evaluation" / "test").mkdir(parents=True)
    storage.write_text(run / "recipe.json", recipe(seed=3).to_json())
    about = {"kind": "run", "commit": "abc", "best_epoch": 1, "epochs": 4, "best_value": 0.25}
    storage.write_json(run / storage.MANIFEST, about)
    metrics = {"model": {"f1@50": 0.1, "recall@50": 0.3}, "model not masked": {"f1@50": 0.2}}
    storage.write_json(run / "evaluation" / "test" / "metrics.json", {"metrics": metrics})
    asked = Comparison("named", "test", (3,), ())
    assert systems._of_run(run, asked)["f1"] == {"f1@50": 0.1}
    told = systems._of_run(run, asked._replace(protocol="not_masked"))
    assert (told["f1"], told["seed"], told["best_epoch"]) == ({"f1@50": 0.2}, 3, 2)
