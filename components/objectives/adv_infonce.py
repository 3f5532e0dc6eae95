"""AdvInfoNCE: every negative has a hardness, learned by a second model that climbs on the loss in a few adversarial passes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from components.data.histories import Positives
from components.data.interactions import Interactions
from components.errors import InputError
from components.objectives import Learner, Outcome, _diagnosis, _fold
from components.objectives._drawn import Drawn
from components.objectives._tiled import log_sum_exp
from components.training.batches import Batch
from components.training.collectives import Workers

MLP_WIDTH = 4


class AdvInfoNCE:
    """L_b = -log( e^{s_b/t} / (e^{s_b/t} + K sum_j e^{d_j + s_j/t}) ),  d_j = log(N p_j),  p = softmax of g(u, .) on N draws.

    g(u, j) = <a_u, b_j>, a plain dot product: of tables of its own (`hardness: embed`, `dim` wide), or of ReLU(W e) of the
    encoder's rows, which it does not move (`mlp`, 4 wide). The encoder descends on L in every epoch. Before epochs e (from 0)
    with (e + 3) mod adv_interval = 0 and e > warm_up the hardness climbs on it for `adv_epochs` passes, until there have been
    `total_passes` or more. K is `negative_weight`: it lowers the positive's score by t ln K. L is the recipe's loss, any of the
    family log_sum_exp.

    Logged in epochs with such a pass: `diagnose`.

    Raises: InputError for another family of losses, or for candidates that are not drawn for each row.
    Source: Zhang et al. 2023, arXiv 2310.18700, eq. of L_Adv; choices of the released code (one positive for each user in turn,
    no regulariser on hardness, hardness rests after its last pass, the model moves in adversarial epochs too).
    Differs: until the first adversarial pass p is uniform; there, it is that of the random tables (KL to uniform about .001).
    With adv_learning_rate 0 there is no pass, and the loss is InfoNCE with K. Alignment and uniformity are told in adversarial
    epochs, not in every fifth.
    """

    takes_views, turns, encodes = False, (("model",),), 1

    def __init__(
        self,
        encoder: Any,
        loss: Any,
        sources: Sequence[Any],
        train: Interactions,
        generator: torch.Generator,
        workers: Workers,
        _views: Sequence[Any],
        /,
        *,
        hardness: Literal["embed", "mlp"] = "embed",
        dim: Annotated[int, Field(ge=1)] = 64,
        negative_weight: Annotated[float, Field(gt=0)] = 64.0,
        adv_learning_rate: Annotated[float, Field(ge=0)] = 1e-4,
        adv_interval: Annotated[int, Field(ge=1)] = 5,
        adv_epochs: Annotated[int, Field(ge=1)] = 1,
        warm_up: Annotated[int, Field(ge=0)] = 0,
        total_passes: Annotated[int, Field(ge=0)] = 12,
        positives: Positives = "users",
    ) -> None:
        if loss.family != "log_sum_exp":
            raise InputError("objective.adv_infonce: got a loss that is no log-sum-exp, takes sampled_softmax or bsl")
        if len(sources) != 1 or sources[0].per != "row":
            raise InputError("negatives: objective.adv_infonce takes one source, {name: uniform, per: row}")
        if getattr(sources[0], "hardest", None):
            raise InputError(
                f"negatives.0.hardest: got {sources[0].hardest}, takes null where hardness weighs the candidates"
                " (objective.adv_infonce)"
            )
        if loss.logq:
            raise InputError("loss.logq: got True, takes False where hardness weighs the candidates (objective.adv_infonce)")
        if hardness == "mlp" and encoder.window is not None:
            raise InputError("objective.hardness: got 'mlp', takes 'embed' where the encoder has no rows of its own for users")
        self.encoder, self.loss, self.sources, self.positives, self.workers = encoder, loss, sources, positives, workers
        self.log_weight = math.log(negative_weight)
        self.adv_interval, self.adv_epochs, self.warm_up = adv_interval, adv_epochs, warm_up
        self.total_passes = total_passes if adv_learning_rate else 0
        self.train = train
        epochs = range(warm_up + 1, warm_up + 1 + adv_interval)
        self.first_whole_epoch = next((epoch for epoch in epochs if len(self.passes(epoch)) > 1), 0)
        self.hardness: _Embed | _Mlp
        if hardness == "embed":
            self.hardness = _Embed(train, dim, generator)
        else:
            self.hardness = _Mlp(encoder.user_table.shape[1], generator)
        self.learners = {
            "hardness": Learner(self.hardness, adv_learning_rate, maximise=True),
            "model": Learner(encoder),
        }

    def step_bytes(self, rows: int, batch_rows: int, items: int | None, width: int) -> int:
        """What the encoder holds."""
        places = self.encoder.window.length if self.positives == "sequences" else 1
        return self.encoder.queries_bytes(rows, rows * places, width)

    def passes(self, epoch: int) -> tuple[str, ...]:
        """The adversarial passes of an epoch, if it is one for them, and the model's."""
        return ("hardness",) * (self._passes_by(epoch) - self._passes_by(epoch - 1)) + ("model",)

    def __call__(self, batch: Batch) -> Outcome:
        query = self.encoder.queries(batch)
        positive = self.encoder.items(batch.items_B)
        drawn = Drawn(self.sources[0](batch, positive.vectors).items)
        negative = self.encoder.items(drawn.items_U)
        queries_BD = query.vectors / self.loss.temperature
        state = _fold.start(self.loss, queries_BD, positive.vectors)
        if _fold.is_dense(drawn, queries_BD):
            scores_BN = drawn.products(queries_BD, negative.vectors)
            state = self.loss.add(state, scores_BN + self._delta(batch, drawn, query.rows, negative.rows) + self.log_weight)
        else:
            total_B = self._total(batch, drawn, queries_BD, negative.vectors, query.rows, negative.rows)
            state = self.loss.add(state, (total_B + self.log_weight).unsqueeze(1))
        named = {"queries": query.vectors, "positives": positive.vectors, "candidates of negatives.0": negative.vectors}
        rows = (query.rows, positive.rows), (), (drawn.repeated(negative.rows),)
        return Outcome(self.loss.finish(state), *rows, vectors=named)

    @torch.no_grad()
    def diagnose(self, batch: Batch, held_out: Interactions | None) -> dict[str, float]:
        """What hardness has become, on a global batch, of which `batch` is this worker's, and on positives not in training.

        hardness_kl           mean over rows of KL(p || uniform) = sum_j p_j d_j
        hardness_group_1..10  mean d of the batch's negatives in ten popularity groups, least popular first, where there are any
        alignment, uniformity of the batch's users and positives                            (`_diagnosis.uniformity`)
        false_negative_rate   and its controls                                              (`_diagnosis.false_negatives`)
        """
        query, positive = self.encoder.queries(batch), self.encoder.items(batch.items_B)
        items_BN = self.sources[0](batch, positive.vectors).items
        drawn = Drawn(items_BN)
        delta_BN = self._delta(batch, drawn, query.rows, self.encoder.items(drawn.items_U).rows)
        delta_BN = delta_BN.expand(items_BN.shape)
        told = {"hardness_kl": self._mean((torch.exp(delta_BN) * delta_BN).mean(dim=1), batch)}
        told |= _diagnosis.by_group(delta_BN, items_BN, self.train.item_degrees(), self.workers)
        users_BD, positives_BD = (F.normalize(vectors, dim=1) for vectors in (query.vectors, positive.vectors))
        told["alignment"] = self._mean((users_BD - positives_BD).square().sum(dim=1), batch)
        told["uniformity"] = sum(_diagnosis.uniformity(each, batch.rows, self.workers) for each in (users_BD, positives_BD))
        if held_out is not None:
            told |= _diagnosis.false_negatives(*self.hardness.tables(self.encoder), self.train, held_out)
        return told

    def _mean(self, each_B: Tensor, batch: Batch) -> float:
        """Over the rows of all workers."""
        return float(self.workers.sum(each_B.double().sum())) / batch.rows

    def _passes_by(self, epoch: int) -> int:
        """Adversarial passes made before or in an epoch."""
        triggers = sum((e + 3) % self.adv_interval == 0 for e in range(self.warm_up + 1, epoch + 1))
        most = -(-self.total_passes // self.adv_epochs)
        return min(triggers, most) * self.adv_epochs

    def _total(
        self,
        batch: Batch,
        drawn: Drawn,
        queries_BD: Tensor,
        vectors_UD: Tensor,
        user_rows_BD: Tensor,
        item_rows_UD: Tensor,
    ) -> Tensor:
        """[B] log sum_j e^{d_j + s_j}, which is log sum_j e^{g_j + s_j} - log sum_j e^{g_j} + log N: a tile at a time.

        As g is a product of vectors too, g + s is that of both pairs end to end.
        """
        if not self._passes_by(batch.key[1]):
            return log_sum_exp(drawn, queries_BD, vectors_UD)
        users_BW, items_UW = self.hardness(batch.users_B, drawn.items_U, user_rows_BD, item_rows_UD)
        both = torch.cat([queries_BD, users_BW], dim=1), torch.cat([vectors_UD, items_UW], dim=1)
        return log_sum_exp(drawn, *both) - log_sum_exp(drawn, users_BW, items_UW) + math.log(drawn.candidates)

    def _delta(self, batch: Batch, drawn: Drawn, user_rows_BD: Tensor, item_rows_UD: Tensor) -> Tensor:
        """[B, N] log(N p_j); one 0 for all until the first adversarial pass."""
        if not self._passes_by(batch.key[1]):
            return user_rows_BD.new_zeros(1, 1)
        g_BN = drawn.products(*self.hardness(batch.users_B, drawn.items_U, user_rows_BD, item_rows_UD))
        return torch.log_softmax(g_BN, dim=1) + math.log(g_BN.shape[1])


class _Embed(nn.Module):
    """a_u and b_j are rows of tables, Xavier normal: were both 0, neither would have a gradient."""

    def __init__(self, train: Interactions, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.user_table = nn.Parameter(torch.empty(train.num_users, dim))
        self.item_table = nn.Parameter(torch.empty(train.num_items, dim))
        for table in (self.user_table, self.item_table):
            nn.init.xavier_normal_(table, generator=generator)

    def forward(self, users_B: Tensor, items_U: Tensor, _users_BD: Tensor, _items_UD: Tensor) -> tuple[Tensor, Tensor]:
        return F.embedding(users_B, self.user_table, sparse=True), F.embedding(items_U, self.item_table, sparse=True)

    def tables(self, _encoder: Any) -> tuple[Tensor, Tensor]:
        return self.user_table, self.item_table


class _Mlp(nn.Module):
    """a_u = ReLU(W_u e_u), b_j = ReLU(W_i e_j), of the encoder's table rows, through which no gradient goes."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.user_weight, self.item_weight = (nn.Parameter(torch.empty(MLP_WIDTH, width)) for _ in range(2))
        for weight in (self.user_weight, self.item_weight):
            nn.init.xavier_normal_(weight, generator=generator)

    def forward(self, _users_B: Tensor, _items_U: Tensor, users_BD: Tensor, items_UD: Tensor) -> tuple[Tensor, Tensor]:
        return F.relu(F.linear(users_BD.detach(), self.user_weight)), F.relu(F.linear(items_UD.detach(), self.item_weight))

    def tables(self, encoder: Any) -> tuple[Tensor, Tensor]:
        return self(None, None, encoder.user_table, encoder.item_table)
