"""mean_pool against plain loops in float64, and what it must not see."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from components.data.interactions import Interactions
from components.encoders.mean_pool import MeanPool
from components.training.batches import Histories
from tests.unit.encoders.test_sasrec import HISTORIES, PADDING, TRAIN, at_every_place, read


def mean_pool(**settings: Any) -> MeanPool:
    encoder = MeanPool(
        TRAIN, torch.Generator().manual_seed(0), **{"dim": 5, "inner_dim": 9, "init_std": 0.7, **settings}
    ).double()
    with torch.no_grad():
        for bias in (encoder.widen_bias, encoder.narrow_bias):
            bias += torch.linspace(-0.3, 0.4, bias.numel(), dtype=torch.float64)
    return encoder


def literally(encoder: MeanPool, history: list[int]) -> list[float]:
    """What the network makes of the mean, number by number; places of the padding do not count."""
    table, first, second = (w.tolist() for w in (encoder.item_table, encoder.widen_weight, encoder.narrow_weight))
    own = [table[item] for item in history if item != PADDING]
    mean = [sum(column) / len(own) for column in zip(*own, strict=True)]
    hidden = [
        max(0.0, sum(w * m for w, m in zip(row, mean, strict=True)) + b)
        for row, b in zip(first, encoder.widen_bias.tolist(), strict=True)
    ]
    return [
        sum(w * h for w, h in zip(row, hidden, strict=True)) + b
        for row, b in zip(second, encoder.narrow_bias.tolist(), strict=True)
    ]


def test_it_is_the_formula() -> None:
    encoder = mean_pool()
    wanted = torch.tensor([literally(encoder, history) for history in HISTORIES], dtype=torch.float64)
    assert torch.allclose(encoder.encode(read(HISTORIES)), wanted, rtol=1e-10)
    places = [literally(encoder, history[: p + 1]) for history in HISTORIES for p in range(len(history))]
    assert torch.allclose(encoder.encode(at_every_place(HISTORIES)), torch.tensor(places, dtype=torch.float64), rtol=1e-10)


def test_the_network_has_the_specifications_size() -> None:
    """33,088 parameters beside the tables: 64 x 256 + 256 + 256 x 64 + 64."""
    encoder = MeanPool(TRAIN, torch.Generator().manual_seed(0))
    assert sum(p.numel() for name, p in encoder.named_parameters() if name != "item_table") == 33_088


def test_neither_padding_nor_order_is_seen() -> None:
    encoder = mean_pool()
    vectors = encoder.encode(read(HISTORIES))
    vectors.square().sum().backward()
    assert encoder.item_table.grad is not None
    assert not encoder.item_table.grad.to_dense()[PADDING].any()
    assert torch.allclose(encoder.encode(read(HISTORIES, width=12)), vectors, rtol=1e-12)
    with torch.no_grad():
        encoder.item_table[PADDING] = 1e3
    assert torch.allclose(encoder.encode(read(HISTORIES)), vectors, rtol=1e-12)
    assert torch.allclose(encoder.encode(read([history[::-1] for history in HISTORIES])), vectors, rtol=1e-12)


def test_a_masked_place_counts_nowhere() -> None:
    encoder = mean_pool()
    masked = [[7, PADDING, 9, 4], [PADDING, 3, PADDING]]
    assert torch.allclose(encoder.encode(read(masked)), encoder.encode(read([[7, 9, 4], [3]])), rtol=1e-12)
    _, counts = encoder.means(read(masked))
    assert counts.tolist() == [3, 1]


def test_an_empty_history_is_0() -> None:
    encoder = mean_pool()
    found = encoder.encode(read([HISTORIES[2], [], [PADDING]]))
    assert not found[1:].any()
    assert torch.allclose(found[:1], encoder.encode(read([HISTORIES[2]])), rtol=1e-12)
    nobody = Histories(torch.full((2, 1), PADDING), torch.zeros(2, dtype=torch.int64), first=0)
    assert not encoder.encode(nobody).any()


@pytest.mark.parametrize("std", [0.01, 0.3])
def test_initial_values(std: float) -> None:
    log = Interactions.of([0], [0], 1, 500)
    encoder = MeanPool(log, torch.Generator().manual_seed(0), init_std=std)
    assert encoder.item_table.std().item() == pytest.approx(std, rel=0.05)
    assert encoder.widen_weight.std().item() == pytest.approx((2 / (64 + 256)) ** 0.5, rel=0.05)
    assert not encoder.widen_bias.any()


def test_a_view_is_what_encoding_it_gives_value_and_gradient() -> None:
    encoder = mean_pool()
    histories = read(HISTORIES)
    views_BVL = histories.items_SL.unsqueeze(1).repeat(1, 3, 1)
    places_L = torch.arange(views_BVL.shape[2])
    inside_BL = places_L < histories.lengths_S.unsqueeze(1)
    views_BVL[:, 1] = torch.where(inside_BL & (places_L % 2 == 0), (views_BVL[:, 1] + 1) % TRAIN.num_items, views_BVL[:, 1])
    views_BVL[:, 2] = torch.where(inside_BL, 0, views_BVL[:, 2])
    whole = [encoder.encode(Histories(view_BL, histories.lengths_S, 0)) for view_BL in views_BVL.unbind(1)]
    gradients = []
    for vectors_BVD in (torch.stack(whole, dim=1), encoder.encode_replaced(histories, views_BVL)):
        assert torch.allclose(vectors_BVD, torch.stack(whole, dim=1), rtol=1e-10)
        encoder.zero_grad()
        (vectors_BVD * torch.linspace(-1, 2, vectors_BVD.numel()).view_as(vectors_BVD)).sum().backward()
        gradients.append(
            [p.grad.to_dense() if p.grad.is_sparse else p.grad for p in encoder.parameters() if p.grad is not None]
        )
    assert len(gradients[0]) == 5
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-12) for a, b in zip(*gradients, strict=True))
    encoder.zero_grad()
    unchanged_BVD = encoder.encode_replaced(histories, histories.items_SL.unsqueeze(1))
    assert torch.equal(unchanged_BVD.squeeze(1), encoder.encode(histories)), "nothing is replaced"
    unchanged_BVD.sum().backward()
