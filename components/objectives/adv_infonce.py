"""AdvInfoNCE: every negative has a hardness, learned by a second model that climbs on the loss in a few adversarial passes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from components.data.histories import Positives
from components.data.interactions import Interactions
from components.errors import InputError
from components.losses import EXCLUDED
from components.objectives import Learner, Outcome, _diagnosis, _fold, _tiled
from components.objectives._mixture import Mixture
from components.objectives._shared import Shared
from components.training.batches import Batch
from components.training.collectives import Workers


class AdvInfoNCE:
    """L_b = -log( e^{s_b/t} / (e^{s_b/t} + K sum_j e^{d_j + s_j/t}) ),  d_j = log(N p_j),  p = softmax_j g(u, j),

    j over the N candidates of all sources together that count for the row.

    g(u, j) = <a_u, b_j>, a plain dot product: of tables of its own (`hardness: embed`, `dim` wide), or of ReLU(W e) of the
    encoder's rows, which it does not move (`mlp`, 4 wide). The encoder descends on L in every epoch. Before epochs e (from 0)
    with (e + 3) mod adv_interval = 0 and e > warm_up the hardness climbs on it for `adv_epochs` passes, until there have been
    `total_passes` or more. K is `negative_weight`: it lowers the positive's score by t ln K. L is the recipe's loss, any of the
    family log_sum_exp.

    Logged in epochs with such a pass: `diagnose`.

    Raises: InputError for another family of losses, or one that corrects for logQ: where hardness weighs, no q is known.
    Source: Zhang et al. 2023, arXiv 2310.18700, eq. of L_Adv; choices of the released code (one positive for each user in turn,
    no regulariser on hardness, hardness rests after its last pass, the model moves in adversarial epochs too). There a power in
    the place of a product takes L2 off the negatives, so recipes have it on positives alone.
    Differs: the paper's candidates are as many draws for each row; here they are any mixture of sources, repeats and all, and
    N is a row's own where some are masked. A stale vector has the hardness of now, which goes by ids; of `hardest`, those that
    score highest are weighed. Until the first adversarial pass p is uniform; there, it is that of the random tables (KL to
    uniform about .001). With adv_learning_rate 0 there is no pass, and the loss is InfoNCE with K. Alignment and uniformity are
    told in adversarial epochs, not in every fifth.
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
            name = type(loss).__module__.rpartition(".")[2]
            raise InputError(f"loss.name: got {name!r}, takes sampled_softmax or bsl under objective adv_infonce")
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
            self.hardness = _Mlp(encoder, generator)
        self.appended = self.hardness.width
        self.learners = {
            "hardness": Learner(self.hardness, adv_learning_rate, maximise=True),
            "model": Learner(encoder),
        }

    def step_bytes(self, rows: int, batch_rows: int, items: int | None, width: int, use_gpu: bool = False) -> int:
        """What the encoder holds."""
        places = self.encoder.window.length if self.positives == "sequences" else 1
        return self.encoder.queries_bytes(rows, rows * places, width)

    def passes(self, epoch: int) -> tuple[str, ...]:
        """The adversarial passes of an epoch, if it is one for them, and the model's."""
        return ("hardness",) * (self._passes_by(epoch) - self._passes_by(epoch - 1)) + ("model",)

    def __call__(self, batch: Batch) -> Outcome:
        query, positive = self.encoder.queries(batch), self.encoder.items(batch.items_B)
        queries_BD = query.vectors / self.loss.temperature
        mixture = Mixture(self.encoder, self.sources, batch, queries_BD, positive.vectors, self.workers)
        left_B = mixture.left()
        total_B = self._total(batch, mixture, queries_BD, left_B) + self.log_weight
        state = self.loss.add(_fold.start(self.loss, queries_BD, positive.vectors), total_B.unsqueeze(1))
        rows = (query.rows, positive.rows), mixture.shared_rows, mixture.own_rows
        named = {"queries": query.vectors, "positives": positive.vectors, **mixture.named}
        return Outcome(self.loss.finish(state), *rows, left_B == 0, named)

    @torch.no_grad()
    def diagnose(self, batch: Batch, held_out: Interactions | None) -> dict[str, float]:
        """What hardness has become, on a global batch, of which `batch` is this worker's, and on positives not in training.

        hardness_kl           mean over rows of KL(p || uniform) = sum_j p_j d_j
        hardness_group_1..10  mean d of the batch's negatives in ten popularity groups, least popular first, where there are any
        alignment, uniformity of the batch's users and positives                            (`_diagnosis.uniformity`)
        false_negative_rate   and its controls                                              (`_diagnosis.false_negatives`)
        """
        query, positive = self.encoder.queries(batch), self.encoder.items(batch.items_B)
        divergence = torch.zeros((), dtype=torch.float64, device=batch.items_B.device)
        groups = _diagnosis.ByGroup(self.train.item_degrees(), batch.items_B.device)
        for delta_N, items_N, left_N in self.deltas(batch, query.vectors, positive.vectors):
            divergence += (delta_N.exp() * delta_N / left_N).double().sum()
            groups.add(delta_N, items_N)
        told = {"hardness_kl": float(self.workers.sum(divergence)) / batch.rows, **groups.told(self.workers)}
        users_BD, positives_BD = (F.normalize(vectors, dim=1) for vectors in (query.vectors, positive.vectors))
        told["alignment"] = self._mean((users_BD - positives_BD).square().sum(dim=1), batch)
        told["uniformity"] = sum(_diagnosis.uniformity(each, batch.rows, self.workers) for each in (users_BD, positives_BD))
        if held_out is not None:
            told |= _diagnosis.false_negatives(*self.hardness.tables(), self.train, held_out)
        return told

    @torch.no_grad()
    def deltas(self, batch: Batch, queries_BD: Tensor, positives_BD: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """d, item and N of the candidates that count, some at a time: of this worker's rows; of a memory, of its share."""
        mixture = Mixture(self.encoder, self.sources, batch, queries_BD / self.loss.temperature, positives_BD, self.workers)
        users_BW, left_B = self.hardness.users(batch.users_B), mixture.left()
        mean_B = mixture.log_sum_exp(users_BW, [self.hardness.items(met.ids) for met in mixture.met]) - _log(left_B, users_BW)
        for met in mixture.met:
            items, excluded = met.candidates.items, met.candidates.excluded
            pool, ids = (met.pool, met.ids) if items.dim() == 2 else (Shared(len(items)), items)  # ids are everywhere
            users_RW, mean_R, left_R = (mixture.of_met(met, each_B) for each_B in (users_BW, mean_B, left_B))
            for rows, columns, g_RT in _tiled.scores(pool, users_RW, self.hardness.items(ids), excluded):
                counts_RT = g_RT > EXCLUDED / 2
                items_RT = (items[rows] if items.dim() == 2 else items[columns]).expand(g_RT.shape)
                left_RT = left_R[rows].unsqueeze(1).expand(g_RT.shape)
                yield (g_RT - mean_R[rows].unsqueeze(1))[counts_RT], items_RT[counts_RT], left_RT[counts_RT]

    def _mean(self, each_B: Tensor, batch: Batch) -> float:
        """Over the rows of all workers."""
        return float(self.workers.sum(each_B.double().sum())) / batch.rows

    def _passes_by(self, epoch: int) -> int:
        """Adversarial passes made before or in an epoch."""
        triggers = sum((e + 3) % self.adv_interval == 0 for e in range(self.warm_up + 1, epoch + 1))
        most = -(-self.total_passes // self.adv_epochs)
        return min(triggers, most) * self.adv_epochs

    def _total(self, batch: Batch, mixture: Mixture, queries_BD: Tensor, left_B: Tensor) -> Tensor:
        """[B] log sum_j e^{d_j + s_j}, which is log sum_j e^{g_j + s_j} - log sum_j e^{g_j} + log N; EXCLUDED of no candidate.

        As g is a product of vectors too, g + s is that of both pairs end to end.
        """
        if not self._passes_by(batch.key[1]):
            return mixture.log_sum_exp(queries_BD)
        users_BW, items = self.hardness.users(batch.users_B), [self.hardness.items(met.ids) for met in mixture.met]
        ends = [torch.cat([met.vectors, items_UW], dim=1) for met, items_UW in zip(mixture.met, items, strict=True)]
        both_B = mixture.log_sum_exp(torch.cat([queries_BD, users_BW], dim=1), ends)
        total_B = both_B - mixture.log_sum_exp(users_BW, items) + _log(left_B, both_B)
        return total_B.masked_fill(left_B == 0, EXCLUDED)


def _log(left_B: Tensor, like_B: Tensor) -> Tensor:
    return left_B.clamp(min=1).to(like_B.dtype).log()


class _Embed(nn.Module):
    """a_u and b_j are rows of tables, Xavier normal: were both 0, neither would have a gradient."""

    def __init__(self, train: Interactions, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.width = dim
        self.user_table = nn.Parameter(torch.empty(train.num_users, dim))
        self.item_table = nn.Parameter(torch.empty(train.num_items, dim))
        for table in (self.user_table, self.item_table):
            nn.init.xavier_normal_(table, generator=generator)

    def users(self, users_B: Tensor) -> Tensor:
        return F.embedding(users_B, self.user_table, sparse=True)

    def items(self, items_U: Tensor) -> Tensor:
        return F.embedding(items_U, self.item_table, sparse=True)

    def tables(self) -> tuple[Tensor, Tensor]:
        return self.user_table, self.item_table


class _Mlp(nn.Module):
    """a_u = ReLU(W_u e_u), b_j = ReLU(W_i e_j), of the encoder's table rows, through which no gradient goes."""

    width = 4

    def __init__(self, encoder: Any, generator: torch.Generator) -> None:
        super().__init__()
        self._encoder = (encoder,)  # whose weights are not the hardness'
        of_rows = encoder.user_table.shape[1]
        self.user_weight, self.item_weight = (nn.Parameter(torch.empty(self.width, of_rows)) for _ in range(2))
        for weight in (self.user_weight, self.item_weight):
            nn.init.xavier_normal_(weight, generator=generator)

    def users(self, users_B: Tensor) -> Tensor:
        return _hidden(F.embedding(users_B, self._encoder[0].user_table.detach()), self.user_weight)

    def items(self, items_U: Tensor) -> Tensor:
        return _hidden(F.embedding(items_U, self._encoder[0].item_table.detach()), self.item_weight)

    def tables(self) -> tuple[Tensor, Tensor]:
        (encoder,) = self._encoder
        return _hidden(encoder.user_table.detach(), self.user_weight), _hidden(encoder.item_table.detach(), self.item_weight)


def _hidden(rows: Tensor, weight: Tensor) -> Tensor:
    """What workers gather is not rounded."""
    return F.relu(F.linear(rows, weight)).to(rows.dtype)
