"""Bytes by the number of items: what is measured, and what the report says of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.benchmarks import _report_speed, catalogue


@pytest.mark.parametrize("lazy", [False, True])
def test_a_worker_tells_of_its_steps(monkeypatch: pytest.MonkeyPatch, lazy: bool) -> None:
    for name, value in (("ROWS", 500), ("USERS", 50), ("BATCH", 60), ("POOL", 20), ("SIZES", (100,))):
        monkeypatch.setattr(catalogue, name, value)
    told = catalogue.worker(lazy, 1000, 3)
    assert told["seconds"] > 0
    assert told["received"] == 0, "there is no other"


@pytest.mark.parametrize(("last", "said"), [(2e6, "1.000, within the limit"), (4e6, "2.000, **not within** the limit")])
def test_a_report_says_whether_bytes_grow(last: float, said: str) -> None:
    def of(received: float) -> Any:
        return {"100000": {"seconds": 0.1, "received": 2e6}, "1000000": {"seconds": 1.5, "received": received}}

    figures = catalogue.told_of({"dense": of(2e6), "lazy": of(last)})
    text = "\n".join(_report_speed.catalogue({"figures": figures}))
    assert f"| 1,000,000 | 61 | 1.91 | 1,500 | {last / 2**20:.2f} | 1,500 |" in text
    assert said in text
