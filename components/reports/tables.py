"""Tables for people, drawn in the terminal."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from components.evaluation import comparison as intervals
from components.evaluation.comparison import Difference, Interval
from components.search import Trial

LONGEST_REASON = 60


def comparison(results: Mapping[str, Mapping[str, float]], ks: Sequence[int], title: str) -> Group:
    """A row for the model (first) and each baseline; the best accuracies in bold.

    Columns: recall and ndcg at every K, hit at the first, coverage and mean popularity rank (1 = most popular) at the last.
    """
    accuracies = [f"{name}@{k}" for name in ("recall", "ndcg") for k in ks] + [f"hit@{ks[0]}"]
    table = _table()
    table.add_column("", no_wrap=True)
    for name in (*accuracies, f"coverage@{ks[-1]}", f"mean\npopularity\nrank@{ks[-1]}"):
        table.add_column(name if "\n" in name else "\n" + name.replace("@", "\n@"), justify="right", no_wrap=True)
    best = {name: max(values[name] for values in results.values()) for name in accuracies}
    for row, values in results.items():
        cells = [f"[bold]{values[name]:.4f}[/]" if values[name] == best[name] else f"{values[name]:.4f}" for name in accuracies]
        coverage, rank = values[f"coverage@{ks[-1]}"], values[f"mean_popularity_rank@{ks[-1]}"]
        table.add_row(row, *cells, f"{coverage:.1%}", f"{rank:,.0f}")
    return _titled(title, table)


def recommendations(lists: Mapping[str, Sequence[str]], title: str) -> Group:
    """A column per user, best item first."""
    table = _table()
    table.add_column("rank", justify="right")
    for user in lists:
        table.add_column(f"user {user}", overflow="ellipsis", no_wrap=True, max_width=32)
    for rank in range(max(map(len, lists.values()), default=0)):
        table.add_row(str(rank + 1), *(names[rank] if rank < len(names) else "" for names in lists.values()))
    return _titled(title, table)


def trials(best: Sequence[Trial], metric: str, title: str) -> Group:
    """A row per trial of a search: what it was given, what it reached, and how it ended."""
    keys = list(dict.fromkeys(key for trial in best for key in trial.values))
    table = _table()
    for name in ("trial", metric, "epochs", *keys, "ended"):
        table.add_column(name, justify="left" if name in ("trial", "ended") else "right", overflow="fold")
    for trial in best:
        values = [trial.values.get(key, "") for key in keys]
        cells = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        score = "" if trial.score is None else f"{trial.score:.4f}"
        ended = Text(f"{trial.ended or 'interrupted'} {trial.reason[:LONGEST_REASON]}".strip())
        table.add_row(trial.name, score, str(trial.epochs), *cells, ended)
    return _titled(title, table)


def systems(found: Sequence[Mapping[str, Any]], title: str) -> Group:
    """A row per system of a comparison, the baseline first: how it was trained, and what that cost, means over its runs.

    Args:
        found: mappings with name, runs, fit_on, chosen_on, workers, cost {epochs, seconds_per_epoch, seconds (or None)}.
    """
    table = _table()
    table.add_column("", overflow="fold")
    for name in ("\nseeds", "\nfit on", "epoch\nchosen on", "\nepochs", "seconds\nper epoch", "\ntraining", "\nworkers"):
        choice = name.endswith("chosen on")  # split and protocol, in lines
        table.add_column(name, justify="right", no_wrap=not choice, max_width=14 if choice else None)
    for system in found:
        trained = (str(len(system["runs"])), system["fit_on"], system["chosen_on"])
        table.add_row(Text(system["name"]), *trained, *cost(system["cost"]), system["workers"])
    return _titled(title, table)


def cost(of: Mapping[str, float | None]) -> list[str]:
    """Epochs, seconds of one, and the time of all, as text."""
    epochs, each, total = of["epochs"], of["seconds_per_epoch"], of["seconds"]
    return [
        f"{epochs:.4g}",
        "-" if each is None else f"{each:.3g}" if each < 100 else f"{each:,.0f}",
        "-" if total is None else str(datetime.timedelta(seconds=round(total))),
    ]


def differences(values: Mapping[str, Mapping[str, Any]], found: Mapping[str, Difference], metric: str) -> Group:
    """A row per system, the baseline first: mean and standard deviation over seeds, and its difference from the baseline.

    Args:
        values: {mean, deviation (None of one seed)} of each system.
        found: of each system but the baseline.
    """
    table = _table()
    table.add_column("", overflow="fold")
    for name in ("\nmean", "\nsd", "differ-\nence", "\n%", "interval\nover users", "over seeds\nand users"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, own in values.items():
        cells = [f"{own['mean']:.4f}", "-" if own["deviation"] is None else f"{own['deviation']:.4f}"]
        if name in found:
            apart = found[name]
            cells += [signed(apart.value), percent(apart.relative)]
            cells += [_interval(apart.over_users), _interval(apart.over_seeds_and_users)]
        table.add_row(Text(name), *cells)
    return _titled(metric, table)


def promotion(found: Mapping[str, Difference], title: str) -> Group:
    """A row per metric of a gate: the challenger's difference from the champion."""
    table = _table()
    table.add_column("")
    for name in ("difference", "%", "interval over users"):
        table.add_column(name, justify="right", no_wrap=True)
    for metric, apart in found.items():
        table.add_row(metric, signed(apart.value), percent(apart.relative), _interval(apart.over_users))
    return _titled(title, table)


def _interval(bounds: Interval | None) -> str:
    """Both ends, and a star where 0 lies outside."""
    if bounds is None:
        return "one seed "
    return f"{signed(bounds[0])} {signed(bounds[1])}{'*' if intervals.excludes_zero(bounds) else ' '}"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:+.1f}"


def signed(value: float) -> str:
    """As +.0123: a difference of metrics, which are at most 1."""
    return f"{value:+.4f}".replace("0.", ".", 1)


def _table() -> Table:
    return Table(header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def _titled(title: str, table: Table) -> Group:
    return Group(Text(title, style="bold"), table)
