"""Sums that do not depend on order or grouping, so that any number of workers gives the same bits."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

SCALE = 1126  # a float64 is a whole number of 2**-1126ths: frexp's smallest exponent, -1073, less 53 bits of mantissa
LOW = 27  # bits of the mantissa's lower half: halves of 2**36 values fit an int64


class ExactSum:
    """The exact sum of float64 values, rounded once, at the end."""

    def __init__(self) -> None:
        self.count = 0
        self._total = 0  # in 2**-SCALE

    def add(self, values: NDArray[np.float64]) -> None:
        assert np.isfinite(values).all(), "a sum of values that are not all finite"
        mantissa, exponent = np.frexp(values)
        whole = np.ldexp(mantissa, 53).astype(np.int64)
        high, low = whole >> LOW, whole & ((1 << LOW) - 1)
        for e in np.unique(exponent):
            here = exponent == e
            self._total += ((int(high[here].sum()) << LOW) + int(low[here].sum())) << (int(e) - 53 + SCALE)
        self.count += len(values)

    def mean(self) -> float:
        """The float64 nearest to the true mean; 0 of nothing."""
        return float(Fraction(self._total, self.count << SCALE)) if self.count else 0.0


def mean(values: NDArray[np.float64]) -> float:
    """The float64 nearest to the mean of the values, whatever their order."""
    total = ExactSum()
    total.add(values)
    return total.mean()
