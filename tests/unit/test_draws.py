"""Numbers named by what they are for."""

from __future__ import annotations

import numpy as np

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


def test_any_slice_of_what_is_kept_is_the_same_and_its_share_is_right() -> None:
    whole = draws.are_kept((7, 0, 3), "dropout", 0, 40_000, 0.3)
    for start in (0, 1, 3, 4, 15, 16, 17, 501, 39_998):
        assert np.array_equal(draws.are_kept((7, 0, 3), "dropout", start, 40_000 - start, 0.3), whole[start:])
    assert abs(whole.mean() - 0.7) < 0.01
    assert draws.are_kept((7, 0, 3), "dropout", 0, 40_000, 0.0).all()
    more = draws.are_kept((7, 0, 3), "dropout", 0, 40_000, 0.5)
    assert not (more & ~whole).any(), "what a smaller share drops, a larger one drops too"
    for other in (draws.are_kept((7, 0, 4), "dropout", 0, 40_000, 0.5), np.roll(more, 1)):
        assert abs(np.corrcoef(more, other)[0, 1]) < 0.03


def test_a_permutation_holds_every_row_once() -> None:
    order = draws.permutation((1, 2), "rows", 1000)
    assert np.array_equal(np.sort(order), np.arange(1000))
    assert not np.array_equal(order, draws.permutation((1, 3), "rows", 1000))
