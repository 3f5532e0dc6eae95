"""LightGCN: vectors of users and items smoothed over the graph of who has what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from components.data.interactions import Interactions
from components.encoders import Embedded
from components.encoders._common import Init, Similarity, compared, new_table
from components.encoders._graph import Graph, incidence, normalised
from components.training.batches import Batch

LAYER_COPIES = 3  # of an inner layer at the peak of the backward pass
Layer = tuple[Tensor | None, Tensor | None]  # of users and of items; None where a side is not propagated: zeros


class LightGCN(nn.Module):
    """z = 1/(K+1) * sum_{k=0..K} e^(k),  e_u^(k+1) = sum_{i of u} e_i^(k) / (d_u^left d_i^right),  and alike for items.

    K is `layers`; 0 is MF. `side` says whose vectors are propagated: with `users` and one layer it is SVD++-like, with `both`
    LightGCN. `left` and `right` are the exponents of the degree of the node that is written and of the one that is read; a
    node without edges keeps its own vector alone. Similarities are those of MF: the SSM paper trains on cosine and ranks by
    dot product, so that the norms, which propagation ties to degrees, bring popularity back.

    The last layer is computed for the rows asked for alone, so a step of one layer costs the edges of its batch and not the
    graph. `queries` computes the inner layers of a step, which the `items` that follow share; in `eval` none are kept.

    Of several workers each has the whole graph and computes inner layers whole, and the last one for its own rows. What is read
    of the graph has a dense gradient: of it a worker receives 2 (W - 1) / W in a step, so that, unlike MF's, bytes grow with
    users and items; inner layers get no cheaper with workers.

    Shapes: tables [num_users, dim] and [num_items, dim].
    Source: He et al. 2020, arXiv 2002.02126, eq. 3 to 8; switches: Wu et al. 2024, arXiv 2201.02327 (side, exponents).
    Differs: a repeated row is one edge. Where `side` is one of them, its mean is over K + 1 layers too (the SSM code has their
    sum), which no cosine and no ranking sees.
    """

    window = None

    def __init__(
        self,
        train: Interactions,
        generator: torch.Generator,
        /,
        *,
        dim: Annotated[int, Field(ge=1)] = 64,
        layers: Annotated[int, Field(ge=0, le=8)] = 1,
        side: Literal["both", "users", "items"] = "both",
        left: Annotated[float, Field(ge=0, le=1)] = 0.5,
        right: Annotated[float, Field(ge=0, le=1)] = 0.5,
        train_similarity: Similarity = "cosine",
        score_similarity: Similarity = "dot",
        init: Init = "xavier_uniform",
        init_std: Annotated[float, Field(gt=0)] = 1e-4,
    ) -> None:
        super().__init__()
        self.layers = layers
        self.train_similarity: Similarity = train_similarity
        self.score_similarity: Similarity = score_similarity
        self.user_table = new_table(train.num_users, dim, init, init_std, generator)
        self.item_table = new_table(train.num_items, dim, init, init_std, generator)
        edges = incidence(train)
        users_from_items = Graph(normalised(edges, left, right)) if side != "items" else None
        items_from_users = Graph(normalised(edges.T.tocsr(), left, right)) if side != "users" else None
        self._graphs = (users_from_items, items_from_users)
        self._transposes = 1  # of as many graphs: kept for the backward pass of inner layers
        if users_from_items is not None and items_from_users is not None and left == right:
            users_from_items.is_transposed(items_from_users)
        elif layers > 1:
            self._transposes = 2
        self._inner: list[Layer] = []

    def queries(self, batch: Batch) -> Embedded:
        """The vectors of a batch's users, [B, D]."""
        self._inner = self._propagate()
        return self._embedded(0, batch.users_B)

    def items(self, ids: Tensor) -> Embedded:
        """The vectors of items, [*ids.shape, D]."""
        return self._embedded(1, ids)

    @torch.no_grad()
    def scoring_tables(self) -> tuple[Tensor, Tensor]:
        """Users [num_users, D] and items [num_items, D] whose inner products are the scores; without a gradient."""
        inner = self._propagate()
        users_UD, items_ID = (self._mean(inner, side, None) for side in (0, 1))
        return compared(self.score_similarity, users_UD), compared(self.score_similarity, items_ID)

    @staticmethod
    def reads_order(_arguments: Mapping[str, Any]) -> bool:
        """No history is read."""
        return False

    def looked_up(self, rows: int, items: int) -> int:
        """A row of its table for each; what is read of the graph has a dense gradient."""
        return rows

    def index_bytes(self, rows: int, users: int, items: int) -> int:
        """Of the graph, in both directions: a column, a weight, and it again in the type of the tables for each edge."""
        graphs = sum(graph is not None for graph in self._graphs) * self._transposes
        return graphs * (16 * rows + 4 * (users + items))

    def read_bytes(self, rows: int, history: float, users: int, items: int, width: int) -> int:
        """Inner layers, which are of all users and items, and their gradients."""
        sides = ((users, self._graphs[0]), (items, self._graphs[1]))
        nodes = sum(count for count, graph in sides if graph is not None)
        return LAYER_COPIES * max(self.layers - 1, 0) * nodes * self.user_table.shape[1] * width

    def _embedded(self, side: int, ids: Tensor) -> Embedded:
        rows = F.embedding(ids, (self.user_table, self.item_table)[side], sparse=True)
        inner = self._inner if self.training and self._inner else self._propagate()
        distinct, place = torch.unique(ids, return_inverse=True)  # popular items come many times
        vectors = F.embedding(place, self._mean(inner, side, distinct))
        return Embedded(compared(self.train_similarity, vectors), rows)

    def _propagate(self) -> list[Layer]:
        """All layers but the last."""
        layers: list[Layer] = [(self.user_table, self.item_table)]
        while len(layers) < self.layers:
            layers.append(self._next(layers[-1]))
        return layers

    def _next(self, layer: Layer) -> Layer:
        users, items = (self._gather(side, layer, None) for side in (0, 1))
        return users, items

    def _gather(self, side: int, layer: Layer, ids: np.ndarray | None) -> Tensor | None:
        graph, other = self._graphs[side], layer[1 - side]
        return None if graph is None or other is None else graph.product(other, ids)

    def _mean(self, inner: list[Layer], side: int, ids: Tensor | None) -> Tensor:
        """The mean of all layers, for some nodes of a side or for all of them."""
        total = self._gather(side, inner[-1], None if ids is None else ids.cpu().numpy()) if self.layers else None
        for n, tables in enumerate(inner):
            table = tables[side]
            if table is not None:
                own = table if ids is None else F.embedding(ids, table, sparse=n == 0)
                total = own if total is None else total + own
        assert total is not None, "every node has its own vector"
        return total / (self.layers + 1)
