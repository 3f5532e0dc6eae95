"""What a recipe is called by: equal where the same is computed, and as it was where what came later is not used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import pytest

from components import catalog, config
from components.data import manifest
from components.data.sources import SourcePlan
from components.section import Newer, Section

RECIPE: dict[str, Any] = {
    "name": "small",
    "data": {"source": "/logs/log.csv"},
    "encoder": {"name": "mf"},
    "loss": {"name": "sampled_softmax"},
    "negatives": [
        {"name": "uniform", "count": 8},
        {"name": "popularity", "count": 8},
        {"name": "memory_bank", "size": 8},
        {"name": "in_batch"},
    ],
}
# what was computed before any key was newer (of data, in its third layout): a key that comes without the mark changes them
AT_FIRST = {"recipe": "692c57295bec", "data": "eee86f5201e9"}


def changed(key: str, value: Any) -> config.Recipe:
    tree = config.parse(RECIPE).model_dump()
    node: Any = tree
    *parents, leaf = key.split(".")
    for name in parents:
        node = node[int(name)] if isinstance(node, list) else node[name]
    node[leaf] = value
    return config.parse(tree)


NEWER = {
    "training.mask_seen": (True, False),
    "optimizer.lazy": (False, True),
    "optimizer.plateau": (None, {"patience": 1}),
    "data.time_units": ("keep", "seconds"),
    "data.on_bad_file": ("fail", "quarantine"),
    "negatives.0.hardest": (None, 3),
    "negatives.1.hardest": (None, 3),
    "negatives.2.stale": (False, True),
    "negatives.3.exchange": ("gather", "ring"),
    "negatives.2.momentum": (None, 0.9),
    "negatives.2.max_age": (None, 2),
    "negatives.2.warm_up": (0, 1),
}


@pytest.mark.parametrize("key", NEWER)
def test_a_newer_key_counts_where_it_is_used(key: str) -> None:
    default, other = NEWER[key]
    base = config.parse(RECIPE)
    assert changed(key, default).fingerprint() == base.fingerprint()
    assert changed(key, other).fingerprint() != base.fingerprint()
    assert changed(key, default).to_json() == base.to_json()
    assert config.Recipe.from_json(changed(key, other).to_json()).fingerprint() == changed(key, other).fingerprint()


def test_no_key_has_come_without_the_mark() -> None:
    base = config.parse(RECIPE)
    assert base.fingerprint() == AT_FIRST["recipe"]
    assert manifest.fingerprint(base, SourcePlan((), "string", "string", None)) == AT_FIRST["data"]


def test_every_mark_is_looked_at() -> None:
    def marked(section: type[Section], path: str) -> Iterator[str]:
        for name, field in section.model_fields.items():
            if Newer in field.metadata:
                yield f"{path}{name}"
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                yield from marked(field.annotation, f"{path}{name}.")

    found = {*marked(config.Recipe, "")}
    assert found == {key for key in NEWER if not key.startswith("negatives")}
    for kind in catalog.FOLDERS:
        for name in catalog.names(kind):
            spec = {"name": name, **catalog.check(kind, {"name": name})}
            found |= {f"{name}.{key}" for key in spec.keys() - catalog.settled(kind, spec).keys()}
    parts = [part["name"] for part in RECIPE["negatives"]]
    assert found == {key if "negatives" not in key else f"{parts[int(key[10])]}.{key[12:]}" for key in NEWER}


@pytest.mark.parametrize("key", ["training.mask_seen", "negatives.2.warm_up"])
def test_all_is_tracked_what_is_newer_too(key: str) -> None:
    node: Any = config.parse(RECIPE).model_dump()
    for name in key.split("."):
        node = node[int(name)] if isinstance(node, list) else node[name]
    assert node == NEWER[key][0]


def test_an_old_key_counts_at_its_default_too() -> None:
    """A default that changes is another computation: what was written of an old one stays told apart."""

    class Inner(Section):
        old: int = 1
        new: Annotated[int | None, Newer] = None

    class Outer(Section):
        inner: Inner = Inner()

    assert Outer().settled() == {"inner": {"old": 1}}
    assert Outer(inner=Inner(new=0)).settled() == {"inner": {"old": 1, "new": 0}}
    spec = {"name": "uniform", **catalog.check("negatives", {"name": "uniform"})}
    assert catalog.settled("negatives", spec) == {"name": "uniform", "count": 1024, "per": "batch", "exclude": "seen"}
    assert catalog.settled("negatives", {**spec, "hardest": 5})["hardest"] == 5
