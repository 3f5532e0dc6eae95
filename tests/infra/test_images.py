"""The Dockerfile: versions by constraints.txt, no root at run time, and the project's code where it belongs alone."""

from __future__ import annotations

import re
import shlex
import tomllib
from typing import NamedTuple

import pytest

from components.steps import IMAGE, rayjob
from tests.infra.manifests import DEPLOYED, INFRA, containers, render, templates
from tests.infra.test_against_code import pinned

ROOT = INFRA.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TARGETS = ("ray-cpu", "ray-gpu", "pipeline", "mlflow")


class Stage(NamedTuple):
    """`steps` are (instruction, rest of its line)."""

    base: str
    steps: list[tuple[str, str]]


def stages() -> dict[str, Stage]:
    """The Dockerfile's stages by name."""
    text = re.sub(r"^#.*\n", "", (INFRA / "docker" / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    found: dict[str, Stage] = {}
    current: list[tuple[str, str]] = []
    for line in filter(None, text.replace("\\\n", " ").splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            assert name, f"{line}: a stage without a name"
            current = []
            found[name] = Stage(base, current)
        else:
            current.append((word, rest))
    assert len(found) >= 10
    return found


def line_of(target: str) -> list[Stage]:
    """A target and what it stands on, itself first."""
    every = stages()
    found = [every[target]]
    while (base := found[-1].base) in every:
        found.append(every[base])
    return found


def requirement(line: str) -> str:
    return re.split(r"[\[=<>!~; ]", line, maxsplit=1)[0].lower().replace("_", "-")


def users() -> dict[str, set[str]]:
    """Whom pods run each image as: those of the manifests, and of a step's RayJob."""
    found = {IMAGE: {f"{rayjob.USER}:{rayjob.USER}"}}
    for it in (it for folder in DEPLOYED for it in render(folder)):
        for template, _ in templates(it):
            pod = template["spec"]["securityContext"]
            for image in (container["image"] for container in containers(it) if "image" in container):
                found.setdefault(image, set()).add(f"{pod['runAsUser']}:{pod['runAsGroup']}")
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_the_user_of_its_pods(target: str) -> None:
    text = (INFRA / "docker" / "Dockerfile").read_text(encoding="utf-8")
    (image,) = re.findall(rf"docker build .*--target {target} +-t (\S+)", text)
    (user,) = users()[image]
    assert not user.startswith("0:")
    assert [rest for word, rest in stages()[target].steps if word == "USER"] == [user]
    assert stages()[target].steps[-1][0] in ("USER", "CMD"), "what comes after is this user's"


def test_no_image_is_built_with_a_secret() -> None:
    """What is given to a build, or set in an image, stays to be read in its history."""
    given = [rest for stage in stages().values() for word, rest in stage.steps if word in ("ARG", "ENV")]
    assert len(given) >= 5
    assert [each for each in given if re.search("PASSWORD|TOKEN|SECRET|KEY|://[^/ ]*@", each)] == []


@pytest.mark.parametrize("target", TARGETS)
def test_what_builds_an_image_stays_behind(target: str) -> None:
    """Several stages: pip, its cache and the lists of packages are not of those that the image stands on."""
    own = line_of(target)
    assert all("pip " not in rest for stage in own for _, rest in stage.steps)
    (copied,) = (rest for word, rest in own[0].steps if word == "COPY" and "--from=" in rest)
    assert copied == f"--from=build-{target} /install /usr/local"  # where a login shell, as KubeRay's was, finds ray too


def test_base_images_have_exact_tags_and_our_python() -> None:
    outside = {stage.base for stage in stages().values()} - set(stages()) - {"resolve-${TORCH}"}
    (base,) = outside
    tag = base.partition(":")[2]
    assert re.fullmatch(r"\d+\.\d+\.\d+-slim-[a-z]+", tag), base
    assert tag.startswith(PROJECT["tool"]["pyright"]["pythonVersion"] + ".")
    assert {"resolve-cpu", "resolve-gpu"} <= set(stages())


def test_every_version_is_that_of_the_constraints() -> None:
    installs = [rest for stage in stages().values() for word, rest in stage.steps if word == "RUN" and "pip install" in rest]
    assert len(installs) == len(TARGETS)
    for each in installs:
        words = shlex.split(each)
        assert words[words.index("-c") + 1] == "constraints.txt"
        assert "-r" in words
    project = PROJECT["project"]
    named = [*project["dependencies"], *project["optional-dependencies"]["pipelines"]]
    known = {name.lower().replace("_", "-") for name in pinned()}
    assert {requirement(each) for each in named} <= known
    lines = (INFRA / "docker" / "mlflow.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if not line.startswith("#")]
    assert len(wanted) >= 3
    for line in wanted:
        assert (requirement(line) in known) != ("==" in line), f"{line}: its version is in one place"


def test_rays_images_have_no_code_of_the_project() -> None:
    """It arrives with the job: an older copy in the image would be imported in its place."""
    packages = {pattern.rstrip("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert len(packages) == 3
    for target in ("ray-cpu", "ray-gpu", "mlflow"):
        assert [
            rest for stage in line_of(target) for word, rest in stage.steps if word == "COPY" and "--from" not in rest
        ] == []
    pipeline = [rest for word, rest in stages()["pipeline"].steps if word == "COPY" and "--from" not in rest]
    assert {f"{each} {each}" for each in packages} <= set(pipeline)
    assert any(".rayignore" in each for each in pipeline), "a step ships the tree to a standing cluster if this file is there"


def test_only_what_is_copied_is_sent_to_the_builder() -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignore
    sent = {line[1:] for line in ignore if line.startswith("!")}
    copies = [rest for stage in stages().values() for word, rest in stage.steps if word == "COPY" and "--from" not in rest]
    copied = {source for rest in copies for source in rest.split()[:-1]}
    assert copied == sent
    assert all((ROOT / each).exists() for each in copied)


def test_the_pipelines_image_is_the_one_that_steps_run_in() -> None:
    text = (INFRA / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert f"--target pipeline -t {IMAGE} " in text
