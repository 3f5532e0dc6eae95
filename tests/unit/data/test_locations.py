"""What the environment must say before S3 is asked, and what a recipe may not hold. The server itself: tests/integration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components import config
from components.data import locations
from components.data.locations import StorageError
from components.errors import InputError
from tests.unit.data.cleaned import clean, file

PLACE = "s3://bucket/log"
KEYS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "his-secret"}


@pytest.mark.parametrize("missing", [*KEYS, None])
def test_without_keys_it_is_said_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str | None) -> None:
    """Where a profile has some too: they are the environment's alone."""
    profile = file(tmp_path, "[default]\naws_access_key_id = someone\naws_secret_access_key = his-secret\n", "credentials")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    monkeypatch.setenv("AWS_PROFILE", "default")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
        if missing in (name, None):
            monkeypatch.delenv(name)
    with pytest.raises(StorageError) as caught:
        clean(PLACE)
    takes = "takes AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment of every node"
    assert str(caught.value) == f"data.source: {PLACE}: got no credentials, {takes}"


@pytest.mark.parametrize(
    ("name", "value", "takes"),
    [
        ("AWS_ENDPOINT_URL", "minio:9000", r"takes a URL, as https://"),
        ("AWS_ENDPOINT_URL_S3", "minio", r"takes a URL, as https://"),
        ("AWS_MAX_ATTEMPTS", "0", r"takes a whole number >= 1"),
        ("AWS_MAX_ATTEMPTS", "many", r"takes a whole number >= 1"),
    ],
)
def test_settings_that_are_none_are_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, takes: str) -> None:
    for variable in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_MAX_ATTEMPTS"):
        monkeypatch.delenv(variable, raising=False)
    for variable, setting in {**KEYS, name: value}.items():
        monkeypatch.setenv(variable, setting)
    with pytest.raises(StorageError, match=rf"{name}: got {value!r}, {takes}"):
        locations.locate(PLACE)


SECRET = ["s3://KEY:sec/ret@bucket/log", "s3://KEY:secret@bucket", "s3://bucket?secret_key=secret", "s3://@secret"]


@pytest.mark.parametrize(
    "data",
    [
        *({"source": place} for place in SECRET),
        {"source": SECRET},
        {"source": {"train": SECRET[0]}},
        {"source": "a", "titles": {"source": SECRET[0]}},
    ],
)
def test_keys_in_a_recipe_are_refused_and_not_shown(data: dict[str, Any]) -> None:
    recipe = {"name": "a", "encoder": {"name": "mf"}, "loss": {"name": "bpr"}, "negatives": [{"name": "in_batch"}]}
    with pytest.raises(InputError, match="takes s3://bucket/prefix; keys are the environment's alone") as caught:
        config.parse({**recipe, "data": data})
    assert "sec" not in str(caught.value)


@pytest.mark.parametrize("place", SECRET)
def test_nor_where_datasets_are_kept(place: str) -> None:
    recipe = {"name": "a", "encoder": {"name": "mf"}, "loss": {"name": "bpr"}, "negatives": [{"name": "in_batch"}]}
    with pytest.raises(InputError, match="takes s3://bucket/prefix; keys are the environment's alone") as caught:
        config.parse({**recipe, "data": {"source": "a"}, "scale": {"datasets": place}})
    assert str(caught.value).startswith("scale.datasets: got s3:// and after it")
    assert "sec" not in str(caught.value)


def test_places_are_kept_as_they_are_and_local_paths_are_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONTH", "2020 01")
    data = config.Data.model_validate({"source": ["s3://my.bucket-1/a/$MONTH/day=1/", "log.csv"], "titles": {"source": PLACE}})
    assert data.source == ["s3://my.bucket-1/a/2020 01/day=1", str(Path("log.csv").absolute())]
    assert data.titles is not None
    assert data.titles.source == PLACE
    with pytest.raises(ValueError, match="without an empty part"):
        config.Data.model_validate({"source": "s3://bucket/a//b"})


def test_local_files_are_found_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = ["b.csv", "a/z.csv", "a.csv", "a/b/c.csv"]
    for name in names:
        file(tmp_path, "x" * len(name), name)
    found = locations.files(str(tmp_path))
    assert [one.inside.as_posix() for one in found] == sorted(names, key=lambda name: name.split("/"))
    for one in found:
        stat = Path(one.path).stat()
        assert (one.bytes, one.mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    (alone,) = locations.files(str(tmp_path / "b.csv"))
    assert (alone.path, alone.inside.name) == (str(tmp_path / "b.csv"), "b.csv")
    with pytest.raises(FileNotFoundError):
        locations.files(str(tmp_path / "nowhere"))
