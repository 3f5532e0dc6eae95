"""The views written out for one history at a time, and what tests draw from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from components import draws
from components.views import Uniforms, padding_id


def numbers(rows: int, seed: int = 0) -> Uniforms:
    """The same numbers for a purpose whenever it asks."""
    return lambda purpose, n: torch.from_numpy(draws.uniforms((seed,), purpose, 0, rows * n)).view(rows, n)


def padded(histories: Sequence[Sequence[int]], width: int, num_items: int) -> tuple[Tensor, Tensor]:
    """(histories_BL, lengths_B)."""
    rows = [[*history, *[padding_id(num_items)] * (width - len(history))] for history in histories]
    return torch.tensor(rows), torch.tensor([len(history) for history in histories])


def random_histories(rows: int, width: int, num_items: int, seed: int = 0) -> list[list[int]]:
    """Of every length from 0 to the width; items may repeat."""
    random = torch.Generator().manual_seed(seed)
    return [torch.randint(num_items, (row % (width + 1),), generator=random).tolist() for row in range(rows)]


def crop(history: list[int], start: float, ratio: float) -> list[int]:
    if not history:
        return []
    kept = max(1, math.floor(ratio * len(history)))
    first = math.floor(start * (len(history) - kept + 1))
    return history[first : first + kept]


def mask(history: list[int], positions: list[float], ratio: float, token: int) -> list[int]:
    view = list(history)
    for place in _lowest(positions, range(len(history)), math.floor(ratio * len(history))):
        view[place] = token
    return view


def reorder(history: list[int], start: float, order: list[float], ratio: float) -> list[int]:
    window = math.floor(ratio * len(history))
    first = math.floor(start * (len(history) - window + 1))
    shuffled = [history[place] for place in sorted(range(first, first + window), key=lambda place: order[place])]
    return history[:first] + shuffled + history[first + window :]


def substitute(
    history: list[int], positions: list[float], neighbour: list[float], ratio: float, similar: list[list[int]]
) -> list[int]:
    view = list(history)
    for place in _chosen(history, positions, ratio):
        if options := similar[history[place]]:
            view[place] = options[math.floor(neighbour[place] * len(options))]
    return view


def insert(
    history: list[int], positions: list[float], neighbour: list[float], ratio: float, similar: list[list[int]], width: int
) -> list[int]:
    chosen, view = _chosen(history, positions, ratio), []
    for place, item in enumerate(history):
        options = similar[item] if place in chosen else []
        if options:
            view.append(options[math.floor(neighbour[place] * len(options))])
        view.append(item)
    return view[max(0, len(view) - width) :]


def replace(
    history: list[int],
    target: int,
    importance: list[float],
    positions: list[float],
    substitutes: list[float],
    *,
    sign: float,
    ratio: float,
    sharpness: float,
    temperature: float,
    pool: list[int],
    similarity: dict[tuple[int, int], float],
) -> list[int]:
    if len(history) < 3 or len(set(history)) < 2:
        return history
    first = {item: place for place, item in reversed(list(enumerate(history)))}
    places = sorted(first.values())
    times = {}
    for place in places:
        below = sum(importance[other] < importance[place] for other in places)
        equal = sum(importance[other] == importance[place] for other in places)
        rank = (below + (equal - 1) / 2) / max(1, len(places) - 1)
        times[place] = -math.log(1 - positions[place]) / math.exp(-sign * sharpness * rank)
    view = list(history)
    for place in sorted(places, key=lambda place: times[place])[: max(1, math.floor(ratio * len(places)))]:
        left = [item for item in sorted(pool) if item not in history and item != target]
        weights = [math.exp(sign * similarity[history[place], item] / temperature) for item in left]
        sought, total = substitutes[place] * sum(weights), 0.0
        for item, weight in zip(left, weights, strict=True):
            total += weight
            if total > sought:
                view = [item if old == history[place] else new for old, new in zip(history, view, strict=True)]
                break
    return view


def _lowest(keys: list[float], places: Sequence[int], count: int) -> list[int]:
    return sorted(places, key=lambda place: keys[place])[:count]


def _chosen(history: list[int], positions: list[float], ratio: float) -> list[int]:
    count = max(1, math.floor(ratio * len(history))) if len(history) > 1 else 0
    return _lowest(positions, range(len(history)), count)
