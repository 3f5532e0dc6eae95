"""The slow encoder of a bank of vectors: it follows the encoder, and has what the bank keeps."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
import torch
from torch import Tensor

from components import catalog
from components.errors import InputError
from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.unit.negatives.test_memory_bank import TRAIN, bank_of
from tests.worlds import recipe


@pytest.mark.parametrize("encoder", [{"name": "mf", "dim": 8}, {"name": "lightgcn", "dim": 8, "layers": 2}])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_slow_encoder_in_loops(momentum: float, encoder: dict[str, Any]) -> None:
    """It moves after each step, and has the vectors of that step's batch; nothing of the bank has a gradient."""
    bank = {"name": "memory_bank", "size": 170, "stale": True, "momentum": momentum}
    given = recipe(negatives=[{"name": "in_batch"}, bank], encoder=encoder, optimizer={"learning_rate": 0.05})
    trainer = Trainer(given, TRAIN, None, Workers(), torch.device("cpu"))
    memory: Any = trainer.sources[1]
    slow, kept = catalog.build("encoder", encoder, TRAIN, torch.Generator()).double().eval(), deque[Tensor](maxlen=170)
    weights = {name: weight.detach().clone() for name, weight in trainer.encoder.named_parameters()}
    for _, batch in zip(range(5), trainer.batches(), strict=False):
        trainer.update(batch)
        for name, weight in trainer.encoder.named_parameters():
            weights[name] = momentum * weights[name] + (1 - momentum) * weight.detach()
        slow.load_state_dict(weights)
        kept += slow.items(batch.items_B).vectors.detach()
    found = memory.vectors_SD.roll(-int(memory.cursor), dims=0)
    assert (found - torch.stack([*kept])).abs().max() < 1e-12
    assert not any(weight.requires_grad for weight in memory.parameters())
    assert not {*trainer.encoder.parameters()} & {*memory.parameters()}
    assert memory.told(trainer.encoder.eval())["drift"] > 1e-6


def test_a_slow_encoder_is_of_vectors_that_are_kept() -> None:
    with pytest.raises(InputError, match=r"^negatives\.0\.momentum: got 0\.9, takes null where negatives\.0\.stale is false$"):
        bank_of(5, momentum=0.9)
    with pytest.raises(InputError, match=r"^negatives\.momentum: got 1\.0, takes"):
        bank_of(5, stale=True, momentum=1.0)


def test_a_slow_encoder_shares_the_graph() -> None:
    trainer = Trainer(
        recipe(negatives=[{"name": "memory_bank", "size": 20, "stale": True, "momentum": 0.9}], encoder={"name": "lightgcn"}),
        TRAIN,
        None,
        Workers(),
        torch.device("cpu"),
    )
    memory: Any = trainer.sources[0]
    for ours, slow in zip(trainer.encoder._graphs, memory.slow._graphs, strict=True):
        assert ours is slow
