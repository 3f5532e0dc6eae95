"""The gradient that Adam is given: clipped as a whole, L2 on tables included and on nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from components.training.collectives import Workers
from components.training.loop import Trainer
from tests.worlds import recipe, small_log

SIMPLEX = {"name": "simplex", "dim": 8, "init_std": 0.5}


def after_a_step(**optimizer: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights before a step, and the gradients that it was made with."""
    trainer = Trainer(recipe(encoder=SIMPLEX, optimizer=optimizer), small_log().seen, None, Workers(), torch.device("cpu"))
    weights = {name: p.detach().clone() for name, p in trainer.encoder.named_parameters()}
    trainer.step(next(trainer.batches()))
    return weights, {name: p.grad for name, p in trainer.encoder.named_parameters() if p.grad is not None}


def norm(gradients: dict[str, torch.Tensor]) -> float:
    return torch.cat([gradient.flatten() for gradient in gradients.values()]).norm().item()


@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_clipping_scales_all_gradients_alike_to_the_norm_with_l2_inside(weight: float) -> None:
    l2 = {"weight": weight, "on": "tables", "reduce": "sum"}
    _, free = after_a_step(l2=l2)
    whole = norm(free)
    _, clipped = after_a_step(l2=l2, clip_norm=whole / 4)
    assert len(clipped) == 6
    assert norm(clipped) == pytest.approx(whole / 4, rel=1e-5)  # torch adds 1e-6 to the norm it divides by
    for name, gradient in free.items():
        assert torch.allclose(clipped[name], gradient / 4, rtol=1e-5)


def test_a_shorter_gradient_is_left_as_it_is() -> None:
    _, free = after_a_step()
    _, clipped = after_a_step(clip_norm=norm(free) * 1.01)
    assert all(torch.equal(clipped[name], gradient) for name, gradient in free.items())


def test_l2_on_tables_leaves_linear_layers_alone() -> None:
    weights, free = after_a_step()
    _, with_l2 = after_a_step(l2={"weight": 0.5, "on": "tables", "reduce": "sum"})
    tables = {"user_table", "item_table", "history_table"}
    for name, gradient in free.items():
        wanted = gradient + 0.5 * weights[name] if name in tables else gradient
        assert torch.allclose(with_l2[name], wanted, rtol=1e-12), name
    assert tables < set(free)
