"""Histories encoded some at a time, and again in the backward pass: the step is the undivided one, and less is held."""

from __future__ import annotations

import contextlib
from typing import Any
from unittest import mock

import pytest
import torch

from components.errors import InputError
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.worlds import recipe, small_log

TASK = small_log()
ENCODERS: dict[str, dict[str, Any]] = {
    "sasrec": {"name": "sasrec", "dim": 8, "inner_dim": 16, "max_length": 7, "init_std": 0.5, "dropout": 0.4},
    "mean_pool": {"name": "mean_pool", "dim": 8, "inner_dim": 16, "init_std": 0.5},
}


def trainer_of(encode_rows: int | None, encoder: str = "sasrec", positives: str = "rows", batch_size: int = 45) -> Trainer:
    settings: dict[str, Any] = {
        "data": {"source": "log.csv", "split": {"by": "leave_one_out"}},
        "encoder": ENCODERS[encoder],
        "objective": {"name": "supervised", "positives": positives},
        "negatives": [{"name": "in_batch"}, {"name": "uniform", "count": 5, "per": "row"}],
        "loss": {"name": "sampled_softmax", "temperature": 0.2, "logq": True},
        "optimizer": {"l2": {"weight": 0.1, "on": "rows"}},
        "training": {"batch_size": batch_size, "precision": "float64"},
        "scale": {"encode_rows": encode_rows},
    }
    return Trainer(recipe(**settings), TASK.seen, None, Workers(), torch.device("cpu"))


@pytest.mark.parametrize("encode_rows", [1, 7, 44])
@pytest.mark.parametrize("positives", ["rows", "sequences"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_step_in_slices_is_the_undivided_one(encoder: str, positives: str, encode_rows: int) -> None:
    whole, sliced = (trainer_of(count, encoder, positives) for count in (None, encode_rows))
    first, second = (float(each.step(next(each.batches()))) for each in (whole, sliced))
    assert second == pytest.approx(first, rel=1e-12)
    compared = 0
    for (name, ours), theirs in zip(sliced.encoder.named_parameters(), whole.encoder.parameters(), strict=True):
        assert (ours.grad - theirs.grad).abs().max() < 1e-12, name
        compared += bool(theirs.grad.abs().max() > 1e-4)
    assert compared >= 4


def test_no_more_than_a_slice_is_encoded_or_held_at_once() -> None:
    """Each slice twice; between forward and backward pass a few numbers for each row, not what layers need."""
    held: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        held[-1] += tensor.numel()
        return tensor

    asked: list[int] = []
    for count in (None, 5):
        trainer = trainer_of(count, batch_size=400)
        batch, encode = next(trainer.batches()), trainer.encoder.encode
        held.append(0)

        def counting(histories: Any, *rest: Any, encode: Any = encode) -> torch.Tensor:
            asked.append(len(histories.lengths_S))
            return encode(histories, *rest)

        with mock.patch.object(trainer.encoder, "encode", counting):
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                vectors_BD = trainer.encoder.queries(batch).vectors
            vectors_BD.sum().backward()
    rows = asked.pop(0)
    assert max(asked) == 5
    assert sum(asked) == 2 * rows > 600
    assert held[1] < held[0] / 20


VIEWS: dict[str, dict[str, Any]] = {
    "mclrec": {
        "objective": {"name": "mclrec", "lambda_": 0.5, "beta": 1.0},
        "views": [{"name": "crop"}, {"name": "reorder"}],
        "negatives": [{"name": "in_batch"}],
    },
    "ccl4rec": {
        "objective": {"name": "ccl4rec", "positive_views": 2, "negative_views": 1, "warm_up": 0},
        "views": [{"name": "replace"}, {"name": "replace", "replaces": "indispensable"}],
        "negatives": [{"name": "in_batch"}, {"name": "memory_bank", "size": 70}],
    },
}


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("objective", VIEWS)
def test_views_are_sliced_too(objective: str, encoder: str) -> None:
    """Dropout draws are those of the undivided step; all that is encoded for the backward pass is, a slice at a time."""
    settings: dict[str, Any] = {
        "data": {"source": "log.csv", "split": {"by": "leave_one_out"}},
        "encoder": ENCODERS[encoder],
        "training": {"batch_size": 45, "precision": "float64"},
        **VIEWS[objective],
    }
    gradients, asked = [], []
    for rows in (None, 7):
        trainer = Trainer(recipe(**settings, scale={"encode_rows": rows}), TASK.seen, None, Workers(), torch.device("cpu"))
        trainer.position.epoch = 2
        patches = []
        for name in {"encode", "encode_replaced"} & set(dir(trainer.encoder)):
            encode = getattr(trainer.encoder, name)

            def counting(histories: Any, *rest: Any, encode: Any = encode, **named: Any) -> torch.Tensor:
                asked.append(len(histories.lengths_S))
                return encode(histories, *rest, **named)

            patches.append(mock.patch.object(trainer.encoder, name, counting))
        with contextlib.ExitStack() as stack:
            for patch in patches:
                stack.enter_context(patch)
            loss = trainer.step(next(trainer.batches()))
        gradients.append([loss, *(weight.grad for weight in trainer.encoder.parameters())])
        assert max(asked) == (rows or 45)
        asked.clear()
    for found, wanted in zip(*gradients, strict=True):
        assert wanted.abs().max() > 1e-4
        assert (found - wanted).abs().max() < 1e-11 * max(wanted.abs().max(), 1)


def test_only_encoders_of_histories_take_slices() -> None:
    with pytest.raises(InputError, match=r"^scale\.encode_rows: got 64, takes null where no histories are read$"):
        Trainer(recipe(scale={"encode_rows": 64}), TASK.seen, None, Workers(), torch.device("cpu"))
