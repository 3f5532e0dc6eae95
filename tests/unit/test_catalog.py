"""A part is found by its file's name and configured by its constructor's signature."""

from __future__ import annotations

import pytest

from components import catalog
from components.errors import InputError
from components.losses.sampled_softmax import SampledSoftmax


def test_a_file_is_a_part() -> None:
    assert "sampled_softmax" in catalog.names("loss")
    assert catalog.find("loss", "sampled_softmax") is SampledSoftmax
    assert not any(name.startswith("_") for kind in catalog.FOLDERS for name in catalog.names(kind))


def test_the_signature_is_the_schema() -> None:
    assert catalog.check("loss", {"name": "sampled_softmax"}) == {"temperature": 0.1, "logq": False}
    built = catalog.build("loss", {"name": "sampled_softmax", "temperature": 0.5})
    assert built.temperature == 0.5


@pytest.mark.parametrize("name", ["_log_sum_exp", "../config", "os", None, 3])
def test_nothing_else_can_be_named(name: object) -> None:
    with pytest.raises(InputError, match=r"loss.name: got .*, takes one of .*sampled_softmax"):
        catalog.find("loss", name)


def test_a_part_of_a_list_is_named_by_its_place() -> None:
    with pytest.raises(InputError, match=r"^views.0.name: got 'warp', takes one of crop, .*substitute$"):
        catalog.check("views", {"name": "warp"}, path="views.0")
