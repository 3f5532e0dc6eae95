"""How far the popularity of items in a split that is held out lies from that in train."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr

from components.evaluation import metrics

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
TENTHS = 10


def shares(rows_I: Counts, degree_I: Counts) -> Floats:
    """[1 + 10] of a split's rows, the share whose items are in each tenth of train's rows, 1 the least popular
    (`metrics.groups`), and in 0 those whose items have no row there. Of a split with rows.

    Items of one degree may lie in several tenths, which of them where is chance: they count in each by their part of it, so
    that the shares do not depend on how items are numbered.
    """
    tenth_I = np.where(degree_I > 0, metrics.groups(degree_I, TENTHS), 0)
    degrees_V, of_I = np.unique(degree_I, return_inverse=True)
    lies_VG = np.zeros((len(degrees_V), 1 + TENTHS))
    np.add.at(lies_VG, (of_I, tenth_I), 1)
    rows_V = np.zeros(len(degrees_V), np.int64)
    np.add.at(rows_V, of_I, rows_I)
    return rows_V @ (lies_VG / lies_VG.sum(axis=1, keepdims=True)) / rows_I.sum()


def divergence(p_G: Floats, q_G: Floats) -> float:
    """Jensen and Shannon's, in bits: JS = sum_g (p_g log2(p_g / m_g) + q_g log2(q_g / m_g)) / 2, m = (p + q) / 2.

    0 where the shares are the same, 1 where no group has rows of both. Between groups and not between items, where a small
    sample of train's own law would be far from it too.

    Source: Lin 1991, IEEE Transactions on Information Theory 37(1), eq. 4.1, of equal weights.
    """
    middle_G = (p_G + q_G) / 2
    return float(np.sum(rel_entr(p_G, middle_G) + rel_entr(q_G, middle_G)) / (2 * np.log(2)))
