"""The rules that `optimizer` and `training` may be: how a step goes, how long it goes on, and where its epoch is chosen."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.errors import InputError
from components.evaluation.protocols import PROTOCOLS, Protocol, logged
from components.section import Newer, Positive, Section, matching

Metric = Annotated[
    str,
    matching(r"(recall|ndcg|hit|precision|mrr|map)@[1-9]\d*", "recall, ndcg, hit, precision, mrr or map at a K, as recall@20"),
]
VALIDATION = r"valid(_[A-Za-z0-9]+)?"
Selection = Annotated[str, matching(rf"{VALIDATION}|test|none", "valid, valid_NAME, test or none")]


class L2(Section):
    """weight/2 * sum of squared norms of `rows` (batch and negatives), `positives` (batch only) or whole `tables`.

    `reduce: sum` is divided by nothing; `mean` by the global batch size. The papers differ, and it matters.
    """

    weight: Annotated[float, Field(ge=0)] = 0.0
    on: Literal["rows", "positives", "tables"] = "positives"
    reduce: Literal["sum", "mean"] = "mean"


class Plateau(Section):
    """The learning rate is multiplied by `factor`, down to `min_lr`, each time that `patience` validations were no better than
    the best: torch's ReduceLROnPlateau with a patience of one less and a threshold of 0. With `reload` the encoder goes back to
    its best weights then, and Adam's moments stay: so in SimpleX's code (Mao et al. 2021, arXiv 2109.12613).
    """

    patience: Positive
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    reload: bool = False


class Optimizer(Section):
    """The model's dense fused Adam. `clip_norm` bounds the norm of all its gradients together, L2 on tables included.

    `lazy`: of tables the rows that a step's batch looked up alone, which then costs no more for a larger catalogue: of these
    rows the moments decay and the weights move as Adam's at that step (corrected for all steps so far), of others neither does.
    """

    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    lazy: Annotated[bool, Newer] = False
    plateau: Annotated[Plateau | None, Newer] = None
    l2: L2 = L2()

    @model_validator(mode="after")
    def _there_is_room_to_cut(self) -> Optimizer:
        if self.plateau is not None and self.plateau.min_lr >= self.learning_rate:
            raise InputError(
                f"optimizer.plateau.min_lr: got {self.plateau.min_lr:g}, takes less than optimizer.learning_rate, "
                f"{self.learning_rate:g}"
            )
        return self

    @model_validator(mode="after")
    def _nothing_needs_whole_tables(self) -> Optimizer:
        if self.lazy and self.l2.weight and self.l2.on == "tables":
            raise InputError("optimizer.l2.on: got 'tables', takes rows or positives where optimizer.lazy is true")
        if self.lazy and self.clip_norm is not None:
            raise InputError(f"optimizer.clip_norm: got {self.clip_norm:g}, takes null where optimizer.lazy is true")
        return self


class Training(Section):
    """The global batch is cut over the workers, so a changed number of workers changes nothing but rounding.

    `select_on` is the split on which the epoch is chosen: `valid`, another `valid_NAME` that the dataset has, or `test`, as
    many published logs do (best epoch on test). `fit_on: train+valid` refits after a choice. With `mask_seen: false` a user's
    own items may be listed where an epoch is chosen, as in the code of MCLRec and DuoRec. Both are said wherever validation's
    numbers appear (`chosen_on`, `logged`). `patience` counts validations. `precision: bfloat16` rounds the factors of matrix
    products in training, of encoders and of scores; weights, Adam, sums, losses and ranking stay float32.
    """

    batch_size: Positive = 2048
    epochs: Positive = 100
    validate_every: Positive = 1
    metric: Metric = "recall@20"
    patience: Positive = 10
    min_epochs: Annotated[int, Field(ge=0)] = 0
    fit_on: Literal["train", "train+valid"] = "train"
    select_on: Selection = "valid"
    mask_seen: Annotated[bool, Newer] = True
    checkpoint_steps: Positive | None = None
    precision: Literal["float32", "float64", "bfloat16"] = "float32"

    @property
    def is_validated(self) -> bool:
        """Whether the epoch is chosen on a split that no test is."""
        return self.select_on.partition("_")[0] == "valid"

    @property
    def protocol(self) -> Protocol:
        """Of the lists that an epoch is chosen by."""
        return "masked" if self.mask_seen else "not_masked"

    @property
    def chosen_on(self) -> str:
        """For people: where an epoch is chosen, and by which protocol."""
        return self.select_on if self.select_on == "none" else f"{self.select_on}, {PROTOCOLS[self.protocol]}"

    @property
    def fitted(self) -> str:
        """For people: what is fitted on, and where the epoch is chosen."""
        return f"fit on {self.fit_on}, epoch chosen on {self.chosen_on}"

    def logged(self, metric: str) -> str:
        """What validation's value of a metric is called in a run's history and in MLflow."""
        return logged(self.select_on, self.protocol, metric)

    @model_validator(mode="after")
    def _valid_is_not_trained_on(self) -> Training:
        if self.fit_on == "train+valid" and self.is_validated:
            raise ValueError("select_on: test or none where fit_on is train+valid")
        return self

    @model_validator(mode="after")
    def _stops_after_min_epochs(self) -> Training:
        if self.select_on != "none" and self.min_epochs > self.epochs:  # without validation nothing stops early
            raise InputError(f"training.min_epochs: got {self.min_epochs}, takes at most training.epochs, {self.epochs}")
        return self
