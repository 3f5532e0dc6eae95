"""RESULTS.md and README say what the kept results say."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from components import storage
from tests.benchmarks import _report_speed, report, search
from tests.benchmarks._common import RESULTS
from tests.benchmarks._markdown import ROOT, amount


def test_results_are_made_from_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)  # the pictures are there
    assert (ROOT / "RESULTS.md").read_text(encoding="utf-8") == report.page()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, ""),
        (0.0, "0"),
        (5e-5, "0.000050"),
        (0.0124, "0.012"),
        (2.0, "2.0"),
        (9.94, "9.9"),
        (9.96, "10"),
        (99.7, "100"),
        (1170.4, "1,170"),
    ],
)
def test_amounts_have_two_digits_and_no_exponent(value: float | None, says: str) -> None:
    assert amount(value) == says


def kept(name: str) -> Any:
    return storage.read_json(RESULTS / f"{name}.json")["figures"]


def times(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}x"


def prepared(log_rows: int, *what: str) -> list[str]:
    """Seconds or GiB of our preparation, and then of polars'."""
    (run,) = [each for each in kept("prepare")["runs"] if each["log_rows"] == log_rows]
    return rounded([(name, run[who][name]) for who in ("prepare", "polars") for name in what])


def beside_peers(log_rows: int) -> list[str]:
    """Seconds and GiB of our preparation, and then of RecBole's and RePlay's."""
    (run,) = [each for each in kept("prepare_peers")["runs"] if each["log_rows"] == log_rows]
    told = [run["prepare"], *(run["peers"][name] for name in ("RecBole", "RePlay"))]
    return rounded([(name, each[name]) for each in told for name in ("total_seconds", "peak_gib")])


def rounded(values: list[tuple[str, float]]) -> list[str]:
    return [f"{value:.1f}" if name == "peak_gib" or value < 10 else f"{value:.0f}" for name, value in values]


def of_metric(*values: float) -> list[str]:
    return [f"{value:.4f}".lstrip("0") for value in values]


def of_choices(name: str, *choices: str) -> list[str]:
    """recall and ndcg, of each choice of the epoch; with deviations where there are several seeds."""
    runs, told = kept(f"classic_split_{name}")["runs"], list[float]()
    for values in ([run[choice][metric] for run in runs] for choice in choices for metric in ("recall@20", "ndcg@20")):
        told += [statistics.fmean(values), *([statistics.stdev(values)] if len(values) > 1 else [])]
    return of_metric(*told)


def test_readmes_figures_are_those_of_their_results() -> None:
    """Row by row of the table's second column, and in the order of the sentences on Coat."""
    (first,) = re.findall(r"## First results\n(.*?)\n## ", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    epoch, startup = kept("epoch_1_threads"), kept("startup")
    of_threads = {name: [kept(f"{name}_{n}_threads") for n in (1, 2)] for name in ("lightgcn", "ranking")}
    sequential = kept("sequential_1_threads")
    of_epochs = [sequential["models"]["SASRec"], sequential["recbole"], sequential["models"]["MCLRec"]]
    yelp, yelp_gcn = (of_choices(f"yelp2018_{encoder}_ssm", "h", "p") for encoder in ("mf", "lightgcn"))
    recommend, mf = kept("recommend"), kept("scaling")["models"]["MF"]
    softmax = kept("negatives_1_threads")["losses"]["sampled_softmax"]
    (before,) = re.findall(r"gave MF (\S+) times", storage.read_json(RESULTS / "scaling.json")["note"])
    assert yelp[:2] == yelp[2:], "both chose the same epoch"
    assert yelp_gcn[:2] == yelp_gcn[2:], "here too"
    rows = {
        "MF + SSM epoch on Gowalla": [times(epoch["ratio"]), times(epoch["ratio_masked"])],
        "LightGCN + SSM epoch on Gowalla": [times(each["ratio"]) for each in of_threads["lightgcn"]],
        "full ranking of Gowalla": [times(each["ratio_median"]) for each in of_threads["ranking"]],
        "preparing 100 M rows": prepared(10**8, "total_seconds", "peak_gib"),
        "the same of 20 M and of 1 M": prepared(2 * 10**7, "total_seconds") + prepared(10**6, "total_seconds"),
        "the same of 10 M beside RecBole": beside_peers(10**7),
        "lists for 1 M users": [times(recommend["ratio"]), f"{recommend['runs']['1000000']['peak_gib']:.1f}"],
        "InfoNCE of 4,096 rows against 69,632 candidates": [
            *(times(value, 1) for value in (softmax["faster"], *softmax["faster_range"])),
            f"1/{softmax['smaller']:.0f}",
        ],
        "MF, global batch 8,192": [times(mf["speedup"]), f"{before}x", times(mf["bound"])],
        "from program start": [f"{startup['median_seconds']['total']:.1f}"],
        "an epoch of SASRec on Beauty": [f"{told['seconds_per_epoch']:.0f}" for told in of_epochs],
        "what a search costs beside training": [f"{kept('overhead')['overhead_seconds']:.1f}"],
        "Gowalla, classic split, LightGCN + SSM, (p)": of_choices("gowalla_lightgcn_ssm", "p"),
        "the same, (h): epoch chosen on validation, which": of_choices("gowalla_lightgcn_ssm", "h"),
        "Yelp2018, classic split, LightGCN + SSM, (h) and (p)": yelp_gcn[:2],
        "Gowalla, classic split, MF + softmax loss, (h)": of_choices("gowalla_mf_ssm", "h"),
        "the same, (p): best epoch on test": of_choices("gowalla_mf_ssm", "p"),
        "Yelp2018, MF, the same, (h) and (p)": yelp[:2],
    }
    table = [line.split("|")[1:3] for line in first.splitlines() if line.startswith("| ")][1:]
    assert len(table) == len(rows) + 1  # the line below the header
    for (what, told), (name, figures) in zip(table[1:], rows.items(), strict=True):
        assert what.strip().startswith(name)
        assert re.findall(r"\.\d{4}|\d+\.\d+x|1/\d+|\d+(?:\.\d)?(?= s\b| GiB)", told) == figures
    values = {
        (log, system["label"]): list(system["metrics"]["ndcg@20"]["by_seed"].values())
        for log in ("mf", "lightgcn")
        for system in kept(f"systems_coat_{log}")["systems"]
    }
    order = [(log, label) for log in ("mf", "lightgcn") for label in ("AdvInfoNCE", "InfoNCE")]
    order += [(log, label) for label in ("CCL", "BPR") for log in ("mf", "lightgcn")]
    wanted = [tuple(of_metric(statistics.fmean(values[each]), statistics.stdev(values[each]))) for each in order]
    (paragraph,) = re.findall(r"^On Coat, .*?\n\n", first, re.DOTALL | re.MULTILINE)
    on_coat = " ".join(paragraph.split())
    assert re.findall(r"(\.\d{4}) ± (\.\d{4})", on_coat) == wanted
    best = [
        max(statistics.fmean(point["score"]) for point in search.by_point(kept(f"search_coat_{name}")["trials"]))
        for name in ("temperature", "margins")
    ]
    assert re.findall(r"(\.\d{4}) on validation; .* has (\.\d{4})", on_coat) == [tuple(of_metric(*best))]
    assert re.findall(r"(\d+) %(?! interval)", on_coat) == [
        f"{100 * statistics.fmean(run['told'][rate] for run in system['runs']):.0f}"
        for rate in ("false_negative_rate", "false_negative_rate_shuffled")
        for log in ("mf", "lightgcn")
        for system in kept(f"systems_coat_{log}")["systems"]
        if system["label"] == "AdvInfoNCE"
    ]


def test_readmes_figures_on_magnitudes_are_those_of_their_results() -> None:
    (told,) = re.findall(
        r"^Does ranking by inner product .*?\n\n", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    models = {name: runs[0] for name, runs in kept("magnitudes")["models"].items()}
    assert all(len(runs) == 1 for runs in kept("magnitudes")["models"].values()), "one seed"
    both = [models[name] for name in ("LightGCN, 1 layer", "MF (no layer)")]
    gains = [run["dot"]["recall"] / run["cosine"]["recall"] - 1 for run in both]
    assert re.findall(r"(\d+) %", told) == [f"{100 * gain:.0f}" for gain in gains]
    sides = ("items alone", "LightGCN, 1 layer", "users alone (SVD++-like)")
    assert re.findall(r"\.\d{4}", told) == of_metric(*(models[side]["dot"]["recall"] for side in sides))


def test_readmes_figures_on_margins_are_those_of_their_results() -> None:
    (told,) = re.findall(r"^Several margins or .*?\n\n", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    found = kept("systems_gowalla_margins_10")
    recall = {each["label"][:2]: each["metrics"]["recall@20"]["mean"] for each in found["systems"]}
    assert re.findall(r"\.\d{4}", told) == of_metric(*(recall[label] for label in ("M0", "C0", "C3", "M1")))
    assert re.findall(r"gain of (\d+) %", told) == [f"{100 * (recall['M0'] / recall['C0'] - 1):.0f}"]
    (tuned,) = (pair for pair in found["pairs"] if pair["label"].startswith("M1"))
    low, high = tuned["differences"]["recall@20"]["over_users"]
    assert low < 0 < high, "no certain difference"


def test_readmes_figures_on_yahoo_are_those_of_their_results() -> None:
    (told,) = re.findall(r"^On Yahoo! R3, .*?\n\n", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    systems = {system["label"]: system for system in kept("systems_yahoo_mf")["systems"]}
    order = ("AdvInfoNCE", "InfoNCE", "CCL", "BPR")
    values = [list(systems[label]["metrics"]["ndcg@20"]["by_seed"].values()) for label in order]
    wanted = [tuple(of_metric(statistics.fmean(each), statistics.stdev(each))) for each in values]
    assert re.findall(r"(\.\d{4}) ± (\.\d{4})", told) == wanted
    certain = {
        label: system["differences"]["ndcg@20"]["over_seeds_and_users"]
        for label, system in systems.items()
        if label != "InfoNCE"
    }
    assert {label: high < 0 for label, (_, high) in certain.items()} == {"AdvInfoNCE": False, "CCL": True, "BPR": True}
    assert certain["AdvInfoNCE"][0] < 0 < certain["AdvInfoNCE"][1]
    rates = [
        [run["told"][rate] for run in systems["AdvInfoNCE"]["runs"]]
        for rate in ("false_negative_rate", "false_negative_rate_shuffled")
    ]
    assert re.findall(r"(\d+) %", told) == [f"{100 * statistics.fmean(each):.0f}" for each in rates]


def test_readmes_figures_on_noise_are_those_of_their_results() -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    (told,) = re.findall(
        r"with 30 % of the behaviours .*? loses (\d+) % of ndcg@10, mean pooling (\d+) % and SASRec (\d+) %", readme
    )
    models = {model["label"]: model for model in kept("noise_test_beauty_sampled")["models"]}

    def lost(model: dict[str, Any]) -> str:
        left = statistics.fmean(draw["masked"]["ndcg@10"] for draw in model["noise"]["random"]["0.3"])
        return f"{100 * (1 - left / model['clean'][0]['masked']['ndcg@10']):.0f}"

    assert told == tuple(lost(models[label]) for label in ("CCL4Rec-style", "mean pooling", "SASRec"))


def test_readmes_figures_on_pools_are_those_of_their_results() -> None:
    """In the order of its sentences."""
    (told,) = re.findall(
        r"^How many negatives: .*?\n\n", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    sizes, terms = (
        {
            system["label"]: system["metrics"]["recall@20"]["by_seed"]["1"]
            for system in kept(f"systems_gowalla_{name}")["systems"]
        }
        for name in ("pools", "pool_terms")
    )
    of = [*(sizes[f"fresh bank, {n}"] for n in ("2,048", "32,768")), sizes["all items"], sizes["in-batch, 512"]]
    of += [sizes[each] - sizes["in-batch, 512"] for each in ("fresh bank, 2,048", "in-batch, 2,048")]
    of += [sizes["stale bank, 2,048"]]
    of += [sizes[f"{loss}, {n}"] for n in ("64", "2,048") for loss in ("Multi-Margin", "uniform")]
    of += [terms[f"{kind}, 2,048{term}"] for term in ("", ", no logQ") for kind in ("in-batch", "fresh bank")]
    of += [terms[f"uniform, 2,048{term}"] for term in ("", ", no logQ")]
    of += [terms[f"{kind}, 2,048"] - terms[f"{kind}, 2,048, no masks"] for kind in ("in-batch", "uniform")]
    assert re.findall(r"\.\d{4}", told) == of_metric(*of)


def test_a_result_without_a_section_is_no_result_that_is_left_out_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_json(tmp_path / "shuffling.json", {"benchmark": "shuffling", "figures": {}})
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    with pytest.raises(AssertionError, match="no section for {'shuffling'}"):
        report.page()


def test_every_benchmark_has_a_section_and_is_not_run_or_told() -> None:
    """Of those that write results: what _common.main is given as a name."""
    files = sorted((ROOT / "tests" / "benchmarks").glob("[a-z]*.py"))
    found = [re.findall(r'_common\.main\("(\w+)"', file.read_text(encoding="utf-8")) for file in files]
    benchmarks = {name for names in found for name in names}
    assert len(benchmarks) > 12
    assert benchmarks == {*report.SECTIONS}
    lines = "\n".join(report._not_run({}))
    assert all(f"python -m tests.benchmarks.{name} " in lines for name in benchmarks)
    assert {*report.PLANNED, *report.SEARCHED} == {name for name in (*report.PLANNED, *report.SEARCHED) if name in lines}


def test_what_is_planned_otherwise_than_when_costs_were_kept_is_said() -> None:
    plan = {name: {"trainings": each.seeds * len(each.trainings)} for name, each in report.PLANNED.items()}
    assert _report_speed.planned_since(plan) == []
    changed = plan | {"systems beauty": {"trainings": 1}}
    del changed["noise test"]
    assert sorted(_report_speed.planned_since(changed)) == ["noise test", "systems beauty"]
    assert not {name for name, each in report.PLANNED.items() if not each.trainings} & {*_report_speed.planned_since({})}


def test_what_a_kept_result_has_is_not_told_as_not_run() -> None:
    costs = {"benchmark": "costs", "seeds": [1], "figures": {"recipes": {"beauty_sasrec": {}}}}
    none, some = ("\n".join(report._not_run(results)) for results in ({}, {"costs_1_threads": costs}))
    told = [int(re.findall(r"(\d+) of beauty", lines)[0]) for lines in (none, some)]
    assert told[1] == told[0] - 1
    assert "`python -m tests.benchmarks.costs --keep`\n" in f"{none}\n"
    kept = {"systems_beauty": {"benchmark": "systems", "seeds": [1, 2], "figures": {}}}
    lines = [*report._not_run(kept)]
    assert not [line for line in lines if "systems beauty " in line]
    assert [line for line in lines if "systems beauty_not_masked " in line]
