"""CCL4Rec-style: views by how much they matter, contrasted with the history, and with each other. Our design."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from components.data.interactions import Interactions
from components.errors import InputError
from components.masks import Mask
from components.negatives import Memory
from components.objectives import Learner, Outcome, _tiled
from components.objectives._diagnosis import rank_correlation
from components.objectives._shared import Shared, numbers_of_a_tile
from components.objectives.supervised import Supervised
from components.training.batches import Batch, Histories
from components.training.collectives import Workers
from components.views import Weights

Count = Annotated[int, Field(ge=1)]
Epochs = Annotated[int, Field(ge=0)]
Temperature = Annotated[float, Field(ge=0.01)]
Weight = Annotated[float, Field(ge=0)]
VIEWS = ["dispensable", "indispensable"]
VIEW_COPIES, KEPT_COPIES, CONTRAST_COPIES = (
    16,
    3,
    6,
)  # of views' ids while drawn and then, and of vectors of all rows (measured)
SAME = 1e-6  # damages so near are equal: what differs is rounding


class CCL4Rec:
    """L_b = L_rec + contrast_weight L_CL + ranking_weight L_CC, with P positive and Q negative views of each history x_1..x_n.

    importance   a_t = softmax_t( cos(e_{x_t}, e_y) / importance_temperature ), y the target: in training alone
    relatedness  r_tj = (1 + cos(e_{x_t}, e_j)) / 2, j the substitute of x_t, from the memory bank
    damage       D_v = sum over the replaced t of a_t (1 - r_tj); c_v = cos(h, h_v)
    strengths    w = P softmax_p( (1 - D_p) / strength_temperature ),  v = Q softmax_n( D_n / strength_temperature )
    L_CL         -1/P sum_p w_p log( e^{c_p/t} / (e^{c_p/t} + sum_n v_n e^{c_n/t} + sum_u' e^{cos(h, h_u')/t}) ), u' the rows of
                 other users in the global batch, t the contrast_temperature
    L_CC         mean over pairs of views a before b of [M_ab - (c_a - c_b)]_+, M_ab = margin (D_b - D_a); positive views come
                 before negative ones, where M_ab is boundary_margin at least, and of one kind the less damaged first

    a, r, D, w and v have no gradient. L_rec is `supervised`'s with the recipe's loss and all sources but the bank, the last. Of
    `views`, the first makes the positive ones, the second the negative ones; the sharpness of both rises linearly from 0 over
    `curriculum_epochs` (0: it is there at once). Rows none of whose views differs have L_rec alone, as all have in the first
    `warm_up` epochs. With both weights 0 it is `supervised`.

    Ablations: without `importance` a_t = 1/n, so any positions alike; without `relatedness` cosines with substitutes count as
    0, so any substitutes alike and r = 1/2; `strengths: equal` w = v = 1, `hard` v ~ exp(-D_n / strength_temperature);
    `ranking_weight` 0.

    Memory: L_CL meets the global batch's rows a tile at a time; what `replace` says of the bank.
    Logged after each epoch with views: `diagnose`.
    Raises: InputError for other views, for no bank of ids at the end of the sources, for an encoder that reads no histories.
    Source: our design after the abstract of CCL4Rec (Zhang et al. 2022, arXiv 2208.08024), whose equations are not public: it
    replicates nothing.
    Differs: views of one kind that are equally damaged have no order, and no term in L_CC.
    """

    positives: Literal["rows"] = "rows"
    takes_views, turns = True, (("model",),)

    def __init__(
        self,
        encoder: Any,
        loss: Any,
        sources: Sequence[Any],
        train: Interactions,
        generator: torch.Generator,
        workers: Workers,
        views: Sequence[Any],
        /,
        *,
        positive_views: Count = 4,
        negative_views: Count = 4,
        importance: bool = True,
        importance_temperature: Temperature = 0.2,
        relatedness: bool = True,
        strengths: Literal["adaptive", "equal", "hard"] = "adaptive",
        strength_temperature: Temperature = 0.2,
        contrast_weight: Weight = 0.1,
        contrast_temperature: Temperature = 0.1,
        ranking_weight: Weight = 0.1,
        margin: Weight = 1.0,
        boundary_margin: Weight = 0.1,
        warm_up: Epochs = 2,
        curriculum_epochs: Epochs = 10,
    ) -> None:
        if encoder.window is None:
            raise InputError(f"encoder.name: got {_name(encoder)!r}, takes one that reads histories under objective ccl4rec")
        if len(sources) < 2 or not isinstance(sources[-1], Memory):
            names = ", ".join(map(_name, sources))
            raise InputError(f"negatives: got {names}, takes one or more and then memory_bank under objective ccl4rec")
        if (found := [getattr(view, "replaces", None) for view in views]) != VIEWS:
            raise InputError(f"views: got {found}, takes two of {{name: replace}} that replace {VIEWS} (objective.ccl4rec)")
        *self.sources, self.bank = sources
        for name, got, takes in (("stale", self.bank.stale, False), ("warm_up", self.bank.warm_up, 0)):
            if got != takes:
                raise InputError(f"negatives.{len(self.sources)}.{name}: got {got}, takes {takes} under objective ccl4rec")
        self.encoder, self.workers = encoder, workers
        self.views, self.counts = views, (positive_views, negative_views)
        self.recommendation = Supervised(encoder, loss, self.sources, train, generator, workers, ())
        self.learners = {"model": Learner(encoder)}
        self.importance, self.importance_temperature = importance, importance_temperature
        self.relatedness = relatedness
        self.strengths, self.strength_temperature = strengths, strength_temperature
        self.contrast_weight, self.contrast_temperature = contrast_weight, contrast_temperature
        self.ranking_weight, self.margin, self.boundary_margin = ranking_weight, margin, boundary_margin
        self.warm_up, self.curriculum_epochs = warm_up, curriculum_epochs
        self.first_whole_epoch = warm_up
        self.encodes = 1 + 2 * sum(self.counts)  # of a view what was replaced and what replaces it

    def step_bytes(self, rows: int, batch_rows: int, items: int | None, width: int, use_gpu: bool = False) -> int:
        """While views are drawn: weights of distinct behaviours for the bank, and ids. Or then: what is made of the views, and
        vectors of all rows. And what the encoder holds of the rows themselves.
        """
        views, length = sum(self.counts), self.encoder.window.length
        behaviours, ids = rows * length if items is None else min(rows * length, items), 8 * rows * views * length
        drawn = 8 * behaviours * (self.bank.size + 1) * 3 + ids * VIEW_COPIES
        cosines = 2 * min(rows * batch_rows, numbers_of_a_tile(use_gpu=use_gpu))
        contrast = (batch_rows * self.encoder.item_table.shape[1] * CONTRAST_COPIES + cosines) * width
        contrast += Mask.kept_bytes(rows, batch_rows)
        encoded = self.encoder.queries_bytes(rows, rows, width, views) + contrast + ids * KEPT_COPIES
        return self.encoder.queries_bytes(rows, rows, width) + max(drawn, encoded)

    def passes(self, epoch: int) -> tuple[str, ...]:
        """The model's, in every epoch."""
        return ("model",)

    def __call__(self, batch: Batch) -> Outcome:
        query = self.encoder.queries(batch)
        outcome = self.recommendation.of_queries(batch, query)
        if batch.key[1] < self.warm_up or not (self.contrast_weight or self.ranking_weight):
            return outcome
        views_BVL, damage_BV = self.drawn(batch)
        vectors_BVD = self._encoded(batch.histories, views_BVL, batch)
        loss_B = outcome.loss_B + self._of_views(batch, query.vectors, views_BVL, damage_BV, vectors_BVD)
        return outcome._replace(loss_B=loss_B, vectors=outcome.vectors | {"views": vectors_BVD})

    def _of_views(self, batch: Batch, queries_BD: Tensor, views_BVL: Tensor, damage_BV: Tensor, vectors_BVD: Tensor) -> Tensor:
        """[B] what the views add to the loss."""
        differs_B = _differs(batch, views_BVL)
        vectors_BVD = F.normalize(vectors_BVD, dim=2)
        unit_BD = F.normalize(queries_BD, dim=1)
        cosines_BV = (vectors_BVD * unit_BD.unsqueeze(1)).sum(dim=2)
        added_B = torch.zeros_like(cosines_BV[:, 0])
        if self.contrast_weight:
            added_B = added_B + self.contrast_weight * self.contrast(cosines_BV, damage_BV, self._others(batch, unit_BD))
        if self.ranking_weight:
            added_B = added_B + self.ranking_weight * self.ranking(cosines_BV, damage_BV)
        return torch.where(differs_B, added_B, 0.0)

    @torch.no_grad()
    def drawn(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The views of each history, [B, P + Q, L], positive ones first, and the damage done to it, [B, P + Q]."""
        assert batch.histories is not None, "batches are made with the encoder's window"
        items_BL, lengths_B, _, sequence_B, _ = batch.histories
        assert sequence_B is None, "a history for each row"
        inside_BL = torch.arange(items_BL.shape[1], device=items_BL.device) < lengths_B.unsqueeze(1)
        behaviours_U, place_N = items_BL[inside_BL].unique(return_inverse=True)
        pool_M = self.bank.items_M[self.bank.in_use()].sort().values
        unit_UD, unit_MD, target_BD = (
            F.normalize(self.encoder.items(ids).vectors, dim=1) for ids in (behaviours_U, pool_M, batch.items_B)
        )
        with torch.autocast(unit_UD.device.type, enabled=False):  # they are not to be rounded
            cosines_UM = unit_UD @ unit_MD.T if self.relatedness else unit_UD.new_zeros(len(behaviours_U), len(pool_M))
        cosines_BL = torch.full_like(items_BL, -torch.inf, dtype=unit_UD.dtype)
        rows_N = inside_BL.nonzero()[:, 0]
        cosines_BL[inside_BL] = (unit_UD[place_N] * target_BD[rows_N]).sum(dim=1) if self.importance else 0.0
        importance_BL = torch.softmax(cosines_BL / self.importance_temperature, dim=1)
        weights = Weights(importance_BL, batch.items_B, pool_M, behaviours_U, cosines_UM, self._ramp(batch.key[1]))
        made = (self._made(batch, view, count, weights) for view, count in zip(self.views, self.counts, strict=True))
        views_BVL = torch.cat(list(made), dim=1)
        replaced = (views_BVL != items_BL.unsqueeze(1)).nonzero(as_tuple=True)
        rows_K, _, places_K = replaced
        before_K = torch.searchsorted(behaviours_U, items_BL[rows_K, places_K])
        after_K = torch.searchsorted(pool_M, views_BVL[replaced])
        relatedness_K = (1 + cosines_UM[before_K, after_K]) / 2
        damage_BVL = torch.zeros_like(views_BVL, dtype=unit_UD.dtype)
        damage_BVL[replaced] = importance_BL[rows_K, places_K] * (1 - relatedness_K)
        return views_BVL, damage_BVL.sum(dim=2)

    def _ramp(self, epoch: int) -> float:
        return min(1.0, epoch / self.curriculum_epochs) if self.curriculum_epochs else 1.0

    @torch.no_grad()
    def diagnose(self, batch: Batch, held_out: Interactions | None) -> dict[str, float]:
        """What views of a global batch, drawn anew, do without dropout; `batch` is this worker's rows of it.

        Of the rows of which a view differs; nothing while there are none. Weights and bank are those of after the batch.

        damage_dispensable, damage_indispensable        mean D of the positive and of the negative views
        damage_order                                    mean over rows of Spearman's rank correlation of c_v with -D_v, of
                                                        those in which neither is the same for all views
        sharpness_dispensable, sharpness_indispensable  what the curriculum has come to
        """
        if batch.key[1] < self.warm_up or not (self.contrast_weight or self.ranking_weight):
            return {}
        views_BVL, damage_BV = self.drawn(batch)
        vectors_BVD, queries_BD = self._encoded(batch.histories, views_BVL), self.encoder.encode(batch.histories)
        cosines_BV = F.cosine_similarity(vectors_BVD, queries_BD.unsqueeze(1), dim=2)
        told_of = _differs(batch, views_BVL).to(cosines_BV.dtype), cosines_BV, damage_BV
        differs_G, cosines_GV, damage_GV = (self.workers.gather(each_B, batch.rows) for each_B in told_of)
        differs_G = differs_G > 0
        if not bool(differs_G.any()):
            return {}
        told = {"damage_order": rank_correlation(cosines_GV[differs_G], -damage_GV[differs_G])}
        for view, damage in zip(self.views, damage_GV[differs_G].split(self.counts, dim=1), strict=True):
            told[f"damage_{view.replaces}"] = float(damage.mean())
            told[f"sharpness_{view.replaces}"] = view.sharpness * self._ramp(batch.key[1])
        return told

    def _made(self, batch: Batch, view: Any, count: int, weights: Weights) -> Tensor:
        """[B, count, L] the views of one kind; rows are taken by length, so that little is padding."""
        assert batch.histories is not None, "batches are made with the encoder's window"
        items_BL, lengths_B = batch.histories.items_SL, batch.histories.lengths_S
        longest = self.encoder.window.length  # a row's draws are counted by it, the same on every worker

        @functools.cache
        def numbers(purpose: str) -> Tensor:
            drawn = batch.uniforms(f"views, {view.replaces}: {purpose}", count * longest)
            return drawn.to(items_BL.device).view(len(items_BL), count, longest)

        views_BVL = items_BL.unsqueeze(1).repeat(1, count, 1)
        exponent_B = torch.log2(lengths_B.clamp(min=4).double()).ceil().long()
        for exponent in exponent_B.unique().tolist():
            rows_G, width = (exponent_B == exponent).nonzero().squeeze(1), min(2**exponent, items_BL.shape[1])

            def uniforms(purpose: str, n: int, rows_G: Tensor = rows_G) -> Tensor:
                return numbers(purpose)[rows_G, :, :n].reshape(-1, n)

            histories_NW, importance_NW, lengths_N, targets_N = (
                each[rows_G].repeat_interleave(count, dim=0)
                for each in (items_BL[:, :width], weights.importance_BL[:, :width], lengths_B, weights.targets_B)
            )
            own = weights._replace(importance_BL=importance_NW, targets_B=targets_N)
            made_NW, _ = view(histories_NW, lengths_N, uniforms, own)
            views_BVL[rows_G, :, :width] = made_NW.view(len(rows_G), count, width)
        return views_BVL

    def log_strengths(self, damage_BV: Tensor) -> tuple[Tensor, Tensor]:
        """[B, P] log w and [B, Q] log v."""
        damage_BP, damage_BQ = damage_BV.split(self.counts, dim=1)
        if self.strengths == "equal":
            return torch.zeros_like(damage_BP), torch.zeros_like(damage_BQ)
        sign = -1 if self.strengths == "hard" else 1
        pull_BP = torch.log_softmax((1 - damage_BP) / self.strength_temperature, dim=1) + math.log(self.counts[0])
        return pull_BP, torch.log_softmax(sign * damage_BQ / self.strength_temperature, dim=1) + math.log(self.counts[1])

    def contrast(self, cosines_BV: Tensor, damage_BV: Tensor, others_B: Tensor) -> Tensor:
        """[B] L_CL; others_B is the log of the sum over other users' rows, EXCLUDED where there is none."""
        positive_BP, negative_BQ = (cosines_BV / self.contrast_temperature).split(self.counts, dim=1)
        log_pull_BP, log_push_BQ = self.log_strengths(damage_BV)
        against_BN = torch.cat([negative_BQ + log_push_BQ, others_B.unsqueeze(1)], dim=1)
        against_B1 = torch.logsumexp(against_BN, dim=1, keepdim=True)  # there is a negative view
        return (log_pull_BP.exp() * (torch.logaddexp(positive_BP, against_B1) - positive_BP)).mean(dim=1)

    def ranking(self, cosines_BV: Tensor, damage_BV: Tensor) -> Tensor:
        """[B] L_CC."""
        views = damage_BV.shape[1]
        positive_V = torch.arange(views, device=damage_BV.device) < self.counts[0]
        boundary_VV = positive_V.unsqueeze(1) & ~positive_V
        more_BVV = damage_BV.unsqueeze(1) - damage_BV.unsqueeze(2)  # [:, a, b]: D_b - D_a
        margins_BVV = self.margin * more_BVV
        margins_BVV = torch.where(boundary_VV, margins_BVV.clamp(min=self.boundary_margin), margins_BVV)
        before_BVV = boundary_VV | ((positive_V.unsqueeze(1) == positive_V) & (more_BVV > SAME))
        missing_BVV = F.relu(margins_BVV - (cosines_BV.unsqueeze(2) - cosines_BV.unsqueeze(1)))
        return (missing_BVV * before_BVV).sum(dim=(1, 2)) / math.comb(views, 2)

    def _others(self, batch: Batch, unit_BD: Tensor) -> Tensor:
        """[B] log sum_u' e^{cos(h, h_u')/t} over the global batch's rows but those of the row's own user."""
        unit_CD, users_C = (self.workers.gather(each, batch.rows) for each in (unit_BD, batch.users_B))
        same_user = Mask(torch.arange(len(unit_BD), device=users_C.device), batch.users_B, users_C, len(unit_BD))
        with torch.autocast(unit_BD.device.type, enabled=False):  # they are not to be rounded
            return _tiled.log_sum_exp(Shared(batch.rows), unit_BD / self.contrast_temperature, unit_CD, same_user)

    def _encoded(self, histories: Histories | None, views_BVL: Tensor, batch: Batch | None = None) -> Tensor:
        """[B, V, D] by the encoder's own short way where it has one; with dropout where a batch is given."""
        assert histories is not None, "batches are made with the encoder's window"
        if hasattr(self.encoder, "encode_replaced"):
            return self.encoder.in_slices(self.encoder.encode_replaced, histories, views_BVL)
        vectors = []
        for n, view_BL in enumerate(views_BVL.unbind(dim=1)):
            encode = functools.partial(self.encoder.encode, batch=batch, stream=f"view {n}: ")
            vectors.append(self.encoder.in_slices(encode, histories._replace(items_SL=view_BL)))
        return torch.stack(vectors, dim=1)


def _differs(batch: Batch, views_BVL: Tensor) -> Tensor:
    """[B] of which rows a view is another history."""
    assert batch.histories is not None, "batches are made with the encoder's window"
    return (views_BVL != batch.histories.items_SL.unsqueeze(1)).any(dim=2).any(dim=1)


def _name(part: Any) -> str:
    return type(part).__module__.rpartition(".")[2]
