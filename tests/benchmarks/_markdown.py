"""What the sections of RESULTS.md are written with."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.evaluation.protocols import PROTOCOLS

ROOT = Path(__file__).parents[2]
MASKED = f"valid, {PROTOCOLS['masked']}"  # where the epoch was chosen, of results that were kept before they told it
Result = dict[str, Any]


def table(header: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def spread(values: list[float]) -> str:
    """Mean, and standard deviation where there are several."""
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{deviation}"


def amount(value: float | None) -> str:
    """Two digits, or all before the point, and never an exponent; empty where there is none."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.{1 - math.floor(math.log10(value)) if value else 0}f}"


def threads(figures: dict[str, Any]) -> str:
    return "one thread" if figures["threads"] == 1 else f"{figures['threads']} threads"
