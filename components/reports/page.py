"""One self-contained HTML page: headings, text, tables and pictures; it loads nothing, so it can be sent, or kept in MLflow."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#25313c, #dde4ea); --paper: light-dark(#fff, #161c22);
        --line: light-dark(#dfe5ea, #33404b); --quiet: light-dark(#5c6b78, #97a6b3);
        --link: light-dark(#1f5f8b, #8fc1e6); }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 76rem; margin: 2.5rem auto;
       padding: 0 1.25rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem .35rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 9rem;
                                 position: sticky; left: 0; background: var(--paper); }
th { font-weight: 600; color: var(--quiet); white-space: normal; vertical-align: bottom; }
a { color: var(--link); }
figure { margin: 1.5rem 0; } img { max-width: 100%; background: #fff; border-radius: 6px; }
p, footer { color: var(--quiet); max-width: 46rem; }
pre { overflow-x: auto; font-size: .8rem; border-left: 3px solid var(--line); padding-left: .9rem; }
footer { margin-top: 3rem; font-size: .85rem; overflow-wrap: anywhere; max-width: none; }
"""


@dataclass(frozen=True)
class Link:
    """A cell that leads to a page of the web."""

    text: str
    address: str


class Page:
    """Built from top to bottom; every text is escaped."""

    def __init__(self, title: str) -> None:
        self._title, self._parts = title, [f"<h1>{escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def text(self, text: str) -> None:
        self._parts.append(f"<p>{escape(text)}</p>")

    def code(self, text: str) -> None:
        """As it is, line by line."""
        self._parts.append(f"<pre>{escape(text)}</pre>")

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str | Link]]) -> None:
        """Row labels in the first column, numbers in the others."""
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
        body = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        self._parts.append(f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')

    def picture(self, png: Path, says: str) -> None:
        """`says` is what the picture shows, for those who do not see it."""
        data = base64.b64encode(png.read_bytes()).decode()
        self._parts.append(f'<figure><img alt="{escape(says)}" src="data:image/png;base64,{data}"></figure>')

    def html(self, footer: str) -> str:
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(self._title)}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<style>{STYLE}</style></head><body>{''.join(self._parts)}<footer>{escape(footer)}</footer></body></html>\n"
        )


def _cell(cell: str | Link) -> str:
    if isinstance(cell, str):
        return escape(cell)
    assert cell.address.startswith(("http://", "https://")), f"{cell.address} is no page of the web"
    return f'<a href="{escape(cell.address)}" target="_blank" rel="noopener">{escape(cell.text)}</a>'
