"""Two views of the rows of a batch against each other: what contrastive objectives are made of."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from components.masks import Mask
from components.objectives import _tiled
from components.objectives._products import of_sums
from components.objectives._shared import Shared
from components.training.batches import Batch
from components.training.collectives import Workers

Margin = Literal["anchor", "global"]


class View(NamedTuple):
    """One vector for each row: of this worker's, and of all R of the global batch."""

    own_BD: Tensor
    all_RD: Tensor


class Contrast:
    """[x; y] against [x; y]: a vector's positive is its partner in the other view, its negatives are the other 2(R - 1).

    Neither of the [2R, 2R] products is held: log-sum-exps and largest products go over tiles, means over sums of vectors.
    """

    def __init__(self, first: View, second: View, batch: Batch, workers: Workers) -> None:
        sums = of_sums(first.own_BD.dtype)
        self._queries_QD = torch.cat([first.own_BD, second.own_BD]).to(sums)
        self._partners_QD = torch.cat([second.own_BD, first.own_BD]).to(sums)
        self._vectors_CD = torch.cat([first.all_RD, second.all_RD]).to(sums)
        self._rows, self._batch_rows, self._workers = len(first.own_BD), batch.rows, workers
        own_B = torch.arange(self._rows, device=first.own_BD.device) + batch.first_row
        self._own_Q, self._partner_Q = torch.cat([own_B, own_B + batch.rows]), torch.cat([own_B + batch.rows, own_B])

    def loss(self, temperature: float) -> Tensor:
        """[B] -log( e^{<x_b, y_b>/t} / sum_{v not x_b} e^{<x_b, v>/t} ), mean of the row's two; 0 of a batch of one row."""
        queries_QD = self._queries_QD / temperature
        total_Q = _tiled.log_sum_exp(Shared(2 * self._batch_rows), queries_QD, self._vectors_CD, self._excluded(self._own_Q))
        return self._of_rows(total_Q - self._products(queries_QD, self._partners_QD))

    def margin(self, margin: Margin) -> Tensor:
        """[B] whose mean over rows is mean[s+ - o_min]_+ + mean[o_max - s-]_+, of positive and negative products s+ and s-.

        o_min = min(min s+, max s-) and o_max = max(min s+, max s-): of each vector, whose one s+ is its least (`anchor`), or
        over all of them (`global`). The latter two means are of nothing below 0, so the mean of s- is all they need of them
        beside its largest. 0 of a batch of one row, which has no negative.
        """
        if self._batch_rows == 1:
            return self._queries_QD.new_zeros(self._rows)
        positive_Q = self._products(self._queries_QD, self._partners_QD)
        own_Q = self._products(self._queries_QD, self._queries_QD)
        total_Q = self._products(self._queries_QD, self._vectors_CD.sum(dim=0))
        mean_Q = (total_Q - own_Q - positive_Q) / (2 * self._batch_rows - 2)
        pool, not_negative = Shared(2 * self._batch_rows), torch.stack([self._own_Q, self._partner_Q])
        place_Q = _tiled.largest(pool, self._queries_QD, self._vectors_CD, self._excluded(*not_negative))
        largest_Q = self._products(self._queries_QD, F.embedding(place_Q, self._vectors_CD))
        if margin == "anchor":
            of_vectors_Q = F.relu(positive_Q - largest_Q) + torch.maximum(positive_Q, largest_Q) - mean_Q
        else:
            least, most = self._everyones(positive_Q).amin(), self._everyones(largest_Q).amax()
            of_vectors_Q = positive_Q - torch.minimum(least, most) + torch.maximum(least, most) - mean_Q
        return self._of_rows(of_vectors_Q)

    def _excluded(self, *columns: Tensor) -> Mask:
        """Of each vector, one of each of some columns."""
        rows_Q = torch.arange(2 * self._rows, device=self._own_Q.device)
        return Mask.of_pairs(rows_Q.repeat(len(columns)), torch.cat(columns), len(rows_Q), 2 * self._batch_rows)

    def _of_rows(self, of_vectors_Q: Tensor) -> Tensor:
        """[B] the mean of each row's two."""
        return of_vectors_Q.view(2, self._rows).mean(dim=0)

    def _everyones(self, of_vectors_Q: Tensor) -> Tensor:
        """[R, 2]"""
        return self._workers.gather(of_vectors_Q.view(2, self._rows).T.contiguous(), self._batch_rows)

    @staticmethod
    def _products(x_QD: Tensor, y_QD: Tensor) -> Tensor:
        return (x_QD * y_QD).sum(dim=1)
