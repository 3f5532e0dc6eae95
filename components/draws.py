"""Random numbers named by what they are for, so that who draws them does not matter.

A stream is named by (seed, purpose, epoch, step); its n-th number is the same whoever asks for it. A worker that owns rows
r..r+B of a global batch draws just theirs, and W workers together draw what one would. No state: nothing to checkpoint.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

NUMBERS_PER_BLOCK = 4  # of Philox 4x64
WORDS_PER_NUMBER = 4  # of 16 bits


def uniforms(key: tuple[int, ...], purpose: str, start: int, count: int) -> NDArray[np.float64]:
    """Numbers `start` to `start + count` of a stream, uniform on [0, 1), 53 bits each.

    Source: Philox-4x64-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011), numpy's.
    """
    return (_raw(key, purpose, start, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def are_kept(key: tuple[int, ...], purpose: str, start: int, count: int, dropout: float) -> NDArray[np.bool_]:
    """[count] True with probability 1 - dropout, to the nearest 2**-16: 16 bits of a stream each, for there are many."""
    first, skip = divmod(start, WORDS_PER_NUMBER)
    words = _raw(key, purpose, first, -(-(skip + count) // WORDS_PER_NUMBER)).view(np.uint16)[skip : skip + count]
    return words >= round(dropout * 2**16)


def _raw(key: tuple[int, ...], purpose: str, start: int, count: int) -> NDArray[np.uint64]:
    name = np.random.SeedSequence([*key, zlib.crc32(purpose.encode())]).generate_state(2, np.uint64)
    block, skip = divmod(start, NUMBERS_PER_BLOCK)
    return np.random.Philox(key=name, counter=[block, 0, 0, 0]).random_raw(skip + count)[skip:]


def permutation(key: tuple[int, ...], purpose: str, n: int) -> NDArray[np.int64]:
    """A permutation of 0..n-1 that depends on the key alone."""
    return np.random.default_rng([*key, zlib.crc32(purpose.encode())]).permutation(n)
