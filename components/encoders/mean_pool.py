"""Mean pooling: a user is a small network of the mean of its history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from components.data.histories import Window
from components.data.interactions import Interactions
from components.encoders._common import new_table
from components.encoders._reader import Reader
from components.training.batches import Batch, Histories


class MeanPool(Reader):
    """score(h, i) = <f(m), e_i>,  m = 1/n sum_{p <= n} e_{h_p},  f(m) = W_2 relu(W_1 m + b_1) + b_2.

    One table of items serves both. A place that holds the padding's id (a view masked it) counts neither in the sum nor in n;
    where n is 0 the vector is 0. `history`: the items before a row, which asks for data with an order, or all of its user's
    others.

    Shapes: item_table [num_items + 2, dim], its last rows the padding's and a mask's.
    Source: the plain encoder that CCL4Rec (Zhang et al. 2022, arXiv 2208.08024) is taken to use, after its ancestor CauseRec
    (Zhang et al. 2021, arXiv 2109.05261), whose network has one layer more. The paper's own is not known to us: our design.
    Initial values, ours: Xavier normal, biases 0, tables N(0, init_std^2).
    Differs: L2 on rows and positives is taken on candidates' rows, not on those of histories.
    """

    def __init__(
        self,
        train: Interactions,
        generator: torch.Generator,
        /,
        *,
        dim: Annotated[int, Field(ge=1)] = 64,
        inner_dim: Annotated[int, Field(ge=1)] = 256,
        max_length: Annotated[int, Field(ge=1)] = 100,
        history: Literal["before", "others"] = "before",
        init_std: Annotated[float, Field(gt=0)] = 0.01,
    ) -> None:
        super().__init__()
        self.window = Window(max_length, history)
        self.num_items = train.num_items
        self.item_table = new_table(train.num_items + 2, dim, "normal", init_std, generator)
        self.widen_weight = new_table(inner_dim, dim, "xavier_normal", init_std, generator)
        self.widen_bias = nn.Parameter(torch.zeros(inner_dim))
        self.narrow_weight = new_table(dim, inner_dim, "xavier_normal", init_std, generator)
        self.narrow_bias = nn.Parameter(torch.zeros(dim))

    def encode(self, histories: Histories, batch: Batch | None = None, stream: str = "") -> Tensor:
        """[B, D] the vectors of histories; there is no dropout that a batch's draws would be for."""
        means_BD, counts_B = self.means(histories)
        return self.project(means_BD) * (counts_B > 0).unsqueeze(1)

    def encode_replaced(self, histories: Histories, views_BVL: Tensor) -> Tensor:
        """[B, V, D] the vectors of views of histories in which some items are others: m moves by 1/n sum (e_new - e_old).

        Only what differs is looked up, each item once, so that the table's gradient has a row for each. Neither may hold the
        padding's id within its length.
        """
        assert histories.sequence_B is None, "a history for each row"
        means_BD, counts_B = self.means(histories)
        old_BVL = histories.items_SL.unsqueeze(1).expand_as(views_BVL)
        differs_BVL = views_BVL != old_BVL
        items_K2 = torch.stack([views_BVL[differs_BVL], old_BVL[differs_BVL]], dim=1)
        shares_K = (1 / counts_B.to(means_BD.dtype))[differs_BVL.nonzero()[:, 0]]
        shares_K2 = torch.stack([shares_K, -shares_K], dim=1)
        in_view_N = 2 * differs_BVL.sum(dim=2).view(-1)
        firsts_N = in_view_N.cumsum(0) - in_view_N
        counts_I = torch.bincount(items_K2.view(-1), minlength=1)
        distinct_UD = F.embedding(counts_I.nonzero().squeeze(1), self.item_table, sparse=True)
        place_K2 = ((counts_I > 0).cumsum(0) - 1)[items_K2]
        moves_ND = F.embedding_bag(place_K2.view(-1), distinct_UD, firsts_N, mode="sum", per_sample_weights=shares_K2.view(-1))
        moved_BVD = means_BD.unsqueeze(1) + moves_ND.view(*views_BVL.shape[:2], moves_ND.shape[1])
        return self.project(moved_BVD) * (counts_B > 0).view(-1, 1, 1)

    def means(self, histories: Histories) -> tuple[Tensor, Tensor]:
        """[B, D] means of the rows of a history's items, 0 of none, and [B] how many items those are."""
        items_SL, sequence_B, length_B = histories.items_SL, histories.sequence_B, histories.lengths_S
        if sequence_B is None:
            sequence_B = torch.arange(len(items_SL), device=items_SL.device)
        else:
            assert histories.place_B is not None, "a place in each row's sequence"
            length_B = histories.place_B + 1
        first_B = length_B.cumsum(0) - length_B
        shift_B = sequence_B * items_SL.shape[1] - first_B
        slot_N = torch.arange(int(length_B.sum()), device=items_SL.device) + shift_B.repeat_interleave(length_B)
        item_N = items_SL.reshape(-1)[slot_N]
        means_BD = F.embedding_bag(item_N, self.item_table, first_B, mode="mean", padding_idx=self.num_items, sparse=True)
        counted_SL = F.pad((items_SL != self.num_items).cumsum(1), (1, 0))  # of the first 0, 1, .. places
        return means_BD, counted_SL[sequence_B, length_B]

    def project(self, means_BD: Tensor) -> Tensor:
        """[B, D] what the network makes of means, of their type under autocast too."""
        hidden_BH = F.relu(F.linear(means_BD, self.widen_weight, self.widen_bias))
        return F.linear(hidden_BH, self.narrow_weight, self.narrow_bias).to(means_BD.dtype)

    def step_bytes(self, sequences: int, width: int) -> int:
        """Ids and places of items; means and the network's layers."""
        inner_dim, dim = self.widen_weight.shape
        return sequences * (self.window.length * 8 * 4 + (3 * inner_dim + 4 * dim) * width)

    @staticmethod
    def reads_order(arguments: Mapping[str, Any]) -> bool:
        """Not where it takes all of a user's others."""
        return arguments["history"] == "before"

    def index_bytes(self, rows: int, users: int, items: int) -> int:
        """Nothing beside the tables: histories are the mapped rows."""
        return 0
