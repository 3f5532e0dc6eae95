"""RESULTS.md's sections on the classic split and on magnitudes, with their pictures."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from components.reports import plots
from tests.benchmarks._common import RESULTS
from tests.benchmarks._markdown import ROOT, Result, amount, spread, table

WITHIN = {"mf": 0.98, "lightgcn": 0.99}  # of the published level
RECORDS = {  # of the classic split, (p): recall@20 and ndcg@20, each of the best model that is known with a source
    "gowalla": ((0.1920, "BSPM-EM"), (0.1617, "NESCL")),
    "yelp2018": ((0.0744, "LightGCN + BSL"), (0.0617, "LightGCN + BSL")),
}
BEYOND = ("gowalla_mf_bsl", "gowalla_lightgcn_bsl", "yelp2018_lightgcn_bsl")  # our best, which records are told beside
PUBLISHED_CURVE = {  # of BSL's logs, (p), by epoch from 0
    "gowalla_mf_ssm": {4: 0.129, 10: 0.161, 27: 0.169, 87: 0.173, 219: 0.1759},
    "gowalla_lightgcn_ssm": {0: 0.1507, 4: 0.1720, 10: 0.1794, 27: 0.1846, 57: 0.1861, 102: 0.1870, 123: 0.1874},
    "yelp2018_lightgcn_ssm": {0: 0.0625, 4: 0.0691, 12: 0.0713, 42: 0.0724, 102: 0.0731, 237: 0.0734, 294: 0.0736},
}


def classic(result: Result) -> Iterator[str]:
    figures, runs = result["figures"], result["figures"]["runs"]
    published, metrics = figures["published_p"], ("recall@20", "ndcg@20")
    encoder, loss = result["recipe"]["encoder"]["name"], result["recipe"]["loss"]
    loss = "the softmax loss, its positive not in the denominator" if loss.get("ratio") == 1 else loss["name"]
    yield f"## {figures['recipe']}: the classic split, {encoder} with {loss}"
    yield ""
    says = {
        "h": "(h) epoch chosen on validation, tested at it: the weights of a refit on train + valid, bit for bit",
        "p": "(p) best epoch on test, as published logs",
    }
    rows = [
        [text, *(spread([run[what][m] for run in runs]) for m in metrics), ", ".join(str(run[what]["epochs"]) for run in runs)]
        for what, text in says.items()
    ]
    rows.append([f"published, (p): {published['source']}", *(f"{published[m]:.4f}" for m in metrics), ""])
    yield from table(["choice", *metrics, "epochs"], rows)
    yield ""
    ratios = figures["p_over_published"]
    yield f"(p) over published: recall {ratios['recall@20']:.4f}, ndcg {ratios['ndcg@20']:.4f}."
    trained = {what: ", ".join(sorted({run["trained_at"][what] for run in runs})) for what in says}
    yield f"Trained at {trained['h']} where validation chose, at {trained['p']} where the test was looked at."
    curve = runs[0]["curve_p"]
    tenths = {step: value for step, value in curve.items() if int(step) % 10 == 0}
    yield f"(p) of seed {runs[0]['seed']} by epoch: {', '.join(f'{step}: {value:.4f}' for step, value in tenths.items())}."
    short = [name for name, ratio in ratios.items() if ratio < WITHIN[encoder]]
    if short:
        last, limit = max(map(int, curve)), result["recipe"]["training"]["epochs"]
        ended = f"at its limit of {limit} epochs" if last == limit else f"after {last} epochs, without a better one for a while"
        yield ""
        which = f"The run of seed {runs[0]['seed']}"
        yield f"**Not within {1 - WITHIN[encoder]:.0%} of the published {' and '.join(short)}.** {which} ended {ended}."
    if figures["recipe"] in BEYOND:
        yield ""
        yield _beside_records(figures["recipe"].partition("_")[0], runs)
    yield ""
    yield f"![recall@20 on test by epoch]({_curve(figures).relative_to(ROOT)})"
    if "groups_p" in runs[0]:
        path = RESULTS / f"classic_split_{figures['recipe']}_groups.png"
        means = [statistics.fmean(group) for group in zip(*(run["groups_p"] for run in runs), strict=True)]
        plots.popularity_groups({figures["recipe"]: means}, path, "Where the hits on test come from, (p)", "recall@20")
        yield f"![what each popularity group adds to recall@20]({path.relative_to(ROOT)})"


def _beside_records(log: str, runs: list[dict[str, Any]]) -> str:
    """How far (p) is from the records, by the seeds' mean, and what its epochs took."""
    told = []
    for metric, (record, model) in zip(("recall@20", "ndcg@20"), RECORDS[log], strict=True):
        apart = statistics.fmean(run["p"][metric] for run in runs) / record - 1
        told.append(f"{metric} {record:.4f} of {model}, from which (p) is {apart:+.1%}")
    hours = statistics.fmean(run["p"]["epochs"] * run["seconds_per_epoch"] for run in runs) / 3600
    return f"Records on this test: {'; '.join(told)}. Until (p)'s epoch a training took {amount(hours)} h without validation."


def _curve(figures: dict[str, Any]) -> Path:
    """A picture of (p)'s epochs beside the published ones."""
    path = RESULTS / f"classic_split_{figures['recipe']}.png"
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(7.2, 4.0), layout="constrained")
        axes = figure.subplots()
        curves = {
            f"hardneg, (p), seed {run['seed']}": {int(k): v for k, v in run["curve_p"].items()} for run in figures["runs"]
        }
        if published := PUBLISHED_CURVE.get(figures["recipe"]):
            last = 1.5 * max(max(curve) for curve in curves.values())
            curves["published, (p)"] = {epoch + 1: value for epoch, value in published.items() if epoch < last}
        for (name, curve), colour in zip(curves.items(), plots.COLOURS, strict=False):
            axes.plot(list(curve), list(curve.values()), marker="o", markersize=3.5, color=colour, label=name)
        axes.axhline(figures["published_p"]["recall@20"], color=plots.COLOURS[2], linestyle="--", label="published best")
        axes.set_title(f"{figures['recipe']}: recall@20 on test by epoch")
        axes.set_xlabel("epoch")
        axes.legend(loc="lower right")
        figure.savefig(path)
    return path


def magnitudes(result: Result) -> Iterator[str]:
    figures = result["figures"]
    yield "## The magnitude study: Gowalla, ranked by inner product and by cosine"
    yield ""
    yield f"Fit on train and validation for {figures['epochs']} epochs, on cosines where nothing else is said; tested once."
    yield ""
    rows = []
    for model, runs in figures["models"].items():
        correlation = spread([run["norm_degree_correlation"] for run in runs])
        for by in ("dot", "cosine"):
            recall, ndcg, half = (spread([run[by][name] for run in runs]) for name in ("recall", "ndcg", "less_popular_half"))
            cells = [recall, ndcg, amount(statistics.fmean(run[by]["mean_popularity"] for run in runs)), half]
            rows.append([model if by == "dot" else "", by, *cells, correlation if by == "dot" else ""])
    header = ["model", "ranked by", "recall@20", "ndcg@20", "mean popularity", "recall from groups 1 to 5", "norm ~ degree"]
    yield from table(header, rows)
    yield ""
    yield "norm ~ degree: Spearman's correlation of the items' norms with their training degree."
    yield f"Highest recall@20 by inner products: {_best(figures['models'])}."
    yield " ".join(_by_norms(model, figures["models"][model]) for model in ("LightGCN, 1 layer", "MF (no layer)"))


def _best(models: dict[str, list[dict[str, Any]]]) -> str:
    means = {model: statistics.fmean(run["dot"]["recall"] for run in runs) for model, runs in models.items()}
    first, second = sorted(means, key=lambda model: -means[model])[:2]
    return f"{first} ({means[first]:.4f}), then {second} ({means[second]:.4f})"


def _by_norms(model: str, runs: list[dict[str, Any]]) -> str:
    """What ranking by inner product gives or takes in recall after training on cosines."""
    apart = [run["dot"]["recall"] - run["cosine"]["recall"] for run in runs]
    says = "favours it" if min(apart) > 0 else "hurts it" if max(apart) < 0 else "does neither in every seed"
    relative = statistics.fmean(apart) / statistics.fmean(run["cosine"]["recall"] for run in runs)
    seeds = f"{len(runs)} seeds" if len(runs) > 1 else "one seed"
    return f"{model}: inner products in the place of cosines give {relative:+.1%} of recall@20 ({seeds}): **{says}**."
