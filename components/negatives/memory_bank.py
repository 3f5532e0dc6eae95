"""The positives of recent batches, first in, first out: one pool for the whole batch, of which each worker has a share."""

from __future__ import annotations

import copy
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from components.data.interactions import Interactions
from components.errors import InputError
from components.negatives import Candidates, Memory
from components.negatives._seen import Seen
from components.section import Newer
from components.training.batches import Batch
from components.training.collectives import Workers

FROM_THE_LOG, EMPTY = -1, -2  # in the place of a step
ROWS_AT_ONCE = 2**16  # of those whose drift is measured


class MemoryBank(Memory):
    """The positives of the last `size` rows that the model's steps were taken on, over all workers, with multiplicity.

    Of ids the encoder is asked for the vectors as they are now; before the first step they are those of `size` rows of the log
    at equal distances. Where `stale`, rows keep the vectors that they had in their step, without a gradient, and the bank
    begins empty. With a `momentum` m they are of a slow encoder, which begins as the encoder; after each batch, of
    one step or more (`turns`), it becomes m times itself and 1 - m times the encoder, and then has the vectors of that batch.
    Rows of the last `max_age` batches count (null: all), from `warm_up` of them on; a user's training items are masked. Ids and
    steps are on every worker, 16 bytes a row, and a slow encoder; slot m, its vector and its scores are worker m mod W's.

    Shapes: items_M, born_M, a ring whose next row goes to `cursor`; vectors_SD, this worker's.
    Raises: InputError for a momentum where vectors are fresh.
    Source: the queue and slow encoder of MoCo (He et al. 2020, arXiv 1911.05722); stale vectors of the one encoder and a
    warm-up as in cross-batch memory (Wang et al. 2020, arXiv 1912.06798); of ids, CauseRec's pool (Zhang et al. 2021,
    arXiv 2109.05261).
    Differs: fresh vectors, an age limit; the slow encoder moves after the step, MoCo's before it. Expected counts are those of
    a batch's positives; of stale vectors they leave a bias. A table of ids loses by stale vectors: what is never pushed away
    but in its own step stays near to every query (Gowalla, RESULTS).
    """

    excludes_positive = True

    per, exclude = "batch", "seen"

    def __init__(
        self,
        train: Interactions,
        workers: Workers,
        stream: str,
        /,
        *,
        size: Annotated[int, Field(ge=1)] = 1024,
        stale: Annotated[bool, Newer] = False,
        momentum: Annotated[Annotated[float, Field(ge=0, lt=1)] | None, Newer] = None,
        max_age: Annotated[Annotated[int, Field(ge=1)] | None, Newer] = None,
        warm_up: Annotated[int, Field(ge=0), Newer] = 0,
    ) -> None:
        super().__init__()
        if momentum is not None and not stale:
            raise InputError(f"{stream}.momentum: got {momentum:g}, takes null where {stream}.stale is false")
        self.size, self.momentum, self.copies = size, momentum, int(momentum is not None)
        self.slow: Any = None
        self._encoder: tuple[Any, ...] = ()  # whose weights are not the bank's
        self.workers, self.stale, self.max_age, self.warm_up = workers, stale, max_age, warm_up
        self._seen = Seen(train)
        degrees = train.positive_degrees()
        self._share = torch.from_numpy(degrees / max(degrees.sum(), 1))
        rows = train.positives()
        items = train.items[rows[np.arange(size) * len(rows) // size]]
        self.items_M: Tensor
        self.born_M: Tensor
        self.cursor: Tensor
        self.steps: Tensor
        self.register_buffer("items_M", torch.from_numpy(items.astype(np.int64)))
        self.register_buffer("born_M", torch.full((size,), EMPTY if stale else FROM_THE_LOG))
        self.register_buffer("cursor", torch.tensor(0))
        self.register_buffer("steps", torch.tensor(0))
        self.vectors_SD = torch.empty(0, 0)  # known to be of which width with the first rows
        self._positives_BD: Tensor | None = None

    def forward(self, batch: Batch, positives_BD: Tensor) -> Candidates:
        """This worker's share of the bank; `batch` is of the rows that meet it."""
        self._positives_BD = positives_BD.detach() if self.stale else None
        slots_C = self._mine(self.in_use().nonzero().squeeze(1))
        items_C = self.items_M[slots_C]
        vectors_CD = positives_BD.detach()[:0] if self.stale else None
        if self.stale and len(slots_C):
            vectors_CD = self.vectors_SD[slots_C // self.workers.size]
        return Candidates(items_C, vectors_CD, self._seen.among(batch.users_B, items_C))

    def in_use(self) -> Tensor:
        """[M] which rows count."""
        first = FROM_THE_LOG if self.max_age is None else max(int(self.steps) - self.max_age, FROM_THE_LOG)
        return (self.born_M >= first) & (self.steps >= self.warm_up)

    def push(self, batch: Batch) -> None:
        """The batch's positives come in, as many go; of vectors, those of the last call."""
        size = len(self.items_M)
        kept = slice(max(batch.rows - size, 0), batch.rows)
        slots_N = (self.cursor + torch.arange(batch.rows, device=self.items_M.device)[kept]) % size
        items_N = self.workers.gather(batch.items_B, batch.rows)[kept]
        self.items_M[slots_N] = items_N
        self.born_M[slots_N] = self.steps
        if self.stale:
            mine_N = slots_N % self.workers.size == self.workers.rank
            if self.slow is None:
                assert self._positives_BD is not None, "a batch is pushed after its step"
                vectors_KD = self.workers.gather(self._positives_BD, batch.rows)[kept][mine_N]
            else:
                vectors_KD = self._moved().items(items_N[mine_N]).vectors
            if not len(self.vectors_SD):
                share = len(range(self.workers.rank, size, self.workers.size))
                self.vectors_SD = vectors_KD.new_zeros(max(share, 1), vectors_KD.shape[1])
            self.vectors_SD[slots_N[mine_N] // self.workers.size] = vectors_KD
        self.cursor += batch.rows
        self.cursor %= size
        self.steps += 1
        self._positives_BD = None

    def follow(self, encoder: Any) -> None:
        """Its slow copy begins."""
        if self.momentum is not None:
            self._encoder, self.slow = (encoder,), copy.deepcopy(encoder).requires_grad_(False).eval()

    @torch.no_grad()
    def _moved(self) -> Any:
        """The slow encoder, a step nearer to the encoder."""
        assert self.momentum is not None, "there is a slow encoder"
        for slow, now in zip(self.slow.parameters(), self._encoder[0].parameters(), strict=True):
            slow.lerp_(now, 1 - self.momentum)
        return self.slow

    @torch.no_grad()
    def told(self, encoder: Any) -> dict[str, float]:
        """How many rows are in use, their mean age in steps, and the mean of 1 - cos(kept, as it is now) where stale."""
        used_M = self.in_use()
        rows = int(used_M.sum())
        told = {"rows": float(rows)}
        if rows:
            told["age"] = float((self.steps - self.born_M[used_M]).double().mean())
        if rows and self.stale:
            drift = torch.zeros((), dtype=torch.float64, device=used_M.device)
            for slots_N in self._mine(used_M.nonzero().squeeze(1)).split(ROWS_AT_ONCE):
                now_ND, then_ND = encoder.items(self.items_M[slots_N]).vectors, self.vectors_SD[slots_N // self.workers.size]
                drift += (1 - F.cosine_similarity(now_ND, then_ND).double()).sum()
            told["drift"] = float(self.workers.sum(drift)) / rows
        return told

    def skip_warm_up(self) -> None:
        """As if all its steps but one had been taken, on nothing."""
        self.steps.fill_(max(self.warm_up - 1, 0))

    def share(self) -> Tensor | None:
        """This worker's vectors, once there are some."""
        return self.vectors_SD if len(self.vectors_SD) else None

    def take(self, share: Tensor) -> None:
        """This worker's vectors out of a checkpoint."""
        self.vectors_SD = share.to(self.items_M.device)

    def _mine(self, slots_N: Tensor) -> Tensor:
        return slots_N[slots_N % self.workers.size == self.workers.rank]

    def candidates_of_a_row(self, rows: int, items: int) -> int:
        """Once it is full, the same whatever the rows of the global batch."""
        return self.size

    def index_bytes(self, rows: int, users: int, items: int) -> int:
        """Ids and steps, and each item's share; without vectors."""
        return 16 * self.size + 8 * items

    def vectors_bytes(self) -> int:
        """Those of all workers, as wide as the rows so far."""
        return self.size * self.vectors_SD.shape[1] * self.vectors_SD.element_size()

    def expected_count(self, batch: Batch, items: Tensor) -> Tensor:
        """How often an item is in use, one for each of `items`: rows in use * its positives / all positives."""
        return self.in_use().sum() * self._share.to(items.device)[items]
