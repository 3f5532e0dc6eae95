"""L2 as the papers have it: on the rows that a batch touched, or on whole tables."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from components.config import L2
from components.objectives import Outcome


def penalty(l2: L2, outcome: Outcome, rows: int, num_workers: int) -> Tensor:
    """This worker's share of weight/2 * sum of squared norms of the table rows touched, with multiplicity.

    A pool that every worker has alike counts once: each worker adds its part of it. `reduce: mean` divides by `rows`, those of
    the global batch. 0 for `on: tables` (add_table_gradient).
    """
    if l2.on == "tables" or l2.weight == 0:
        return torch.zeros((), dtype=outcome.loss_B.dtype, device=outcome.loss_B.device)
    squares = sum(rows_.square().sum() for rows_ in outcome.positive_rows)
    if l2.on == "rows":
        squares = squares + sum(rows_.square().sum() for rows_ in outcome.own_rows)
        squares = squares + sum(rows_.square().sum() for rows_ in outcome.shared_rows) / num_workers
    return l2.weight / 2 * squares / (rows if l2.reduce == "mean" else 1)  # pyright: ignore[reportReturnType]


@torch.no_grad()
def add_table_gradient(l2: L2, tables: Iterable[nn.Parameter], rows: int) -> None:
    """Adds the gradient of weight/2 * |table|^2 to summed gradients, for `on: tables`."""
    if l2.on == "tables" and l2.weight:
        for table in tables:
            assert table.grad is not None, "gradients are summed before the tables' L2 is added"
            table.grad.add_(table, alpha=l2.weight / (rows if l2.reduce == "mean" else 1))
