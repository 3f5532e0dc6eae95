"""MCLRec: contrastive views, two of them random and two learned by augmenters, which take turns with the encoder."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from components.data.interactions import Interactions
from components.errors import InputError
from components.losses import Temperature
from components.objectives import Learner, Outcome
from components.objectives._contrast import Contrast, Margin, View
from components.objectives._shared import numbers_of_a_tile
from components.objectives._two_views import two_views
from components.objectives.supervised import Supervised
from components.training.batches import Batch, Histories
from components.training.collectives import Workers

WIDTHS = (32, 16)  # of an augmenter's hidden layers
VIEW_COPIES, VECTOR_COPIES = 8, 56  # of a view while it is drawn, and of vectors in all contrasts, at once (measured)
Weight = Annotated[float, Field(ge=0)]


class MCLRec:
    """L_0 = L_rec + lambda L_cl1 + beta (L_cl2 + gamma R) for the encoder,  L_1 = L_cl2 + gamma R for the augmenters.

    h, h1, h2 are the encoder's vectors of a row's history and of two views of it (components.objectives._two_views);
    z1 = w1(h1), z2 = w2(h2) those of the augmenters, which are small networks, of length 1 (`normalise`).
        L_rec  the recipe's loss of <h, e_i> against candidates from its sources, as `supervised`
        L_cl1 = Lcon(h1, h2),  L_cl2 = Lcon(z1, z2) + Lcon(h1, z2) + Lcon(h2, z1)
        Lcon   InfoNCE of 2R vectors over `temperature`, each with its partner among the 2R - 1 others, mean over them
        R      of MetAug: lowers positives that stand out and lifts negatives that lag, with margins (_contrast.Contrast.margin)
    On each batch, by `updates`: the encoder, then the augmenters on vectors of the encoder as it is now, then the encoder
    again with the new ones (`encoder_twice`); without the last (`encoder_once`); or all at once on L_0 (`joint`, MCLRec-J).
    The views are the same in every turn, dropout is not. First order: no gradient goes through another's update.

    Defaults are the released code's, which made the published numbers. The paper's: updates encoder_once, pairs learned (R of
    z1 and z2 alone; `all`: of the three pairs of L_cl2), margin global, augmenter_gamma times_beta (gamma beta in L_1, too),
    normalise false. With beta 0 there are no augmenters; with lambda 0, too, no views are drawn, and it is `supervised`, with
    encoder_twice taking two updates on each batch. CL4SRec is beta 0 and encoder_once.

    The loss that is logged is L_0 of the first turn.

    Raises: InputError for fewer than two views, one that asks for weights of behaviours, or an encoder without histories.
    Source: Qin et al. 2023, arXiv 2304.07763, eq. 6 to 15; R: Li et al. 2022 (MetAug), arXiv 2202.05119; CL4SRec: Xie et al.
    2020, arXiv 2010.14395.
    Differs: gamma is told over beta: the paper's is .1 beta. L2 is taken for the encoder's turns, on what L_rec touched. The
    code's softmax has a column for padding, which trains the padding's row (its mask, too); here that row stays as it began.
    """

    positives: Literal["rows"] = "rows"
    takes_views, first_whole_epoch = True, 0

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
        lambda_: Weight = 0.0,
        beta: Weight = 0.05,
        gamma: Weight = 0.1,
        temperature: Temperature = 1.0,
        updates: Literal["encoder_twice", "encoder_once", "joint"] = "encoder_twice",
        pairs: Literal["all", "learned"] = "all",
        margin: Margin = "anchor",
        augmenter_gamma: Literal["alone", "times_beta"] = "alone",
        normalise: bool = True,
        shared_augmenter: bool = False,
    ) -> None:
        _check(encoder, views)
        self.supervised = Supervised(encoder, loss, sources, train, generator, workers, ())
        self.encoder, self.workers, self.views, self.padding = encoder, workers, views, train.num_items
        self.sources = sources
        self.lambda_, self.beta, self.gamma, self.temperature = lambda_, beta, gamma, temperature
        self.augmenter_gamma = gamma * beta if augmenter_gamma == "times_beta" else gamma
        self.pairs: Literal["all", "learned"] = pairs
        self.margin: Margin = margin
        self._drawn: tuple[Any, Histories | None, tuple[Histories, Histories]] | None = None  # of the last batch
        width = encoder.scoring_items().shape[1]
        self.augmenters = _Augmenters(width, normalise, shared_augmenter, generator)
        self.learners = {"model": Learner(encoder), "augmenters": Learner(self.augmenters)}
        self.turns: tuple[tuple[str, ...], ...] = {
            "encoder_twice": (("model",), ("augmenters",), ("model",)),
            "encoder_once": (("model",), ("augmenters",)),
            "joint": (("model", "augmenters"),),
        }[updates]
        if not beta:  # nothing reads the augmenters
            del self.learners["augmenters"]
            self.turns = (("model",),) * sum("model" in turn for turn in self.turns)

    @property
    def encodes(self) -> int:
        """A history and two views of it, in each turn of the model."""
        return sum("model" in turn for turn in self.turns) * (3 if self.lambda_ or self.beta else 1)

    def step_bytes(self, rows: int, batch_rows: int, items: int | None, width: int, use_gpu: bool = False) -> int:
        """Histories and two views encoded; all views of `_two_views` and the draws of one; vectors of all rows, and a tile."""
        if not (self.lambda_ or self.beta):
            return self.encoder.queries_bytes(rows, rows, width)
        views = rows * self.encoder.window.length * 8 * (2 * len(self.views) + VIEW_COPIES)
        vectors = 2 * batch_rows * self.encoder.scoring_items().shape[1] * width * VECTOR_COPIES
        products = 2 * min(2 * rows * 2 * batch_rows, numbers_of_a_tile(use_gpu=use_gpu)) * width
        encoded = self.encoder.queries_bytes(rows, rows, width) + self.encoder.queries_bytes(rows, rows, width, views=2)
        return encoded + views + vectors + products

    def passes(self, epoch: int) -> tuple[str, ...]:
        """The model's, in every epoch."""
        return ("model",)

    def __call__(self, batch: Batch) -> Outcome:
        turn = dataclasses.replace(batch, stream=f"{batch.stream}turn {batch.turn}: ") if batch.turn else batch
        if "model" not in self.turns[batch.turn]:
            views = self._encoded(batch, turn)
            return Outcome(self._learned(*views, batch, self.augmenter_gamma), (), (), (), vectors=_named(*views))
        outcome = self.supervised(turn)
        loss_B = outcome.loss_B
        if self.lambda_ or self.beta:
            first, second = self._encoded(batch, turn)
            outcome = outcome._replace(vectors=outcome.vectors | _named(first, second))
            if self.lambda_:
                loss_B = loss_B + self.lambda_ * Contrast(first, second, batch, self.workers).loss(self.temperature)
            if self.beta:
                loss_B = loss_B + self.beta * self._learned(first, second, batch, self.gamma)
        return outcome._replace(loss_B=loss_B)

    def _encoded(self, batch: Batch, turn: Batch) -> tuple[View, View]:
        """h1 and h2: views by the batch's draws, once for all its turns, dropout by the turn's."""
        if self._drawn is None or self._drawn[0] != (batch.key, batch.stream) or self._drawn[1] is not batch.histories:
            views = two_views(self.views, batch, self.encoder.window.length, self.padding)
            self._drawn = (batch.key, batch.stream), batch.histories, views
        first, second = (
            self.encoder.in_slices(partial(self.encoder.encode, batch=turn, stream=f"view {n}: "), each)
            for n, each in enumerate(self._drawn[2])
        )
        return self._everywhere(first, batch), self._everywhere(second, batch)

    def _learned(self, h1: View, h2: View, batch: Batch, gamma: float) -> Tensor:
        """[B] L_cl2 + gamma R."""
        z1, z2 = (self._everywhere(z_BD, batch) for z_BD in self.augmenters(h1.own_BD, h2.own_BD))
        learned, *crossed = (Contrast(x, y, batch, self.workers) for x, y in ((z1, z2), (h1, z2), (h2, z1)))
        loss_B = sum((each.loss(self.temperature) for each in crossed), start=learned.loss(self.temperature))
        if not gamma:
            return loss_B
        return loss_B + gamma * sum(
            (each.margin(self.margin) for each in crossed if self.pairs == "all"), start=learned.margin(self.margin)
        )

    def _everywhere(self, vectors_BD: Tensor, batch: Batch) -> View:
        return View(vectors_BD, self.workers.gather(vectors_BD, batch.rows))


class _Augmenters(nn.Module):
    """w1 and w2: three linear layers each, GELU between; they begin as torch's own, drawn from the generator."""

    def __init__(self, width: int, normalise: bool, shared: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.normalise = normalise
        self.first = _mlp(width, generator)
        self.second = None if shared else _mlp(width, generator)

    def forward(self, h1_BD: Tensor, h2_BD: Tensor) -> tuple[Tensor, Tensor]:
        """(z1, z2)"""
        z1_BD, z2_BD = self.first(h1_BD), (self.second or self.first)(h2_BD)
        return (F.normalize(z1_BD, dim=1), F.normalize(z2_BD, dim=1)) if self.normalise else (z1_BD, z2_BD)


def _named(first: View, second: View) -> dict[str, Tensor]:
    return {"the first views": first.own_BD, "the second views": second.own_BD}


def _mlp(width: int, generator: torch.Generator) -> nn.Sequential:
    sizes, layers = (width, *WIDTHS, width), []
    for before, after in itertools.pairwise(sizes):
        linear = nn.utils.skip_init(nn.Linear, before, after)  # torch's own start would draw from the process's generator
        for weight in linear.parameters():
            nn.init.uniform_(weight, -1 / math.sqrt(before), 1 / math.sqrt(before), generator=generator)
        layers += [linear, nn.GELU()]
    return nn.Sequential(*layers[:-1])


def _check(encoder: Any, views: Sequence[Any]) -> None:
    def name(part: Any) -> str:
        return type(part).__module__.rpartition(".")[2]

    if encoder.window is None:
        raise InputError(f"encoder.name: got {name(encoder)!r}, takes one that reads histories under objective mclrec")
    if len(views) < 2:
        raise InputError(f"views: got {len(views)}, takes two or more under objective mclrec: a row's two are different ones")
    for n, view in enumerate(views):
        if len(inspect.signature(view).parameters) > 3:
            raise InputError(f"views.{n}.name: got {name(view)!r}, takes one without weights under objective mclrec")
