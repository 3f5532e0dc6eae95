"""RESULTS.md's sections on what the models reach, with their pictures."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from components.evaluation.comparison import Difference
from components.evaluation.protocols import PROTOCOLS
from components.reports import plots
from tests.benchmarks._common import RESULTS
from tests.benchmarks._markdown import MASKED, ROOT, Result, amount, spread, table

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
    encoder, loss = (result["recipe"][part]["name"] for part in ("encoder", "loss"))
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
        yield f"**Not within {1 - WITHIN[encoder]:.0%} of the published {' and '.join(short)}.** The run ended {ended}."
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


def systems(result: Result) -> Iterator[str]:
    figures = result["figures"]
    metrics, protocol = figures.get("metrics", ["recall@20", "ndcg@20"]), figures.get("protocol", PROTOCOLS["masked"])
    yield f"## {figures['title']}{'' if protocol == PROTOCOLS['masked'] else f', {protocol}'}"
    yield ""
    chosen = sorted({system.get("chosen_on", MASKED) for system in figures["systems"]})
    yield f"Epoch chosen on {' or '.join(chosen)}; tested once on {figures['split']} ({figures['users']:,} users), {protocol}."
    if figures["changes"]:
        yield f"Changed in every recipe: {', '.join(f'`{change}`' for change in figures['changes'])}."
    yield ""
    rows = []
    adversarial = any(run["told"] for system in figures["systems"] for run in system["runs"])
    measured = any((system["cost"] or {}).get("parameters") for system in figures["systems"])
    f1 = _f1(figures, metrics)
    for system in figures["systems"]:
        runs = system["runs"]
        cells = [spread(list(system["metrics"][m]["by_seed"].values())) for m in metrics]
        cells += [spread([run["f1"][name] for run in runs]) for name in f1]
        validation = spread([run["validation"] for run in runs])
        told = [run["told"] for run in runs if run["told"]]
        kl, *rates = (
            _told(told, name, len(runs)) for name in ("hardness_kl", "false_negative_rate", "false_negative_rate_shuffled")
        )
        passes = f"{statistics.fmean(run['adversarial_passes'] for run in runs):.1f}" if told else ""
        epochs = ", ".join(str(run["best_epoch"]) for run in runs)
        cost = [amount((system["cost"] or {}).get("seconds_per_epoch")), _number(system["cost"], "seconds")]
        hardness = [passes, kl, *rates] if adversarial else []
        inference = [_number(system["cost"], name) for name in ("parameters", "encode", "rank")] if measured else []
        rows.append([system["label"], *cells, validation, epochs, *hardness, *cost, *inference])
    header = ["system", *metrics, *f1, "validation", "chosen epochs"]
    header += ["passes by then", "KL", "false negatives found", "as many at random"] if adversarial else []
    header += ["s/epoch", "s of training", *(["parameters", "µs per user to encode", "to rank"] if measured else [])]
    for published in figures.get("published", ()):
        cells = [f"{published['metrics'][m]:.4f}" for m in metrics]
        rows.append([f"elsewhere: {published['label']}", *cells, *[""] * (len(header) - 1 - len(cells))])
    yield from table(header, rows)
    yield ""
    if beside := [*_beside_published(figures, metrics)]:
        yield from (*beside, "")
    for system in figures["systems"]:
        if found_by := system.get("search"):
            changes = ", ".join(f"`{change}`" for change in system["changes"])
            yield f"{system['label']}: {changes}, the best on validation of `search {found_by}`."
            yield ""
    first = figures["systems"][0]["label"]
    rows = [row for system in figures["systems"][1:] for row in _differences(system)]
    yield from table([f"against {first}", *DIFFERENCE], rows)
    yield ""
    if pairs := figures.get("pairs"):
        rows = [[row[0], pair["against"], *row[1:]] for pair in pairs for row in _differences(pair)]
        yield from table(["system", "against", *DIFFERENCE], rows)
        yield ""
        yield " ".join(_verdict(pair, metrics[0]) for pair in pairs)
        yield ""
    apart = {
        system["label"]: {metric: Difference(**_tuples(found)) for metric, found in system["differences"].items()}
        for system in figures["systems"][1:]
    }
    path = RESULTS / f"systems_{figures['comparison']}.png"
    plots.differences(apart, path, f"Differences from {first}")
    yield f"![differences with intervals]({path.relative_to(ROOT)})"
    if len(figures["systems"][0]["runs"]) > 1:
        yield ""
        yield "A * marks what leaves out 0. With few seeds intervals over seeds and users are too narrow: by simulation, 95 %"
        yield "are in truth about 85 % with three seeds and 88 % with five, where runs differ by their seeds alone."
    if adversarial:
        yield ""
        yield "KL, and the share of held-out positives (those that the epoch is chosen on) that hardness takes for"
        yield "false negatives, are those of the last adversarial pass before the chosen epoch. Chance is .5 or somewhat more,"
        yield "hence the rate of items at random beside it."
    if cheap := _priced(figures):
        yield ""
        yield f"![{metrics[0]} against cost]({_frontier(figures, cheap, metrics[0]).relative_to(ROOT)})"
    if figures["comparison"].endswith("_pools"):
        yield ""
        yield f"![by the size of the pool]({_pools(figures).relative_to(ROOT)})"
    if figures["comparison"].endswith("_passes"):
        yield ""
        yield "Bars are standard deviations over seeds."
        yield f"![by the number of adversarial passes]({_passes(figures).relative_to(ROOT)})"


def _beside_published(figures: dict[str, Any], metrics: list[str]) -> Iterator[str]:
    """How far a system is from figures of others on it: relative, and in standard deviations of its own seeds."""
    by_label = {system["label"]: system for system in figures["systems"]}
    for published in figures.get("published", ()):
        if (ours := by_label.get(published.get("of"))) is None:
            continue
        told = []
        for metric in metrics:
            values, theirs = list(ours["metrics"][metric]["by_seed"].values()), published["metrics"][metric]
            apart, deviation = statistics.fmean(values) - theirs, statistics.stdev(values) if len(values) > 1 else 0.0
            told.append(
                f"{metric} {apart / theirs:+.1%}" + (f" ({abs(apart) / deviation:.1f} deviations)" if deviation else "")
            )
        yield f"{ours['label']} beside {published['label']}: {', '.join(told)}."


def _differences(system: dict[str, Any]) -> Iterator[list[str]]:
    """Of a system, or a pair: a row for each metric."""
    for metric, found in system["differences"].items():
        both = found["over_seeds_and_users"]
        relative = "" if found["relative"] is None else f"{found['relative']:+.1%}"
        bounds = _bounds(found["over_users"]), _bounds(both) if both else "one seed"
        yield [system["label"], metric, f"{found['value']:+.4f} ({relative})", *bounds]


def _verdict(pair: dict[str, Any], metric: str) -> str:
    """Of the widest interval that there is."""
    found = pair["differences"][metric]
    low, high = found["over_seeds_and_users"] or found["over_users"]
    says = "a gain" if low > 0 else "a loss" if high < 0 else "no difference that is certain"
    of = "seeds and users" if found["over_seeds_and_users"] else "users alone"
    return f"{pair['label']} against {pair['against']}: **{says}** in {metric}, over {of}."


DIFFERENCE = ("metric", "difference", "95 % over users", "95 % over seeds and users")
FAR = 10  # times as dear: on a logarithmic scale
PRICES = ("parameters", "seconds of training", "µs per user to encode and rank")


def _priced(figures: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    """What each system costs, by PRICES, of those of which all is known; none where these are of one size."""
    found = {}
    for system in figures["systems"]:
        cost = system["cost"] or {}
        if all(cost.get(of) for of in ("parameters", "seconds", "rank")):
            found[system["label"]] = (cost["parameters"], cost["seconds"], (cost.get("encode") or 0.0) + cost["rank"])
    return found if len({parameters for parameters, *_ in found.values()}) > 1 else {}


def _frontier(figures: dict[str, Any], costs: dict[str, tuple[float, ...]], metric: str) -> Path:
    """A metric against each of PRICES: what is up and to the left is better and costs less."""
    path = RESULTS / f"systems_{figures['comparison']}_cost.png"
    values = {system["label"]: statistics.fmean(system["metrics"][metric]["by_seed"].values()) for system in figures["systems"]}
    with plots.figure(path, figures["title"], panels=len(PRICES)) as panels:
        for n, (axes, price) in enumerate(zip(panels, PRICES, strict=True)):
            for (label, cost), colour in zip(costs.items(), itertools.cycle(plots.COLOURS)):
                axes.plot(cost[n], values[label], "o", color=colour, markersize=8, label=label)
            prices = [cost[n] for cost in costs.values()]
            if max(prices) > FAR * min(prices):
                plots.log_scale(axes)
            axes.set_xlabel(price)
        panels[0].set_ylabel(f"{metric} on {figures['split']}")
        panels[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return path


def _pools(figures: dict[str, Any]) -> Path:
    """recall@20 on test by the size of the pool, a curve for each kind; all items are a line."""
    path = RESULTS / f"systems_{figures['comparison']}_curve.png"
    curves: dict[str, dict[int, float]] = {}
    for system in figures["systems"]:
        kind, _, size = system["label"].partition(", ")
        value = statistics.fmean(system["metrics"]["recall@20"]["by_seed"].values())
        curves.setdefault(kind, {})[int(size.replace(",", "") or 0)] = value
    with plots.figure(path, figures["title"], wide=8.2) as (axes,):
        for (kind, curve), colour in zip(curves.items(), plots.COLOURS, strict=False):
            if 0 in curve:
                axes.axhline(curve[0], color=colour, linestyle="--", label=kind)
            else:
                axes.plot(list(curve), list(curve.values()), marker="o", color=colour, label=kind)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("candidates of a row")
        axes.set_ylabel("recall@20 on test")
        axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return path


def _passes(figures: dict[str, Any]) -> Path:
    """What a test says, and what validation says, by the number of adversarial passes; and the false negatives found."""
    path = RESULTS / f"systems_{figures['comparison']}_curve.png"
    systems = figures["systems"]
    passes = [int(system["label"].split()[0]) for system in systems]
    by_seed = {m: [list(system["metrics"][m]["by_seed"].values()) for system in systems] for m in ("recall@20", "ndcg@20")}

    def told(name: str) -> list[list[float]]:
        return [[run["told"][name] for run in system["runs"] if run["told"]] for system in systems]

    panels = {
        "recall@20 on test": {"": by_seed["recall@20"]},
        "ndcg@20 on test": {"": by_seed["ndcg@20"]},
        "recall@20 on validation": {"": [[run["validation"] for run in system["runs"]] for system in systems]},
        "taken for false negatives (share)": {
            "held-out positives": told("false_negative_rate"),
            "items at random": told("false_negative_rate_shuffled"),
        },
    }
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(9.6, 6.0), layout="constrained")
        grid = figure.subplots(2, 2, sharex=True)
        for axes, (name, curves) in zip(grid.flat, panels.items(), strict=True):
            for (label, values), colour in zip(curves.items(), plots.COLOURS, strict=False):
                known = [(n, each) for n, each in zip(passes, values, strict=True) if each]
                means = [statistics.fmean(each) for _, each in known]
                deviations = [statistics.stdev(each) if len(each) > 1 else 0.0 for _, each in known]
                axes.errorbar([n for n, _ in known], means, deviations, marker="o", capsize=3, color=colour, label=label)
            axes.set_title(name)
            if len(curves) > 1:
                axes.legend(loc="upper left")
        for axes in grid[-1]:
            axes.set_xlabel("adversarial passes at most")
        figure.suptitle(figures["title"], x=0.012, ha="left", fontsize=13, fontweight="bold")
        figure.savefig(path)
    return path


def _f1(figures: dict[str, Any], metrics: list[str]) -> list[str]:
    """F1 at each K whose precision and recall are told, where every run has it."""
    cut_offs = [m.partition("@")[2] for m in metrics if m.startswith("precision@")]
    names = [f"f1@{k}" for k in cut_offs if f"recall@{k}" in metrics]
    runs = [run for system in figures["systems"] for run in system["runs"]]
    return [name for name in names if all(name in run.get("f1", {}) for run in runs)]


def _number(cost: dict[str, float | None] | None, name: str) -> str:
    value = (cost or {}).get(name)
    return "" if value is None else f"{value:,.0f}"


def _bounds(interval: list[float]) -> str:
    mark = "" if interval[0] <= 0 <= interval[1] else " *"
    return f"{interval[0]:+.4f} to {interval[1]:+.4f}{mark}"


def _tuples(found: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


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
            cells = [
                spread([run[by][name] for run in runs]) for name in ("recall", "ndcg", "mean_popularity", "less_popular_half")
            ]
            rows.append([model if by == "dot" else "", by, *cells, correlation if by == "dot" else ""])
    header = ["model", "ranked by", "recall@20", "ndcg@20", "mean popularity", "recall from groups 1 to 5", "norm ~ degree"]
    yield from table(header, rows)
    yield ""
    yield "norm ~ degree: Spearman's correlation of the items' norms with their training degree."
    yield " ".join(_by_norms(model, figures["models"][model]) for model in ("LightGCN, 1 layer", "MF (no layer)"))


def _by_norms(model: str, runs: list[dict[str, Any]]) -> str:
    """What ranking by inner product gives or takes in recall after training on cosines."""
    apart = [run["dot"]["recall"] - run["cosine"]["recall"] for run in runs]
    says = "favours it" if min(apart) > 0 else "hurts it" if max(apart) < 0 else "does neither in every seed"
    relative = statistics.fmean(apart) / statistics.fmean(run["cosine"]["recall"] for run in runs)
    seeds = f"{len(runs)} seeds" if len(runs) > 1 else "one seed"
    return f"{model}: inner products in the place of cosines give {relative:+.1%} of recall@20 ({seeds}): **{says}**."


def _told(told: list[dict[str, float]], name: str, runs: int) -> str:
    """What the seeds say whose chosen epoch comes after a pass, and how many they are."""
    if not told:
        return ""
    return spread([each[name] for each in told]) + (f" ({len(told)} of {runs} seeds)" if len(told) < runs else "")
