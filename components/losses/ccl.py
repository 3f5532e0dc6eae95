"""Cosine contrastive loss (CCL) of SimpleX: only negatives above a margin are pushed."""

from __future__ import annotations

from components.losses.multi_margin import Margin, MultiMargin, Weight


class Ccl(MultiMargin):
    """L_b = [1 - s_b]_+ + negative_weight * (1/N) sum_j [s_j - margin]_+: MultiMargin with one margin, to the bit.

    Shapes, Raises: as MultiMargin's.
    Source: Mao et al. 2021 (SimpleX), arXiv 2109.12613, and its code, xue-pai/SimpleX.
    Differs: as MultiMargin; no plain sum over the negatives (the code's w = None).
    """

    def __init__(self, *, margin: Margin = 0.9, negative_weight: Weight = 150.0) -> None:
        super().__init__(margins=[margin], weights=[1.0], negative_weight=negative_weight)
