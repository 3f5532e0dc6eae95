"""Random numbers named by what they are for, so that who draws them does not matter.

A stream is named by (seed, purpose, epoch, step); its n-th number is the same whoever asks for it. A worker that owns rows
r..r+B of a global batch draws just theirs, and W workers together draw what one would. No state: nothing to checkpoint.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NUMBERS_PER_BLOCK = 4  # of Philox 4x64
NUMBERS_PER_WORD = 4  # of 16 bits
WORDS_AT_ONCE = 2**16  # of 64 bits
MIXES = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64), (31, 1))  # shifts, and factors as int64 has them


def uniforms(key: tuple[int, ...], purpose: str, start: int, count: int) -> NDArray[np.float64]:
    """Numbers `start` to `start + count` of a stream, uniform on [0, 1), 53 bits each.

    Source: Philox-4x64-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011), numpy's.
    """
    return (_raw(key, purpose, start, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def are_kept(key: tuple[int, ...], purpose: str, rows_N: Tensor, width: int, row_width: int, dropout: float) -> Tensor:
    """[N, width] the first `width` of the numbers of some rows: True with probability 1 - dropout, to the nearest 2**-16.

    A stream has `row_width` numbers for each row, of 16 bits each, for there are many. Any of them may be drawn without those
    before it, on the device of `rows_N`.

    Source: SplitMix64 (Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014), at any place.
    """
    on_cpu, words, stride = rows_N.device.type == "cpu", -(-width // NUMBERS_PER_WORD), -(-row_width // NUMBERS_PER_WORD)
    start, step = _name(key, purpose).view(np.int64).tolist()
    least = min(round(dropout * 2**16), 2**16 - 1) - 2**15  # as int16 has them, numbers begin at -2^15
    if not on_cpu:
        places_NW = rows_N.unsqueeze(1) * stride + torch.arange(words, device=rows_N.device)
        return _mixed(places_NW, start, step).view(torch.int16)[:, :width] >= least
    kept_NW, at_once = np.empty((len(rows_N), width), np.bool_), max(1, WORDS_AT_ONCE // words)
    for first in range(0, len(rows_N), at_once):  # numpy's loops take a quarter of torch's time, in a core's cache
        some = slice(first, first + at_once)
        places = rows_N[some].numpy()[:, None] * stride + np.arange(words)
        np.greater_equal(_mixed(places, start, step).view(np.int16)[:, :width], least, out=kept_NW[some])
    return torch.from_numpy(kept_NW)


def _mixed(places: Any, start: int, step: int) -> Any:
    """64 bits for each place of a stream, in int64, as an array or a tensor; places are overwritten."""
    places *= step | 1
    places += start
    for shift, factor in MIXES:
        places ^= (places >> shift) & (2 ** (64 - shift) - 1)  # int64 shifts its sign in
        if factor != 1:
            places *= factor
    return places


def _raw(key: tuple[int, ...], purpose: str, start: int, count: int) -> NDArray[np.uint64]:
    block, skip = divmod(start, NUMBERS_PER_BLOCK)
    return np.random.Philox(key=_name(key, purpose), counter=[block, 0, 0, 0]).random_raw(skip + count)[skip:]


def _name(key: tuple[int, ...], purpose: str) -> NDArray[np.uint64]:
    return np.random.SeedSequence([*key, zlib.crc32(purpose.encode())]).generate_state(2, np.uint64).astype(np.uint64)


def permutation(key: tuple[int, ...], purpose: str, n: int) -> NDArray[np.int64]:
    """A permutation of 0..n-1 that depends on the key alone."""
    return np.random.default_rng([*key, zlib.crc32(purpose.encode())]).permutation(n)
