"""Random numbers named by what they are for, so that who draws them does not matter.

A stream is named by (seed, purpose, epoch, step); its n-th number is the same whoever asks for it. A worker that owns rows
r..r+B of a global batch draws just theirs, and W workers together draw what one would. No state: nothing to checkpoint.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

NUMBERS_PER_BLOCK = 4  # of Philox 4x64


def uniforms(key: tuple[int, ...], purpose: str, start: int, count: int) -> NDArray[np.float64]:
    """Numbers `start` to `start + count` of a stream, uniform on [0, 1), 53 bits each.

    Source: Philox-4x64-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011), numpy's.
    """
    name = np.random.SeedSequence([*key, zlib.crc32(purpose.encode())]).generate_state(2, np.uint64)
    block, skip = divmod(start, NUMBERS_PER_BLOCK)
    raw = np.random.Philox(key=name, counter=[block, 0, 0, 0]).random_raw(skip + count)[skip:]
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(key: tuple[int, ...], purpose: str, n: int) -> NDArray[np.int64]:
    """A permutation of 0..n-1 that depends on the key alone."""
    return np.random.default_rng([*key, zlib.crc32(purpose.encode())]).permutation(n)
