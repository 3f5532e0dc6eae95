"""Adam, dense or lazy, and L2 as the papers have it: on the rows that a batch touched, or on whole tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from components.errors import InputError
from components.objectives import Outcome
from components.training_rules import L2


class Adam:
    """One learner's Adam, dense and fused; where it is lazy, its tables' is torch's SparseAdam.

    Lazy, with t the steps so far, for the rows of a table that have a gradient g at step t, and these alone:
        m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,  w -= rate sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + 1e-8)
    So a row's moments decay by the steps that touch it, and nothing moves it in between, where Adam would go on by m.

    Raises: InputError where the gradient of a table is dense: the encoder does not look its rows up, it reads all of it.
    Source: Kingma and Ba 2015, arXiv 1412.6980; torch.optim.SparseAdam.
    """

    def __init__(self, module: nn.Module, learning_rate: float, *, maximise: bool = False, lazy: bool = False) -> None:
        self.lazy = lazy
        named = list(module.named_parameters())
        self._tables = {name: weight for name, weight in named if lazy and name.endswith("_table")}
        self._parts: list[tuple[list[int], torch.optim.Optimizer]] = []  # with the places of its weights among all
        dense, tables = ([n for n, (name, _) in enumerate(named) if (name in self._tables) is each] for each in (False, True))
        if dense:
            weights = [named[n][1] for n in dense]
            self._parts.append((dense, torch.optim.Adam(weights, lr=learning_rate, fused=True, maximize=maximise)))
        if tables:
            weights = [named[n][1] for n in tables]
            self._parts.append((tables, torch.optim.SparseAdam(weights, lr=learning_rate, maximize=maximise)))

    def step(self) -> None:
        """Takes one step by the gradients that there are."""
        for name, table in self._tables.items():
            if table.grad is not None and not table.grad.is_sparse:
                raise InputError(
                    f"optimizer.lazy: got True, takes False where the gradient of encoder's {name} is of all its rows"
                )
        for _, part in self._parts:
            part.step()

    def set_rate(self, learning_rate: float) -> None:
        """For the steps to come."""
        for _, part in self._parts:
            for group in part.param_groups:
                group["lr"] = learning_rate

    def state_dict(self) -> dict[str, Tensor]:
        """Every moment and number of steps, by the weight's place and its name."""
        return {
            f"{places[weight]}.{name}": torch.as_tensor(value)
            for places, part in self._parts
            for weight, values in part.state_dict()["state"].items()
            for name, value in values.items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from there."""
        for places, part in self._parts:
            found: dict[int, dict[str, Any]] = {}
            for key, value in state.items():
                place, name = key.split(".", 1)
                if int(place) in places:
                    is_count = name == "step" and isinstance(part, torch.optim.SparseAdam)  # which counts in Python
                    found.setdefault(places.index(int(place)), {})[name] = int(value) if is_count else value
            part.load_state_dict({"state": found, "param_groups": part.state_dict()["param_groups"]})


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
