"""Ray Train around the training loop: what each worker runs, what the controller hears, what the driver waits for."""

from __future__ import annotations

import resource
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import ray.train
import ray.train.torch
import torch
from ray.train.v2._internal.callbacks import DatasetsCallback

from components import storage
from components.config import Recipe
from components.data import interactions
from components.errors import DivergedError, InputError, WorkerError
from components.evaluation import splits
from components.evaluation.evaluate import Task
from components.evaluation.ranking import check_k
from components.negatives import check_counts, check_memory, full_user
from components.training.checkpoint import MODEL, save_model
from components.training.collectives import Workers
from components.training.loop import Progress, Trainer
from components.views import check_neighbours
from ray_jobs import _checkpoints
from ray_jobs._gauges import Gauges
from ray_jobs._reporter import ERROR, Reporter, read_notices
from ray_jobs._system import SystemSampler
from ray_jobs._tracking import STOPPED, TrackedRun, read_history, write_history

PROGRESS = "progress.json"
LOST = (  # what workers say when another one is gone
    "gloo",
    "NCCL",
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection was closed",
    "Broken pipe",
    "failed to recv, got 0 bytes",
)
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")  # what torch's allocators say
MEMORY, RECEIVED = "system/worker/memory_gib", "system/worker/received_mib_per_step"  # metrics, of the one with most
GPU_MEMORY = "system/worker/gpu_memory_gib"
PROGRESS_SECONDS = 0.5
REPORT_SECONDS = 2.0  # a report waits for the controller's poll: epochs of milliseconds would wait most of the time


def open_data(recipe: Recipe, dataset: Path) -> tuple[interactions.Interactions, Task | None]:
    """The rows to fit on, and those to choose on, with what is masked there.

    Raises:
        InputError: what the recipe asks for is not in them.
    """
    train = interactions.load(dataset, *recipe.training.fit_on.split("+"))
    check_negatives(recipe, train, dataset)
    if recipe.training.select_on == "none":
        return train, None
    return train, task_of(recipe, train, dataset, recipe.training.select_on, "training.select_on")


def check_negatives(recipe: Recipe, train: interactions.Interactions, dataset: Path) -> None:
    """Raises InputError where the log has not what they, or views, are to draw or remember, or a worker has no room for it."""
    check_counts(recipe.negatives, train.num_items, len(train))
    check_neighbours(recipe.views, train.num_items)
    check_memory(recipe)
    if full := full_user(recipe.negatives, train):
        (raw,) = pq.read_table(dataset / "users.parquet", filters=[("id", "==", full[1])])["raw"].to_pylist()
        raise InputError(
            f"negatives.{full[0]}: user {raw!r} has all {train.num_items} items in training, takes users with one left to draw"
        )


def task_of(recipe: Recipe, train: interactions.Interactions, dataset: Path, split: str, name: str) -> Task:
    """What validation asks on a split, which the recipe's key `name` asks for.

    Raises:
        InputError: the dataset has no such split, or fewer items than are to be listed.
    """
    check_k(int(recipe.training.metric.partition("@")[2]), train.num_items, "training.metric")
    task = splits.task_of(dataset, split, name)
    return task if recipe.training.mask_seen else splits.unmasked(task)


def train_worker(config: dict[str, str]) -> dict[str, Any]:
    """One of Train's workers. Returns {} or {"error": a mistake that no retry mends}.

    Ray Train counts errors and lost workers alike, and tries both again. So an error is written down before it is raised (the
    others wait in a collective: they must be ended), and a try that finds one written ends.
    """
    run = Path(config["run"])
    try:
        is_over = (run / ERROR).exists() or (run / STOPPED).exists()  # asked to end while it waited for its place
        if any(Workers().gather_objects(is_over)):  # all alike: over a network a file is seen by one before another
            return {}
        _train(Recipe.from_json(config["recipe"]), Path(config["dataset"]), run, config["also_on"])
    except (InputError, DivergedError) as error:  # on every worker alike: raised, Ray would try it again
        return {"error": f"{type(error).__name__}: {error}", "input": isinstance(error, InputError)}
    except Exception as error:
        if is_no_memory(error) or not any(said in str(error) for said in LOST):  # NCCL lacks memory too
            kind = "out of memory" if is_no_memory(error) else "error"
            storage.write_json(run / ERROR, {"kind": kind, "text": traceback.format_exc()})
        raise
    return {}


def is_no_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(said in str(error) for said in NO_MEMORY)


def _train(recipe: Recipe, dataset: Path, run: Path, also_on: str) -> None:
    began = time.time()
    torch.set_num_threads(recipe.scale.cpus_per_worker)
    context = ray.train.get_context()
    trainer, fingerprint, history = _start(recipe, dataset, run, also_on)
    sampler = SystemSampler(context.get_node_rank()) if context.get_local_rank() == 0 else None
    board = _Board(run, began) if context.get_world_rank() == 0 else None
    if board is not None:
        write_history(run, history)  # a killed controller may have had no time to
    _follow(trainer, Reports(trainer, fingerprint, history), sampler, board, run / STOPPED)


def _follow(
    trainer: Trainer, reports: Reports, sampler: SystemSampler | None, board: _Board | None, stopped: Path | None = None
) -> None:
    """Trains to the end; or to that of an epoch, once `stopped` is there, all workers alike."""
    try:
        for progress in trainer.run():
            if progress.metrics is not None:
                reports.add_epoch(progress, sampler.read() if sampler else {})
            if board is not None:
                board.show(progress, trainer)
            if progress.checkpoint_due:
                reports.add_checkpoint(progress)
            ends_epoch = progress.metrics is not None and not progress.finished
            if ends_epoch and stopped is not None and trainer.workers.gather_objects(stopped.exists())[0]:
                reports.send()
                return
    except DivergedError:
        reports.send()
        raise


def measured(trainer: Trainer) -> dict[str, float]:
    """This worker's peak of memory so far, Python's own included, and what it received from others in a step of the epoch; that
    of tensors on its GPU, if it has one.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # of kibibytes
    told = {MEMORY: peak, RECEIVED: trainer.received_per_step / 2**20}
    if trainer.device.type == "cuda":
        told[GPU_MEMORY] = torch.cuda.max_memory_allocated(trainer.device) / 2**30
    return told


class Reports:
    """What Train hears of: epochs and checkpoints, at the end of an epoch every REPORT_SECONDS at most, from all workers alike.

    The checkpoint of an epoch that is not told yet waits with the workers: an end by an error tells it too. Each reports the
    files that it wrote, which Train brings together in one folder.
    """

    def __init__(
        self,
        trainer: Trainer,
        fingerprint: str,
        history: list[dict[str, Any]],
        report: Callable[..., None] = ray.train.report,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trainer, self._fingerprint, self._history = trainer, fingerprint, history
        self._report, self._clock = report, clock
        self._is_first = trainer.workers.rank == 0
        self._folder = tempfile.TemporaryDirectory()
        self._sent, self._sent_at = len(history), clock()
        self._is_due = self._has_checkpoint = False

    def add_epoch(self, progress: Progress, system: dict[str, float]) -> None:
        """Of all nodes: each that is sampled gives what its system does; of the workers the one that takes most."""
        assert progress.metrics is not None, "an epoch has metrics"
        own = {"waited": self._clock() - self._sent_at, "system": system, "worker": measured(self._trainer)}
        told = self._trainer.workers.gather_objects(own)
        of_workers = {name: max(each["worker"][name] for each in told) for name in own["worker"]}
        metrics = progress.metrics | {name: value for each in told for name, value in each["system"].items()}
        metrics |= of_workers
        self._history.append({"time": time.time(), "step": progress.epoch + 1, "metrics": metrics})
        self._is_due = progress.finished or told[0]["waited"] > REPORT_SECONDS  # by one clock: all report, or none

    def add_checkpoint(self, progress: Progress) -> None:
        folder = Path(self._folder.name)
        self._trainer.save(folder, self._fingerprint)
        if self._is_first:
            write_history(folder, self._history)
        self._has_checkpoint = any(folder.iterdir())
        if progress.metrics is None or self._is_due:
            self.send()

    def send(self) -> None:
        """By every worker, or by none."""
        metrics = {"history": self._history[self._sent :]} if self._is_first else {}
        checkpoint = ray.train.Checkpoint.from_directory(self._folder.name) if self._has_checkpoint else None
        self._report(metrics, checkpoint=checkpoint)
        self._sent, self._sent_at, self._has_checkpoint = len(self._history), self._clock(), False


def _start(recipe: Recipe, dataset: Path, run: Path, also_on: str) -> tuple[Trainer, str, list[dict[str, Any]]]:
    """The trainer, where the last checkpoint left it; the dataset's fingerprint; every epoch so far.

    Raises:
        InputError: on all workers, whichever met it.
    """
    started, mistake = None, None
    try:
        started = _start_alone(recipe, dataset, run, also_on)
    except InputError as error:
        mistake = str(error)
    mistakes = list(filter(None, Workers().gather_objects(mistake)))
    if mistakes:
        raise InputError(mistakes[0])
    assert started is not None, "neither a trainer nor a mistake"
    return started


def _start_alone(recipe: Recipe, dataset: Path, run: Path, also_on: str) -> tuple[Trainer, str, list[dict[str, Any]]]:
    train, validation = open_data(recipe, dataset)
    also = {also_on: task_of(recipe, train, dataset, also_on, "search.against")} if also_on else {}
    fingerprint = storage.read_json(dataset / storage.MANIFEST)["fingerprint"]
    trainer = Trainer(recipe, train, validation, Workers(), ray.train.torch.get_device(), also)
    last, begun, made_for = ray.train.get_checkpoint(), run / _checkpoints.BEGUN, recipe
    if last is None and begun.is_dir():
        last = ray.train.Checkpoint.from_directory(begun)
        made_for = Recipe.from_json((begun / "recipe.json").read_text(encoding="utf-8"))
    if last is None:
        return trainer, fingerprint, []
    with last.as_directory() as folder:
        trainer.restore(Path(folder), fingerprint, made_for)
        return trainer, fingerprint, read_history(Path(folder))


class _Board:
    """In the run's folder: the best weights, and where training stands, a small file that the driver (or a person) reads."""

    def __init__(self, run: Path, began: float) -> None:
        (run / "model").mkdir(exist_ok=True)  # there already where a run is resumed or extended
        self._path = run / PROGRESS
        self._shown = 0.0
        self._times = {"began": began, "loaded": time.time()}  # of this try: a retry begins anew
        self._loss: float | None = None

    def show(self, progress: Progress, trainer: Trainer) -> None:
        if progress.improved:
            save_model(self._path.parent / "model" / MODEL, trainer.encoder)
        now = time.time()
        self._times.setdefault("first_step", now)
        if progress.metrics is not None:
            self._loss = progress.metrics["loss"]
        if progress.metrics is None and now - self._shown < PROGRESS_SECONDS:
            return
        self._shown = now
        state = {
            "epoch": progress.epoch,
            "epochs": trainer.recipe.training.epochs,
            "done": trainer.position.epoch,  # whole epochs
            "step": progress.step,
            "steps": progress.steps,
            "best": trainer.position.best_value,
            "best_epoch": trainer.position.best_epoch,
            "loss": self._loss,  # of the last whole epoch
            **self._times,
            "finished": progress.finished,
        }
        storage.write_json(self._path, state)


class _TorchTrainer(ray.train.torch.TorchTrainer):
    """Without Ray Data's shards, of which no training takes any: their manager would be one more process of each."""

    def _create_default_callbacks(self) -> list[Any]:
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, DatasetsCallback)]


def fit(
    recipe: Recipe,
    dataset: Path,
    run: Path,
    tracked: TrackedRun,
    callbacks: Sequence[ray.train.UserCallback] = (),
    tries: int = 3,
    also_on: str = "",
) -> None:
    """Trains under Ray Train, in the run's folder; continues from its last checkpoint where it has one.

    `callbacks` hear of every report, after ours. The controller asks for its workers' places `tries` times, -1 for ever.
    `also_on` is another split that is measured whenever the run validates.

    Raises:
        InputError, DivergedError, WorkerError: no retry would help.
        Exception: Ray's, when workers were lost more often than scale.max_failures.
    """
    scale = recipe.scale
    resources = {"CPU": float(scale.cpus_per_worker)} | ({"GPU": 1.0} if scale.use_gpu else {})
    trainer = _TorchTrainer(
        train_worker,
        train_loop_config={"recipe": recipe.to_json(), "dataset": str(dataset), "run": str(run), "also_on": also_on},
        scaling_config=ray.train.ScalingConfig(
            num_workers=scale.num_workers, use_gpu=scale.use_gpu, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name=run.name,
            storage_path=str(run.parent),
            failure_config=ray.train.FailureConfig(max_failures=scale.max_failures, controller_failure_limit=tries),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            callbacks=[Reporter(tracked, run, scale.max_failures), Gauges(recipe.name, run.name), *callbacks],
        ),
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if scale.use_gpu else "gloo"),
    )
    _checkpoints.mend(run)
    (run / ERROR).unlink(missing_ok=True)  # of a run that is resumed
    handler = signal.getsignal(signal.SIGINT)
    try:
        outcome = trainer.fit().return_value or {}
    except SystemExit:  # Ray's way to say that it was interrupted
        raise KeyboardInterrupt from None
    except Exception:
        _raise_written(run)
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
    if "error" in outcome:
        raise (InputError if outcome["input"] else DivergedError)(outcome["error"].partition(": ")[2])
    _raise_written(run)


def _raise_written(run: Path) -> None:
    if (run / ERROR).exists():
        raise WorkerError(**storage.read_json(run / ERROR)) from None


class Watching(threading.Thread):
    """Reads the run's folder while the driver waits: shows progress.json whenever it changed, says each new notice."""

    def __init__(self, run: Path, show: Callable[[dict[str, Any]], None], say: Callable[[str], None]) -> None:
        super().__init__(daemon=True)
        self._run, self._show, self._say, self._ended = run, show, say, threading.Event()
        self._shown, self._said = None, len(read_notices(run))

    def __enter__(self) -> Watching:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()
        self._look()

    def run(self) -> None:
        while not self._ended.wait(PROGRESS_SECONDS / 2):
            self._look()

    def _look(self) -> None:
        path = self._run / PROGRESS
        if path.exists() and (state := storage.read_json(path)) != self._shown:
            self._show(state)
            self._shown = state
        for notice in read_notices(self._run)[self._said :]:
            self._say(notice)
            self._said += 1
