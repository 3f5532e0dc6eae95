"""Numbers named by what they are for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from components import draws


def test_any_slice_of_a_stream_is_the_same_numbers() -> None:
    whole = draws.uniforms((7, 0, 3), "dropout", 0, 1000)
    for start in (0, 1, 3, 4, 5, 501, 998):
        assert np.array_equal(draws.uniforms((7, 0, 3), "dropout", start, 1000 - start), whole[start:])


def test_streams_of_other_names_are_other_numbers() -> None:
    base = draws.uniforms((7, 0, 3), "dropout", 0, 1000)
    for key, purpose in (((8, 0, 3), "dropout"), ((7, 1, 3), "dropout"), ((7, 0, 4), "dropout"), ((7, 0, 3), "pool")):
        other = draws.uniforms(key, purpose, 0, 1000)
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.15
        assert not np.isin(base, other).any()


def test_they_are_uniform() -> None:
    numbers = draws.uniforms((1, 2, 3), "test", 0, 100_000)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, bins=100, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 180  # chi-square, 99 degrees of freedom: p < 1e-6


def kept(rows: Any, width: int = 50, dropout: float = 0.3, step: int = 3, row_width: int = 50) -> torch.Tensor:
    return draws.are_kept((7, 0, step), "dropout", torch.tensor(list(rows), dtype=torch.int64), width, row_width, dropout)


def test_any_rows_of_what_is_kept_are_the_same_and_their_share_is_right() -> None:
    whole = kept(range(800)).double()
    for rows in ([0], [799, 3, 3, 17], []):
        for width in (1, 3, 4, 5, 50):
            assert torch.equal(kept(rows, width), whole[rows, :width] > 0)
    assert abs(whole.mean() - 0.7) < 0.01
    assert kept(range(800), dropout=0.0).all()
    assert kept(range(800), dropout=1 - 1e-9).double().mean() < 0.001
    more = kept(range(800), dropout=0.5)
    assert not (more & ~kept(range(800))).any(), "what a smaller share drops, a larger one drops too"


def test_what_is_kept_is_at_random_in_every_direction() -> None:
    """In each of a word's four numbers, beside each other in the row and in the next, and in another step."""
    own = kept(range(4000), 64, 0.5, row_width=64).double()
    assert torch.allclose(own.mean(dim=0), torch.full((64,), 0.5).double(), atol=5 * 0.5 / 4000**0.5)
    assert own.mean(dim=1).std() == pytest.approx(0.5 / 8, rel=0.06), "as of 64 that know nothing of each other"
    others = [own.roll(n, dims) for dims in (0, 1) for n in (1, 2, 3, 4, 8, 16)]
    for other in (*others, kept(range(4000), 64, 0.5, step=4, row_width=64).double()):
        assert abs(np.corrcoef(own.flatten(), other.flatten())[0, 1]) < 5 / (4000 * 64) ** 0.5


def test_bits_are_those_of_splitmix64_and_the_same_in_arrays_and_tensors() -> None:
    """Java's SplittableRandom, one number after the other."""
    start, step, most = 0x123456789ABCDEF0, 0x1E3779B97F4A7C15, 2**64
    wanted = []
    for place in range(5):
        z = (start + place * step) % most
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % most
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % most
        wanted.append(z ^ (z >> 31))
    assert draws._mixed(np.arange(5), start, step).view(np.uint64).tolist() == wanted
    assert draws._mixed(torch.arange(5), start, step).numpy().view(np.uint64).tolist() == wanted


def test_a_permutation_holds_every_row_once() -> None:
    order = draws.permutation((1, 2), "rows", 1000)
    assert np.array_equal(np.sort(order), np.arange(1000))
    assert not np.array_equal(order, draws.permutation((1, 3), "rows", 1000))
