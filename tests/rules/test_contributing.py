"""CONTRIBUTING's loss is the one that is there, and it passes the contract."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from components.losses import bpr
from tests.contract import test_parts as contract


def test_the_loss_in_five_lines_is_one() -> None:
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert re.findall(r"```python\n(.*?)```", text, re.DOTALL) == [Path(bpr.__file__).read_text(encoding="utf-8")]
    spec = {"name": "bpr"}
    assert spec in contract.LOSSES
    contract.test_a_loss_is_finite_at_the_lowest_temperatures(spec, 1e-4, torch.float32)
    contract.test_an_excluded_candidate_does_not_count(spec)
    contract.test_neither_order_nor_tiles_matter(spec)
    contract.test_a_losss_gradient_is_that_of_its_value(spec)
