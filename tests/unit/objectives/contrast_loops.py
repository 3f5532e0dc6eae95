"""InfoNCE of two views and MetAug's margins, one product at a time."""

from __future__ import annotations

import torch
from torch import Tensor


def info_nce(x_BD: Tensor, y_BD: Tensor, temperature: float) -> Tensor:
    """Mean over the 2B vectors."""
    total = x_BD.new_zeros(())
    for positive, negatives in _products(x_BD, y_BD):
        among = sum((torch.exp(each / temperature) for each in negatives), start=torch.exp(positive / temperature))
        total = total - positive / temperature + torch.log(among)
    return total / (2 * len(x_BD))


def anchor_margin(x_BD: Tensor, y_BD: Tensor) -> Tensor:
    positives, negatives = [], []
    for positive, others in _products(x_BD, y_BD):
        if not others:
            continue
        most = torch.stack(others).max()
        o_min, o_max = torch.minimum(positive, most), torch.maximum(positive, most)
        positives.append(torch.relu(positive - o_min))
        negatives += [torch.relu(o_max - other) for other in others]
    return _mean(positives) + _mean(negatives)


def global_margin(x_BD: Tensor, y_BD: Tensor) -> Tensor:
    products = _products(x_BD, y_BD)
    positives = torch.stack([positive for positive, _ in products])
    others = [other for _, negatives in products for other in negatives]
    if not others:
        return torch.zeros(()).double()
    negatives = torch.stack(others)
    o_min, o_max = torch.minimum(positives.min(), negatives.max()), torch.maximum(positives.min(), negatives.max())
    return _mean([torch.relu(each - o_min) for each in positives]) + _mean([torch.relu(o_max - each) for each in negatives])


def _products(x_BD: Tensor, y_BD: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
    """Of each vector: with its partner, and with those that are neither its partner nor itself."""
    rows, both = len(x_BD), [*x_BD, *y_BD]
    found = []
    for n, one in enumerate(both):
        partner = (n + rows) % (2 * rows)
        negatives = [(one * other).sum() for m, other in enumerate(both) if m not in (n, partner)]
        found.append(((one * both[partner]).sum(), negatives))
    return found


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean() if values else torch.zeros(()).double()
