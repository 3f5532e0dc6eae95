"""Small random worlds for the tests of ranking and evaluation."""

from __future__ import annotations

import numpy as np
import torch

from components.data.interactions import Interactions
from components.evaluation.evaluate import Task
from components.evaluation.scorers import Factors


def rows(num_users: int, num_items: int, count: int, seed: int) -> Interactions:
    """At most `count` distinct rows; low item ids are the popular ones."""
    rng = np.random.default_rng(seed)
    items = (num_items * rng.random(count) ** 2).astype(int)
    pairs = np.unique(np.stack([rng.integers(0, num_users, count), items], 1), axis=0).astype(np.int32)
    return Interactions.of(pairs[:, 0], pairs[:, 1], num_users, num_items)


def world(num_users: int = 600, num_items: int = 900, width: int = 8, seed: int = 0) -> tuple[Factors, Task]:
    """A random model; truth and seen overlap in some rows, as in Coat's files."""
    generator = torch.Generator().manual_seed(seed)
    users_UD = torch.randn(num_users, width, generator=generator)
    items_ID = torch.randn(num_items, width, generator=generator)
    truth = rows(num_users, num_items, 4 * num_users, seed + 1)
    seen = rows(num_users, num_items, 12 * num_users, seed + 2)
    return Factors(users_UD, items_ID), Task(truth, seen)
