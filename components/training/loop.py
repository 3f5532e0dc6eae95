"""The training loop: a generator of progress. It knows neither Ray nor MLflow; who runs it decides what each yield is for."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from components import catalog
from components.config import Recipe
from components.data.interactions import Interactions
from components.errors import DivergedError
from components.evaluation import exact
from components.evaluation.evaluate import Task, validate
from components.evaluation.scorers import Factors
from components.training import checkpoint
from components.training.batches import Batch, batches, steps_per_epoch
from components.training.collectives import Workers
from components.training.optimizer import add_table_gradient, penalty


@dataclass
class Position:
    """Where training stands: with the weights and the optimiser, all that its future depends on.

    Random draws are keyed by (seed, epoch, step, row): the position is the state of every generator.
    """

    epoch: int = 0  # the one under way
    step: int = 0  # the next one of it
    loss_sum: float = 0.0  # over the rows of this epoch's steps so far, all workers
    best_epoch: int | None = None
    best_value: float | None = None
    validations_since_best: int = 0
    finished: bool = False


@dataclass(frozen=True)
class Progress:
    """After a step, or at the end of an epoch, where `metrics` is not None."""

    epoch: int
    step: int  # steps done in this epoch
    steps: int  # of an epoch
    metrics: dict[str, float] | None = None
    improved: bool = False  # these weights are the ones to keep
    checkpoint_due: bool = False
    finished: bool = False


class Trainer:
    """Everything of one worker: encoder, objective, optimiser, position."""

    def __init__(
        self, recipe: Recipe, train: Interactions, validation: Task | None, workers: Workers, device: torch.device
    ) -> None:
        self.recipe, self.train, self.validation, self.workers, self.device = recipe, train, validation, workers, device
        dtype = torch.float64 if recipe.training.precision == "float64" else torch.float32
        generator = torch.Generator().manual_seed(recipe.seed)
        self.encoder: torch.nn.Module = catalog.build("encoder", recipe.encoder, train, generator).to(device, dtype)
        self.sources = [
            catalog.build("negatives", spec, train, workers, f"negatives.{n}") for n, spec in enumerate(recipe.negatives)
        ]
        loss = catalog.build("loss", recipe.loss)
        self.objective = catalog.build("objective", recipe.objective, self.encoder, loss, self.sources)
        self.parameters = list(self.encoder.parameters())
        self.tables = [parameter for name, parameter in self.encoder.named_parameters() if name.endswith("_table")]
        self.optimizer = torch.optim.Adam(self.parameters, lr=recipe.optimizer.learning_rate, fused=True)
        self.position = Position()

    def run(self) -> Iterator[Progress]:
        """Trains from the present position to the last epoch, or until validation has not improved for `patience` times.

        Raises:
            DivergedError: the loss became NaN or infinite.
        """
        training = self.recipe.training
        steps = steps_per_epoch(len(self.train), training.batch_size)
        while not self.position.finished:
            started = time.perf_counter()
            first = self.position.step
            loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
            for batch in self.batches():
                loss_sum += self.step(batch)
                self.position.step += 1
                due = training.checkpoint_steps is not None and self.position.step % training.checkpoint_steps == 0
                if due and self.position.step < steps:
                    self._add_losses(loss_sum)
                    loss_sum = torch.zeros_like(loss_sum)
                    yield Progress(self.position.epoch, self.position.step, steps, checkpoint_due=True)
                else:
                    yield Progress(self.position.epoch, self.position.step, steps)
            self._add_losses(loss_sum)
            seconds = time.perf_counter() - started
            yield self._end_epoch(steps, (len(self.train) - first * training.batch_size) / seconds)

    def step(self, batch: Batch) -> Tensor:
        """One update. Returns the sum of the losses of this worker's rows."""
        self.optimizer.zero_grad(set_to_none=True)
        outcome = self.objective(batch)
        l2 = self.recipe.optimizer.l2
        total = outcome.loss_B.sum() / batch.rows + penalty(l2, outcome, batch.rows, self.workers.size)
        total.backward()
        self.workers.sum_gradients(self.parameters)
        add_table_gradient(l2, self.tables, batch.rows)
        if self.recipe.optimizer.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.optimizer.clip_norm)
        self.optimizer.step()
        return outcome.loss_B.detach().double().sum()

    def validate(self) -> dict[str, float]:
        """The recipe's metric, recall and ndcg on held-out rows: means over their users, the same bits for any workers."""
        assert self.validation is not None, "there is nothing to validate on"
        scorer = Factors(*self.encoder.scoring_tables())  # pyright: ignore[reportCallIssue]
        mine = range(self.validation.num_tiles)[self.workers.rank :: self.workers.size]
        metric = self.recipe.training.metric
        k = metric.partition("@")[2]
        values = validate(scorer, self.validation, sorted({metric, f"recall@{k}", f"ndcg@{k}"}), mine)
        parts = self.workers.gather_objects(values)
        return {name: exact.mean(np.concatenate([part[name] for part in parts])) for name in values}

    def save(self, folder: Path, dataset_fingerprint: str) -> None:
        """Writes weights, optimiser and position."""
        checkpoint.save(folder, self.encoder, self.optimizer, asdict(self.position), self.recipe, dataset_fingerprint)

    def restore(self, folder: Path, dataset_fingerprint: str) -> None:
        """Continues from a checkpoint.

        Raises:
            InputError: it was made for another dataset or another recipe.
        """
        self.position = Position(**checkpoint.restore(folder, self.encoder, self.optimizer, self.recipe, dataset_fingerprint))

    def batches(self) -> Iterator[Batch]:
        """The batches of the epoch under way, from the present position on."""
        return batches(
            self.train,
            batch_size=self.recipe.training.batch_size,
            seed=self.recipe.seed,
            epoch=self.position.epoch,
            workers=self.workers,
            device=self.device,
            first_step=self.position.step,
        )

    def _add_losses(self, loss_sum: Tensor) -> None:
        """All workers' losses since the last time; no checkpoint is made of what has diverged."""
        position = self.position
        position.loss_sum += float(self.workers.sum(loss_sum))
        weights_are_finite = all(bool(torch.isfinite(parameter).all()) for parameter in self.parameters)
        if not (math.isfinite(position.loss_sum) and weights_are_finite):
            what = "the weights are not finite" if math.isfinite(position.loss_sum) else f"the loss is {position.loss_sum}"
            at = f"epoch {position.epoch + 1}, step {position.step}"
            raise DivergedError(f"{at}: {what}; try a lower optimizer.learning_rate")

    def _end_epoch(self, steps: int, rows_per_second: float) -> Progress:
        training, position = self.recipe.training, self.position
        metrics = {"loss": position.loss_sum / len(self.train), "rows_per_second": rows_per_second}
        done = position.epoch + 1
        last = done == training.epochs
        validated = done % training.validate_every == 0 or last
        improved = last if self.validation is None else False
        if validated and self.validation is not None:
            started = time.perf_counter()
            values = self.validate()
            value = values[training.metric]
            metrics |= {f"{training.select_on}_{name}": values[name] for name in values}
            metrics["validation_seconds"] = time.perf_counter() - started
            improved = position.best_value is None or value > position.best_value
            position.validations_since_best = 0 if improved else position.validations_since_best + 1
            if improved:
                position.best_value = value
        if improved:
            position.best_epoch = position.epoch
        patient = position.validations_since_best < training.patience or done < training.min_epochs
        finished = last or not patient
        due = validated or finished
        progress = Progress(position.epoch, steps, steps, metrics, improved, checkpoint_due=due, finished=finished)
        position.epoch, position.step, position.loss_sum, position.finished = done, 0, 0.0, finished
        return progress
