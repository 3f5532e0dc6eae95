"""Weights, optimiser and position on disk: safetensors and JSON, nothing that runs when it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from components import catalog, storage
from components.config import Recipe
from components.data import interactions
from components.data.interactions import Interactions
from components.errors import InputError
from components.evaluation import scorers
from components.evaluation.scorers import Scorer

MODEL, POSITION = "model.safetensors", "position.json"


def save_model(path: Path, module: nn.Module) -> None:
    """Writes the weights, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}, partial)
    partial.replace(path)


def save(
    folder: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    position: dict[str, Any],
    recipe: Recipe,
    dataset_fingerprint: str,
) -> None:
    """Writes all that the future of a training depends on: of each learner, by name, its weights and its optimiser.

    A module without an optimiser is a memory (components.negatives).
    """
    folder.mkdir(parents=True, exist_ok=True)
    for learner, module in modules.items():
        save_model(folder / f"{learner}.safetensors", module)
        if learner not in optimizers:
            continue
        moments = {
            f"{index}.{name}": value.detach().cpu().contiguous()
            for index, values in optimizers[learner].state_dict()["state"].items()
            for name, value in values.items()
        }
        save_file(moments, folder / f"{learner}_optimizer.safetensors")
    made_for = {"dataset": dataset_fingerprint, "recipe": recipe.fingerprint()}
    storage.write_json(folder / POSITION, {"position": position, "made_for": made_for})


def restore(
    folder: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    recipe: Recipe,
    dataset_fingerprint: str,
) -> dict[str, Any]:
    """Loads weights, memories and optimisers in place and returns the position.

    Raises:
        InputError: the checkpoint was made for another dataset or another recipe.
    """
    saved = storage.read_json(folder / POSITION)
    for what, wanted in (("dataset", dataset_fingerprint), ("recipe", recipe.fingerprint())):
        if saved["made_for"][what] != wanted:
            raise InputError(f"checkpoint {folder}: made for {what} {saved['made_for'][what]}, takes one of {what} {wanted}")
    for learner, module in modules.items():
        module.load_state_dict(load_file(folder / f"{learner}.safetensors"))
        if learner not in optimizers:
            continue
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in load_file(folder / f"{learner}_optimizer.safetensors").items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        optimizer = optimizers[learner]
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return saved["position"]


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
    encoder.load_state_dict(load_file(run / "model" / MODEL))
    return TrainedRun(run, dataset, recipe, manifest, encoder.eval())
