"""How far the popularity of items in a split that is held out lies from that in train."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr

from components.evaluation import metrics

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
TENTHS = 10


def tenths(degree_I: Counts) -> Counts:
    """[I] the tenth of train's rows that an item belongs to, 1 (least popular) to 10 (`metrics.groups`); 0 has no row there."""
    return np.where(degree_I > 0, metrics.groups(degree_I, TENTHS), 0)


def shares(rows_I: Counts, tenth_I: Counts) -> Floats:
    """[1 + 10] of a split's rows, the share whose items are in each tenth. Of a split with rows."""
    rows = np.zeros(1 + TENTHS, np.int64)
    np.add.at(rows, tenth_I, rows_I)
    return rows / rows.sum()


def divergence(p_G: Floats, q_G: Floats) -> float:
    """Jensen and Shannon's, in bits: JS = sum_g (p_g log2(p_g / m_g) + q_g log2(q_g / m_g)) / 2, m = (p + q) / 2.

    0 where the shares are the same, 1 where no group has rows of both. Between groups and not between items, where a small
    sample of train's own law would be far from it too.

    Source: Lin 1991, IEEE Transactions on Information Theory 37(1), eq. 4.1, of equal weights.
    """
    middle_G = (p_G + q_G) / 2
    return float(np.sum(rel_entr(p_G, middle_G) + rel_entr(q_G, middle_G)) / (2 * np.log(2)))
