"""Names of metrics: no two values of a run share one."""

from __future__ import annotations

import itertools

import numpy as np

from components.evaluation import metrics, protocols
from components.evaluation.evaluate import SNIPS, Summary


def test_no_two_values_of_a_run_have_one_name() -> None:
    """Splits may be called as protocols and metrics are: valid_shifted, test_not, valid_mean."""
    kinds = {name.partition("@")[0] for name in Summary([5], np.ones(4, np.int64)).metrics()} | {SNIPS.removesuffix("@")}
    assert {*metrics.NAMES, "f1", "coverage"} < kinds
    words = {word for kind in kinds for word in (kind, *kind.split("_"))} | {"not", "masked", "shifted"}
    splits = ["valid", "test", *(f"{base}_{word}" for base in ("valid", "test") for word in words if "_" not in word)]
    told = [*itertools.product(splits, protocols.PROTOCOLS, kinds)]
    assert len(told) > 500
    assert len({protocols.logged(split, protocol, f"{kind}@5") for split, protocol, kind in told}) == len(told)
