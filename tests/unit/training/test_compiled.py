"""What torch compiles of a fold over tiles is the fold, and who has no compiler hears so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from components.errors import InputError
from components.training import compiled
from components.training.collectives import Workers
from components.training.compiled import check_compiler, compilable, compiling
from components.training.loop import Trainer
from tests.worlds import recipe, small_log, tiles

CPU = torch.device("cpu")
MIXTURE = [{"name": "in_batch"}, {"name": "memory_bank", "size": 70}, {"name": "uniform", "count": 5, "per": "row"}]
SCHEMES: dict[str, dict[str, Any]] = {
    "logq": {"loss": {"name": "sampled_softmax", "temperature": 0.2, "logq": True}},
    "multi_margin": {"loss": {"name": "multi_margin"}},
    "adv_infonce": {"objective": {"name": "adv_infonce", "adv_interval": 1}},
    "bfloat16": {"training": {"batch_size": 49, "precision": "bfloat16"}},
}


def stepped(is_compiled: bool, **sections: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses and gradients of a second step, of which the bank has met something."""
    training = {"batch_size": 49, "precision": "float32"}
    given = recipe(**{"training": training, "negatives": MIXTURE, **sections}, scale={"compile": is_compiled})
    trainer = Trainer(given, small_log().seen, None, Workers(), CPU)
    trainer.position.epoch = 1
    with tiles(rows=20, columns=16, numbers=900):
        _, losses = (trainer.update(batch) for batch in list(trainer.batches())[:2])
    return losses, {name: weight.grad for name, weight in trainer.encoder.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_compiled_step_is_the_same_step(scheme: str) -> None:
    """Tiles of several sizes with masks and counts, in one graph each; sizes are not compiled anew."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    losses, gradients = stepped(False, **SCHEMES[scheme])
    assert not torch._dynamo.utils.counters["stats"]
    found, ours = stepped(True, **SCHEMES[scheme])
    counted = torch._dynamo.utils.counters
    assert 0 < counted["stats"]["unique_graphs"] < 16
    assert not counted["graph_break"]
    to = 2e-2 if scheme == "bfloat16" else 1e-5
    torch.testing.assert_close(found, losses, rtol=to, atol=to)
    assert ours.keys() == gradients.keys()
    for name, wanted in gradients.items():
        assert wanted.abs().max() > 1e-4
        assert (ours[name] - wanted).abs().max() < to * max(1, float(wanted.abs().max()))


@pytest.mark.slow
def test_without_a_compiler_there_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config

    torch._dynamo.reset()
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/nowhere/g++",))
    check_compiler.cache_clear()
    with pytest.raises(InputError, match=r"^scale\.compile: got True, takes False where torch\.compile fails on cpu: \S.*\Z"):
        Trainer(recipe(scale={"compile": True}), small_log().seen, None, Workers(), CPU)


def test_a_compiler_that_fails_is_told_of_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("\nno working compiler\nthere were tried many")

    check_compiler.cache_clear()
    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(compiled, "_tried", compilable(compiled._tried.__wrapped__))  # pyright: ignore
    with pytest.raises(InputError, match=r"^scale\.compile: got True, takes False where .* on cpu: no working compiler$"):
        Trainer(recipe(scale={"compile": True}), small_log().seen, None, Workers(), CPU)


def test_only_within_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda *given: ("compiled", function(*given)))
    twice = compilable(lambda number: 2 * number)
    assert twice(3) == 6
    with compiling(True):
        assert twice(3) == ("compiled", 6)
        with compiling(False):
            assert twice(3) == 6
        assert twice(3) == ("compiled", 6)
    with pytest.raises(ZeroDivisionError), compiling(True):
        _ = 1 / 0
    assert twice(3) == 6


def test_it_is_off_and_changes_no_fingerprint() -> None:
    on, off = (recipe(scale={"compile": is_on}) for is_on in (True, False))
    assert on.fingerprint() == off.fingerprint() == recipe().fingerprint()
    assert not recipe().scale.compile
