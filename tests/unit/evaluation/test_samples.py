from __future__ import annotations

import numpy as np
import torch

from components.evaluation import samples
from components.evaluation.scorers import Factors
from tests.unit.evaluation.worlds import world


def test_positives_are_the_relevant_items_and_negatives_are_neither_seen_nor_relevant(monkeypatch):
    monkeypatch.setattr(samples, "ITEM_TILE", 100)
    _, task = world(num_users=300, num_items=350)
    users, items = task.truth.num_users, task.truth.num_items
    scorer = Factors(
        torch.stack([torch.arange(users), torch.ones(users)], 1),
        torch.stack([torch.full((items,), float(items)), torch.arange(items)], 1),
    )
    positives, negatives = samples.sample_scores(scorer, task, np.random.default_rng(0), max_users=280)
    chosen = set((positives // items).astype(int))  # a score tells its pair: user * items + item
    assert len(chosen) == 280
    assert sorted(positives) == sorted(u * items + i for u in chosen for i in task.truth.items_of(u))
    known = {u * items + i for split in (task.truth, task.seen) for u in chosen for i in split.items_of(u)}
    assert 0.8 * len(positives) < len(negatives) <= len(positives)
    assert not known & set(negatives)
    assert set((negatives // items).astype(int)) <= chosen
