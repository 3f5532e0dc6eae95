"""RESULTS.md's sections on searches, with their pictures."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from components.reports import plots, search_plots
from tests.benchmarks._common import RESULTS
from tests.benchmarks._markdown import MASKED, ROOT, Result, amount, spread, table
from tests.benchmarks.asha import band
from tests.benchmarks.search import SEARCHES, as_trial, by_point

SHOWN = 12  # points of a table; the picture has all
MOMENTS = 200  # of a curve over time
SAYS = {"fifo": "every trial to its end", "asha": "ASHA"}


def search(result: Result) -> Iterator[str]:
    figures = result["figures"]
    metric, against = figures["metric"], figures["against"].replace("shifted_recall", "recall_snips")  # its name for a while
    points, names = by_point(figures["trials"]), list(figures["trials"][0]["values"])
    how = "every point of a grid" if figures["searcher"] == "grid" else f"{len(points)} random points"
    named = SEARCHES.get(figures["search"])
    yield f"## {named.title if named else figures['title']}"
    yield ""
    chosen_on = figures.get("chosen_on", MASKED)
    yield f"`{figures['recipe']}`, {how}; epoch and trial by {metric} on {chosen_on}; no test was looked at;"
    if all(trial["epochs"] == figures["epochs"] for trial in figures["trials"]):
        yield f"{figures['epochs']} epochs, the best of which counts."
    else:
        yield f"{figures['epochs']} epochs at most. Epochs trained are those until a trial ended, by its patience for most:"
        yield "the best came before. A recipe may ask for some at least (`training.min_epochs`)."
    if figures["changes"]:
        yield f"Changed in the recipe: {', '.join(f'`{change}`' for change in figures['changes'])}."
    yield ""
    rows = [_point(point, names) for point in points[:SHOWN]]
    yield from table([*names, metric, against, "epochs trained", "ended"], rows)
    yield ""
    if len(points) > SHOWN:
        yield f"The best {SHOWN} of {len(points)} points; the last has {metric} {_spread(points[-1]['score'])}."
    if ends := figures["best"]["at_an_end_of"]:
        yield f"**The best value of {' and '.join(ends)} lies at an end of what was tried**: beyond it may be better ones."
    failed = [trial for trial in figures["trials"] if trial["score"] is None]
    if failed:
        yield f"{len(failed)} of {len(figures['trials'])} trials have no score, the first for: {failed[0]['reason']}."
    seconds = [trial["seconds"] for trial in figures["trials"] if trial["seconds"] is not None]
    hours = sum(figures["hours"].values())
    yield f"{len(figures['trials'])} trials in {amount(hours)} hours, {amount(sum(seconds) / 3600)} hours of training."
    yield ""
    yield " ".join(f"![{says}]({path.relative_to(ROOT)})" for says, path in _pictures(figures, names).items())


def _point(point: dict[str, Any], names: Sequence[str]) -> list[str]:
    ended = ", ".join(f"{number} {how}" for how, number in Counter(point["ended"]).items())
    values = [f"{point['values'][name]:.3g}" for name in names]
    return [*values, *(_spread(point[what]) for what in ("score", "against")), ", ".join(map(str, point["epochs"])), ended]


def _spread(values: list[float]) -> str:
    return spread(values) if values else "none"


def _pictures(figures: dict[str, Any], names: list[str]) -> dict[str, Path]:
    """One number against the score; of two, their map too; of more, how much each tells."""
    trials, is_log = [as_trial(trial) for trial in figures["trials"]], dict.fromkeys(figures["logarithmic"], True)
    paths = {what: RESULTS / f"search_{figures['search']}_{what}.png" for what in ("slices", "heat_map", "importance")}
    search_plots.slices(trials, paths["slices"], figures["metric"], is_log)
    found = {f"{figures['metric']} on validation by each value": paths["slices"]}
    if len(names) == 2:
        search_plots.heat_map(trials, names[0], names[1], paths["heat_map"], figures["metric"], is_log)
        found |= {"both together": paths["heat_map"]}
    if len(names) > 2 and figures["importance"]:
        search_plots.importance(figures["importance"], paths["importance"])
        found |= {"how much each tells the best tenth of trials from all (PED-ANOVA)": paths["importance"]}
    return found


def asha(result: Result) -> Iterator[str]:
    figures = result["figures"]
    minutes, slots = 60 * figures["hours"], figures["slots"]
    yield f"## ASHA against training every trial to its end: {minutes:.0f} minutes on {slots} places each"
    yield ""
    yield f"`{figures['recipe']}` with {', '.join(f'`{change}`' for change in figures['changes'])}; the same random points in"
    yield f"the same order, best {figures['metric']} on validation of any trial so far. Time is that since the search began."
    yield ""
    rows = []
    for name, runs in figures["schedulers"].items():
        ended = Counter[str]()
        for run in runs:
            ended.update(run["ended"])
        epochs = ", ".join(str(run["epochs"]) for run in runs)
        reached = ", ".join(_minutes(run["hours_to_fifos_best"]) for run in runs)
        trials = ", ".join(str(run["trials"]) for run in runs)
        best = spread([run["curve"][-1][1] for run in runs])
        rows.append([SAYS[name], trials, f"{ended['finished']} of {sum(ended.values())}", epochs, best, reached])
    header = ["", "trials by seed", "ended by themselves", "epochs by seed", f"best {figures['metric']}"]
    yield from table([*header, "minutes to the best of the first row, by seed"], rows)
    yield ""
    yield f"![mean and range over seeds]({_over_time(figures).relative_to(ROOT)})"


def _minutes(hours: float | None) -> str:
    return "never" if hours is None else f"{60 * hours:.1f}"


def _over_time(figures: dict[str, Any]) -> Path:
    """Mean and range of the best so far."""
    path = RESULTS / "asha.png"
    moments = [figures["hours"] * n / MOMENTS for n in range(MOMENTS + 1)]
    with plots.figure(path, "Best so far, mean and range over seeds", wide=8.2) as (axes,):
        for (name, runs), colour in zip(figures["schedulers"].items(), plots.COLOURS, strict=False):
            points = band([run["curve"] for run in runs], moments)
            hours, means, least, largest = zip(*points, strict=True) if points else ((), (), (), ())
            minutes = [60 * hour for hour in hours]
            axes.fill_between(minutes, least, largest, step="post", color=colour, alpha=0.2)
            axes.step(minutes, means, where="post", color=colour, label=SAYS[name])
        axes.set_xlabel("minutes since the search began")
        axes.set_title(f"{figures['metric']} on validation")
        axes.legend(loc="lower right")
    return path


def overhead(result: Result) -> Iterator[str]:
    figures = result["figures"]
    training, each, limit = figures["training_seconds"], figures["overhead_seconds"], figures["limit"]
    yield f"## What a search costs beside training: {figures['trials']} trials on {figures['slots']} places"
    yield ""
    verdict = f"within the limit of {limit} s" if each <= limit else f"**not within the limit of {limit} s**"
    yield f"(wall time x places - sum of training time) / trials: **{each:.1f} s**, {verdict}. The program took"
    yield f"{figures['wall_seconds']:.0f} s, training {statistics.fmean(training):.0f} s for each trial ({min(training):.0f} to"
    yield f"{max(training):.0f}), of `{figures['recipe']}` with {', '.join(f'`{change}`' for change in figures['changes'])}."
    if min(training) < figures["least_training"]:
        yield f"**Some trained for less than {figures['least_training']} s**, for which the limit is not meant."
    yield ""
    rows = [[part, f"{seconds:.2f}"] for part, seconds in figures["parts"].items()]
    yield from table(["where places did not train", "seconds for each trial"], [*rows, ["all", f"{each:.2f}"]])
    yield ""
    rows = [[part, f"{seconds:.2f}"] for part, seconds in figures["of_a_trial"].items()]
    yield from table(["a trial, some of it while others train", "median seconds"], rows)


def memory(result: Result) -> Iterator[str]:
    figures = result["figures"]
    looks = list(figures["looks"].values())
    yield f"## Memory of {figures['trials']} trials at once"
    yield ""
    yield f"`{figures['recipe']}`; PSS of every process below the program, which counts a page that n map as 1/n for each, and"
    yield "how many these are."
    yield ""
    rows = [
        [kind, *(f"{look['kinds'][kind]:.0f} MiB, {look['processes'][kind]}" for look in looks)] for kind in looks[0]["kinds"]
    ]
    rows.append(["all", *(f"{look['mib']:.0f} MiB" for look in looks)])
    rows.append(["of trials, for each", *(f"{look['mib_by_trial']:.0f} MiB" for look in looks)])
    for what, says in {"rss": "seen by all", "pss": "what it takes", "private": "seen by a single one"}.items():
        rows.append([f"the mapped data, {says}", *(f"{look['mapped_mib'][what]:.1f} MiB" for look in looks)])
    yield from table(["", *(f"{look['trials']} at once" for look in looks)], rows)
    yield ""
    times = looks[-1]["mapped_mib"]["rss"] / looks[-1]["mapped_mib"]["pss"]
    yield f"The cache has {figures['cache_mib']:.1f} MiB of files. What trials see of it is {times:.1f} times what it takes."
    yield f"A further trial takes {figures['mib_for_each_further_trial']:.0f} MiB."
