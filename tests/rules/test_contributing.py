"""CONTRIBUTING's loss is a loss: built by the catalog, it passes the contract as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from components import catalog, losses
from tests.contract import test_parts as contract

ROOT = Path(__file__).parents[2]


def test_the_loss_in_five_lines_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "bpr.py").write_text(code)
    for check in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *check, "--config", str(ROOT / "pyproject.toml"), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
    monkeypatch.setattr(losses, "__path__", [*losses.__path__, str(tmp_path)])  # as if it lay in components/losses
    monkeypatch.setattr(catalog, "names", lambda kind: ["bpr"])
    spec = {"name": "bpr"}
    contract.test_a_loss_is_finite_at_the_lowest_temperatures(spec, torch.float32)
    contract.test_an_excluded_candidate_does_not_count(spec)
    contract.test_neither_order_nor_tiles_matter(spec)
    contract.test_a_losss_gradient_is_that_of_its_value(spec)
    loss = catalog.build("loss", spec)
    positive_B = torch.tensor([0.7, 0.1], dtype=torch.float64)
    scores_BT = torch.tensor([[0.5, 0.2], [-1e30, 0.4]], dtype=torch.float64, requires_grad=True)
    value_B = loss.finish(loss.add(loss.start(positive_B), scores_BT))
    value_B.sum().backward()
    wanted = -torch.nn.functional.logsigmoid(torch.tensor([0.2, 0.5, -0.3], dtype=torch.float64))
    assert torch.allclose(value_B, torch.stack([wanted[0] + wanted[1], wanted[2]]))
    assert scores_BT.grad is not None
    assert scores_BT.grad[1, 0] == 0
