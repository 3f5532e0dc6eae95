"""The training loop: a generator of progress. It knows neither Ray nor MLflow; who runs it decides what each yield is for."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from components import catalog
from components.config import Recipe
from components.data.histories import with_positives
from components.data.interactions import Interactions
from components.errors import DivergedError, InputError
from components.evaluation import exact, scorers
from components.evaluation.evaluate import SNIPS, Task, validate
from components.evaluation.protocols import logged
from components.negatives import Memory
from components.objectives import Learner, Outcome
from components.training import checkpoint
from components.training.batches import Batch, batches, steps_per_epoch, units
from components.training.collectives import Workers
from components.training.compiled import check_compiler, compiling
from components.training.optimizer import Adam, add_table_gradient, penalty
from components.training_rules import L2
from components.views import similar_for

STEPS_UNCHECKED = 64  # so that a loss that is not finite is found soon, and no step waits for the look at it


@dataclass
class Position:
    """Where training stands: with the weights and the optimiser, all that its future depends on.

    Random draws are keyed by (seed, epoch, step, row): the position is the state of every generator.
    """

    epoch: int = 0  # the one under way
    pass_: int = 0  # of it, in the order of objective.passes
    step: int = 0  # the next one of the pass
    losses: list[float] = field(default_factory=list)  # a sum over the rows of each pass of the epoch so far, all workers
    alone: int = 0  # rows of the epoch's model's pass so far that had no candidate which counts, all workers
    best_epoch: int | None = None
    best_value: float | None = None
    validations_since_best: int = 0
    cuts: int = 0  # of the learning rate, for want of better validations
    finished: bool = False


@dataclass(frozen=True)
class Progress:
    """After a step, or at the end of an epoch, where `metrics` is not None."""

    epoch: int
    step: int  # steps done in this epoch, over all its passes
    steps: int  # of an epoch
    metrics: dict[str, float] | None = None
    improved: bool = False  # these weights are the ones to keep
    checkpoint_due: bool = False
    finished: bool = False


class Trainer:
    """Everything of one worker: encoder, objective, optimiser, position.

    `also` are tasks by their split's name that are measured beside validation, and choose nothing.
    """

    def __init__(
        self,
        recipe: Recipe,
        train: Interactions,
        validation: Task | None,
        workers: Workers,
        device: torch.device,
        also: Mapping[str, Task] | None = None,
    ) -> None:
        self.recipe, self.validation, self.workers, self.device = recipe, validation, workers, device
        self.also = also or {}
        if recipe.scale.compile:
            check_compiler(device.type)
        dtype = torch.float64 if recipe.training.precision == "float64" else torch.float32
        generator = torch.Generator().manual_seed(recipe.seed)
        self.encoder: Any = catalog.build("encoder", recipe.encoder, train, generator).to(device, dtype)
        self.train = train = with_positives(train, self.encoder.window, recipe.objective.get("positives", "rows"))
        if recipe.scale.encode_rows is not None:
            if self.encoder.window is None:
                raise InputError(f"scale.encode_rows: got {recipe.scale.encode_rows}, takes null where no histories are read")
            self.encoder.encode_rows = recipe.scale.encode_rows
        self.sources = [
            catalog.build("negatives", spec, train, workers, f"negatives.{n}") for n, spec in enumerate(recipe.negatives)
        ]
        self.memories: dict[str, Memory] = {
            f"negatives.{n}": each.to(device) for n, each in enumerate(self.sources) if isinstance(each, Memory)
        }
        loss = catalog.build("loss", recipe.loss)
        similar = similar_for(recipe.views, train)
        views = [catalog.build("views", spec, train.num_items, similar) for spec in recipe.views]
        built = self.encoder, loss, self.sources, train, generator, workers, views
        self.objective = catalog.build("objective", recipe.objective, *built)
        self.learners: dict[str, Learner] = self.objective.learners
        self.optimizers = {
            name: Adam(
                learner.module.to(device, dtype),
                recipe.optimizer.learning_rate if learner.learning_rate is None else learner.learning_rate,
                maximise=learner.maximise,
                lazy=recipe.optimizer.lazy and name == "model",
            )
            for name, learner in self.learners.items()
        }
        plateau = recipe.optimizer.plateau
        self.best: Any = None  # the encoder as it validated best, where weights go back to it
        if plateau is not None and plateau.reload:
            self.best = copy.deepcopy(self.encoder).requires_grad_(False)
        for memory in self.memories.values():
            memory.follow(self.encoder)
        self.units = units(train, self.objective.positives)
        self.steps = steps_per_epoch(self.units, recipe.training.batch_size, self.objective.positives)  # of a pass
        self.position = Position()
        self.received_per_step = 0.0  # bytes, in the last epoch's steps
        self._unchecked: list[Tensor] = []  # losses of steps since the last look at them, of each turn
        self._vectors: list[tuple[list[str], Tensor]] = []  # what each of these losses was made of: names and sums
        self._alone = torch.zeros((), dtype=torch.float64, device=device)  # rows of these steps without a candidate

    def run(self) -> Iterator[Progress]:
        """Trains from the present position to the last epoch, or until validation has not improved for `patience` times.

        Raises:
            DivergedError: the loss became NaN or infinite.
        """
        training, position, steps = self.recipe.training, self.position, self.steps
        while not position.finished:
            started, done, steps_done = time.perf_counter(), 0, 0
            received, exchanged = self.workers.received, self.workers.exchange_seconds
            passes = self.objective.passes(position.epoch)
            while position.pass_ < len(passes):
                for batch in self.batches():
                    self._unchecked.append(self.update(batch, passes[position.pass_]))
                    done, steps_done = done + batch.rows, steps_done + 1
                    position.step += 1
                    due = training.checkpoint_steps is not None and position.step % training.checkpoint_steps == 0
                    due = due and position.step < steps
                    if due or len(self._unchecked) == STEPS_UNCHECKED:
                        self._add_losses()
                    step = position.pass_ * steps + position.step
                    yield Progress(position.epoch, step, steps * len(passes), checkpoint_due=due)
                self._add_losses()
                position.pass_, position.step = position.pass_ + 1, 0
            seconds, exchanged = time.perf_counter() - started, self.workers.exchange_seconds - exchanged
            self.received_per_step = (self.workers.received - received) / max(steps_done, 1)
            yield self._end_epoch(passes, self._speed(seconds, done, steps_done, exchanged))

    def update(self, batch: Batch, learner: str = "model") -> Tensor:
        """All updates of a pass on a batch: of the model's, every turn. Returns the loss of each."""
        if learner != "model":
            return self.step(batch, learner).unsqueeze(0)
        losses = [self.step(replace(batch, turn=n), *together) for n, together in enumerate(self.objective.turns)]
        for memory in self.memories.values():
            memory.push(batch)
        return torch.stack(losses)

    def step(self, batch: Batch, *learners: str) -> Tensor:
        """One update of some learners, by default the model; the others rest. Returns the sum of the losses of this worker's
        rows.
        """
        learners = learners or ("model",)
        for name, learner in self.learners.items():
            learner.module.requires_grad_(name in learners)
            if name in learners:
                learner.module.zero_grad()
        l2 = self.recipe.optimizer.l2 if "model" in learners else L2()
        with compiling(self.recipe.scale.compile):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.training.precision == "bfloat16"):
                outcome = self.objective(batch)
            total = outcome.loss_B.sum() / batch.rows + penalty(l2, outcome, batch.rows, self.workers.size)
            total.backward()
        for name in learners:
            module = self.learners[name].module
            self.workers.sum_gradients(module.parameters(), dense=not self.optimizers[name].lazy)
            if name == "model":
                tables = (weight for name, weight in module.named_parameters() if name.endswith("_table"))
                add_table_gradient(l2, tables, batch.rows)
                if self.recipe.optimizer.clip_norm:
                    torch.nn.utils.clip_grad_norm_(module.parameters(), self.recipe.optimizer.clip_norm)
            self.optimizers[name].step()
        self._look(outcome, is_counted="model" in learners and batch.turn == 0)
        return outcome.loss_B.detach().double().sum()

    def _look(self, outcome: Outcome, *, is_counted: bool) -> None:
        """Keeps what a step's loss was made of, as sums that are not finite where it is not; nobody waits for them."""
        names, sums = [*outcome.vectors], [each.detach().sum() for each in outcome.vectors.values()]
        self._vectors.append((names, torch.stack(sums) if sums else torch.empty(0)))
        if outcome.alone_B is not None and is_counted:
            self._alone += outcome.alone_B.sum()

    def validate(self) -> dict[str, float]:
        """The recipe's metric, recall and ndcg on held-out rows: means over their users, the same bits for any workers."""
        assert self.validation is not None, "there is nothing to validate on"
        return self._measure(self.validation)

    def _measure(self, task: Task) -> dict[str, float]:
        scorer = scorers.of(self.encoder, task.history)
        mine = range(task.num_tiles)[self.workers.rank :: self.workers.size]
        metric = self.recipe.training.metric
        k = metric.partition("@")[2]
        names = {metric, f"recall@{k}", f"ndcg@{k}", f"{SNIPS}{k}"}
        values = validate(scorer, task, sorted(names), mine)
        parts = self.workers.gather_objects(values)
        return {name: exact.mean(np.concatenate([part[name] for part in parts])) for name in values}

    def save(self, folder: Path, dataset_fingerprint: str) -> None:
        """Writes weights, memories, optimisers and position; called on every worker, of which most have little to write."""
        position, made_for = asdict(self.position), (self.recipe, dataset_fingerprint)
        checkpoint.save(folder, self._modules(), self.optimizers, position, *made_for, self.workers)

    def restore(self, folder: Path, dataset_fingerprint: str, made_for: Recipe | None = None) -> None:
        """Continues from a checkpoint, made for this recipe, or for `made_for`, which must differ in epochs alone.

        Raises:
            InputError: it was made for another dataset or another recipe.
        """
        wanted = made_for or self.recipe, dataset_fingerprint
        saved = checkpoint.restore(folder, self._modules(), self.optimizers, *wanted, self.workers)
        self.position = Position(**saved)
        self._set_rate()
        self.position.finished = self._is_over(self.position.epoch)

    def _modules(self) -> dict[str, nn.Module]:
        """All that learns or remembers."""
        best = {} if self.best is None else {"best": self.best}
        return {name: learner.module for name, learner in self.learners.items()} | self.memories | best

    def batches(self) -> Iterator[Batch]:
        """The batches of the pass under way, from the present position on."""
        return self._batches(self.position.pass_, self.position.step)

    def _batches(self, pass_: int, first_step: int) -> Iterator[Batch]:
        is_model = pass_ == len(self.objective.passes(self.position.epoch)) - 1
        return batches(
            self.train,
            batch_size=self.recipe.training.batch_size,
            seed=self.recipe.seed,
            epoch=self.position.epoch,
            workers=self.workers,
            device=self.device,
            first_step=first_step,
            positives=self.objective.positives,
            stream="" if is_model else f"pass {pass_}: ",
            window=self.encoder.window,
        )

    def _add_losses(self) -> None:
        """All workers' losses since the last look; no checkpoint is made of what has diverged."""
        position = self.position
        if len(position.losses) == position.pass_:
            position.losses.append(0.0)
        if not self._unchecked:
            return
        *losses, alone = self.workers.sum(torch.cat([*self._unchecked, self._alone.unsqueeze(0)])).tolist()
        position.alone += int(alone)
        steps, turns = len(self._unchecked), len(self._unchecked[0])
        vectors, self._unchecked, self._vectors = self._vectors, [], []
        self._alone.zero_()
        for n, loss in enumerate(losses):
            if not math.isfinite(loss):
                step, turn = position.step - steps + n // turns, n % turns
                first, last = step * self.recipe.training.batch_size + 1, (step + 1) * self.recipe.training.batch_size
                what = "sequences" if self.objective.positives == "sequences" else "rows"
                of_turn = f" in turn {turn + 1}, of {' and '.join(self.objective.turns[turn])}," if turns > 1 else ""
                of = self._not_finite(*vectors[n])
                batch = f"{what} {first} to {min(last, self.units)} in its order"
                self._diverged(step + 1, f"the loss is {loss}{of_turn} on the batch of {batch}{of}")
        position.losses[-1] += sum(losses[::turns])
        if not all(
            bool(torch.isfinite(weight).all()) for module in self.learners.values() for weight in module.module.parameters()
        ):
            self._diverged(position.step, f"the weights are not finite, since one of the last {steps} steps")

    def _not_finite(self, names: list[str], sums: Tensor) -> str:
        """Which of a step's vectors were not, on any worker."""
        mine = [name for name, total in zip(names, sums.tolist(), strict=True) if not math.isfinite(total)]
        found = set().union(*self.workers.gather_objects(mine))
        return f", where {' and '.join(name for name in names if name in found)} are not finite" if found else ""

    def _diverged(self, step: int, what: str) -> NoReturn:
        position = self.position
        learner = self.objective.passes(position.epoch)[position.pass_]
        of, rate = ("", "optimizer.learning_rate") if learner == "model" else (f"{learner}'s ", f"{learner}'s learning rate")
        raise DivergedError(f"epoch {position.epoch + 1}, {of}step {step}: {what}; try a lower {rate}")

    def _speed(self, seconds: float, rows: int, steps: int, exchanged: float) -> dict[str, float]:
        """Of an epoch's steps: rows per second, seconds of one, and the share of them spent in collectives, the mean of all
        workers, where it is known.
        """
        speed = {"rows_per_second": rows / seconds, "step_seconds": seconds / max(steps, 1)}
        if self.workers.is_timed:
            share = torch.tensor(exchanged / seconds, dtype=torch.float64)
            speed["exchange_share"] = float(self.workers.sum(share)) / self.workers.size
        return speed

    def _end_epoch(self, passes: tuple[str, ...], speed: dict[str, float]) -> Progress:
        training, position = self.recipe.training, self.position
        rows = int(self.train.positive_counts().sum())
        if self.objective.positives == "users":  # the last, partial batch is dropped
            rows = min(self.steps * training.batch_size, rows)
        metrics = {"loss": position.losses[-1] / rows, **speed}
        for n in range(len(passes) - 1):
            metrics[f"{passes[n]}_loss"] = position.losses[n] / rows
        if self.recipe.optimizer.plateau is not None:
            metrics["learning_rate"] = self._rate()
        if position.alone:
            metrics["rows_without_candidates"] = float(position.alone)
        if len(passes) > 1 or (self.objective.takes_views and hasattr(self.objective, "diagnose")):
            metrics |= self._diagnosis(len(passes) - 1)
        self.encoder.eval()  # no step is under way
        for name, memory in self.memories.items():
            metrics |= {f"{name}_{what}": value for what, value in memory.told(self.encoder).items()}
        self.encoder.train()
        done = position.epoch + 1
        last = done == training.epochs
        validated = done % training.validate_every == 0 or last
        improved = last if self.validation is None else False
        if validated and self.validation is not None:
            started = time.perf_counter()
            values = self.validate()
            value = values[training.metric]
            metrics |= {training.logged(name): value for name, value in values.items()}
            for split, task in self.also.items():
                found = self._measure(task)
                metrics |= {logged(split, training.protocol, name): each for name, each in found.items()}
            metrics["validation_seconds"] = time.perf_counter() - started
            improved = position.best_value is None or value > position.best_value
            position.validations_since_best = 0 if improved else position.validations_since_best + 1
            if improved:
                position.best_value = value
                if self.best is not None:
                    self.best.load_state_dict(self.encoder.state_dict())
            else:
                self._look_at_plateau()
        if improved:
            position.best_epoch = position.epoch
        finished = self._is_over(done)
        due = validated or finished
        steps = self.steps * len(passes)
        progress = Progress(position.epoch, steps, steps, metrics, improved, checkpoint_due=due, finished=finished)
        position.epoch, position.pass_, position.step, position.finished = done, 0, 0, finished
        position.losses, position.alone = [], 0
        return progress

    def _look_at_plateau(self) -> None:
        """After a validation that was no better, the same on every worker."""
        plateau = self.recipe.optimizer.plateau
        if plateau is None or self.position.validations_since_best % plateau.patience:
            return
        self.position.cuts += 1
        self._set_rate()
        if self.best is not None:
            self.encoder.load_state_dict(self.best.state_dict())

    def _set_rate(self) -> None:
        """Of every learner who has the recipe's."""
        for name, learner in self.learners.items():
            if learner.learning_rate is None:
                self.optimizers[name].set_rate(self._rate())

    def _rate(self) -> float:
        optimizer = self.recipe.optimizer
        if optimizer.plateau is None or not self.position.cuts:
            return optimizer.learning_rate
        return max(optimizer.learning_rate * optimizer.plateau.factor**self.position.cuts, optimizer.plateau.min_lr)

    def _is_over(self, done: int) -> bool:
        """After so many epochs."""
        training = self.recipe.training
        patient = self.position.validations_since_best < training.patience or done < training.min_epochs
        return done >= training.epochs or not patient

    def _diagnosis(self, pass_: int) -> dict[str, float]:
        """Of the last batch of the model's pass, of which each worker looks at its own rows."""
        batch = next(self._batches(pass_, self.steps - 1))
        return self.objective.diagnose(batch, None if self.validation is None else self.validation.truth)
