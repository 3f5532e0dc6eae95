"""Weights, optimiser and position on disk: safetensors and JSON, nothing that runs when it is read.

Of what memories share out each worker writes its own share, and reads what it needs of the shares there are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from components import catalog, storage
from components.config import Recipe
from components.data import interactions
from components.data.interactions import Interactions
from components.errors import InputError
from components.evaluation import scorers
from components.evaluation.scorers import Scorer
from components.negatives import Memory
from components.training.collectives import Workers
from components.training.optimizer import Adam

MODEL, POSITION, SHARE = "model.safetensors", "position.json", "share"
ROWS_AT_ONCE = 2**16  # of a share that are looked through


def save_model(path: Path, module: nn.Module) -> None:
    """Writes the weights, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}, partial)
    partial.replace(path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Raises InputError where the file is another one than safetensors, as a pickle, which would run what it holds."""
    with _refusing(path):
        return load_file(path)


def _opened(path: Path) -> Any:
    """A file of tensors, to be read piece by piece; raises as load_tensors."""
    with _refusing(path):
        return safe_open(path, "pt")


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise InputError(f"{path}: got no safetensors ({error}), takes weights as training writes them") from error


def save(
    folder: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Adam],
    position: dict[str, Any],
    recipe: Recipe,
    dataset_fingerprint: str,
    workers: Workers,
) -> None:
    """Writes all that the future of a training depends on: of each learner, by name, its weights and its optimiser.

    A module without an optimiser is a memory (components.negatives). Called on every worker: the first writes what all have
    alike, each its shares of memories, into one folder or into folders that become one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    memories = {name: module for name, module in modules.items() if isinstance(module, Memory)}
    shares = {name: share for name, memory in memories.items() if (share := memory.share()) is not None}
    for name, share in shares.items():
        save_file({SHARE: share.cpu()}, folder / _share_file(name, workers.rank, workers.size))
    if workers.rank:
        return
    for learner, module in modules.items():
        save_model(folder / f"{learner}.safetensors", module)
        if learner not in optimizers:
            continue
        moments = optimizers[learner].state_dict()
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in moments.items()},
            folder / f"{learner}_optimizer.safetensors",
        )
    made_for = {"dataset": dataset_fingerprint, "recipe": recipe.fingerprint()}
    shared_by = dict.fromkeys(shares, workers.size)
    storage.write_json(folder / POSITION, {"position": position, "made_for": made_for, "shared_by": shared_by})


def restore(
    folder: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Adam],
    recipe: Recipe,
    dataset_fingerprint: str,
    workers: Workers,
) -> dict[str, Any]:
    """Loads weights, memories and optimisers in place and returns the position.

    Raises:
        InputError: the checkpoint was made for another dataset or another recipe, a worker's share is not in it, or a file is
            not of the form that training writes.
    """
    saved = storage.read_object(folder / POSITION, "a position as training writes it")
    for what, wanted in (("dataset", dataset_fingerprint), ("recipe", recipe.fingerprint())):
        if saved["made_for"][what] != wanted:
            raise InputError(f"checkpoint {folder}: made for {what} {saved['made_for'][what]}, takes one of {what} {wanted}")
    for learner, module in modules.items():
        module.load_state_dict(load_tensors(folder / f"{learner}.safetensors"))
        if learner not in optimizers:
            continue
        optimizers[learner].load_state_dict(load_tensors(folder / f"{learner}_optimizer.safetensors"))
    for name, sharing in saved.get("shared_by", {}).items():  # earlier checkpoints say nothing of it
        memory = modules[name]
        assert isinstance(memory, Memory), f"{name} shares nothing out"
        memory.take(_own_share(folder, name, sharing, memory.size, workers))
    return saved["position"]


def _share_file(name: str, rank: int, sharing: int) -> str:
    return f"{name}.{rank}of{sharing}.safetensors"


def _own_share(folder: Path, name: str, sharing: int, size: int, workers: Workers) -> Tensor:
    """This worker's rows out of the shares of so many workers; of each no more than ROWS_AT_ONCE are in memory at a time."""
    own = None
    for rank in range(sharing):
        path = folder / _share_file(name, rank, sharing)
        if not path.exists():
            raise InputError(f"checkpoint {folder}: has no {path.name}, takes the shares of all {sharing} workers that made it")
        with _opened(path) as file:
            share = file.get_slice(SHARE)
            if own is None:
                rows = max(len(range(workers.rank, size, workers.size)), 1)
                own = share[:1].new_zeros(rows, *share.get_shape()[1:])
            for first in range(0, len(range(rank, size, sharing)), ROWS_AT_ONCE):
                row_N = torch.arange(rank + first * sharing, min(rank + (first + ROWS_AT_ONCE) * sharing, size), sharing)
                mine_N = row_N % workers.size == workers.rank
                if mine_N.any():
                    own[row_N[mine_N] // workers.size] = share[first : first + len(row_N)][mine_N]
    assert own is not None, "a checkpoint is made by at least one worker"
    return own


@dataclass(frozen=True)
class TrainedRun:
    """A finished run, its best weights loaded."""

    folder: Path
    dataset: Path
    recipe: Recipe
    manifest: dict[str, Any]
    encoder: Any

    def scorer(self, log: Interactions) -> Scorer:
        """Of the weights; `log` is what an encoder that reads histories reads of a user."""
        return scorers.of(self.encoder, log)


def open_run(run: Path, dataset: Path) -> TrainedRun:
    """Loads a finished run for the dataset that it was trained on.

    Raises:
        InputError: the run or the dataset is not finished, or the run was trained on another dataset.
    """
    manifest = storage.open_finished(run, "run")
    fingerprint = storage.open_finished(dataset, "dataset")["fingerprint"]
    if manifest["dataset"] != fingerprint:
        raise InputError(f"run {run}: trained on dataset {manifest['dataset']}, takes one trained on dataset {fingerprint}")
    recipe = Recipe.from_json((run / "recipe.json").read_text(encoding="utf-8"))
    train = interactions.load(dataset, *recipe.training.fit_on.split("+"))
    encoder = catalog.build("encoder", recipe.encoder, train, torch.Generator().manual_seed(recipe.seed))
    encoder.load_state_dict(load_tensors(run / "model" / MODEL))
    return TrainedRun(run, dataset, recipe, manifest, encoder.eval())
