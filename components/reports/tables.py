"""Tables for people, drawn in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text


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


def _table() -> Table:
    return Table(header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def _titled(title: str, table: Table) -> Group:
    return Group(Text(title, style="bold"), table)
