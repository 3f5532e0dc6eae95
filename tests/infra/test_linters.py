"""What checkov finds in manifests and Dockerfile is what the README argues for, no more and no less; hadolint finds nothing.

Neither can be in the environment of the project, whose versions theirs exclude: `make slow` puts one of their own on the PATH.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.infra.manifests import DEPLOYED, INFRA, JOBS, name, render, templates

DOCKERFILE = INFRA / "docker" / "Dockerfile"


def tool(program: str) -> str:
    if found := shutil.which(program):
        return found
    missing = f"{program} is not on the PATH: `make slow` installs it and puts it there"
    if "HARDNEG_DATA" in os.environ:
        pytest.fail(missing)
    pytest.skip(missing)  # says what to do; in CI it has failed above


def write_what_runs(folder: Path) -> None:
    """What is rendered, and beside it the pods that KubeRay would make, which checkov does not know inside of its resources."""
    for each in [*DEPLOYED, *JOBS]:
        objects = render(each)
        for it in [it for it in objects if it["kind"] in ("RayCluster", "RayJob")]:
            for n, (template, _) in enumerate(templates(it)):
                metadata = {"name": f"{name(it)}-{n}", "namespace": it["metadata"]["namespace"], **template["metadata"]}
                objects.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
        text = yaml.safe_dump_all(objects)
        (folder / f"{each.replace('/', '_')}.yaml").write_text(text, encoding="utf-8")


@pytest.mark.slow
def test_checkov_finds_what_the_readme_argues_for(tmp_path: Path) -> None:
    checkov = tool("checkov")
    write_what_runs(tmp_path)
    shutil.copy(DOCKERFILE, tmp_path)
    command = [checkov, "--directory", str(tmp_path), "--framework", "kubernetes", "dockerfile"]
    done = subprocess.run(
        [*command, "--output", "json", "--compact", "--skip-download"], capture_output=True, text=True, check=False, timeout=600
    )
    reports = json.loads(done.stdout)
    assert {each["check_type"] for each in reports} == {"kubernetes", "dockerfile"}
    assert sum(each["summary"]["passed"] for each in reports) > 500, "it looked at what is there"
    assert [each["results"].get("parsing_errors") for each in reports] == [[], []]
    found = {failed["check_id"] for each in reports for failed in each["results"]["failed_checks"]}
    assert found == set(re.findall(r"CKV\w+", (INFRA / "README.md").read_text(encoding="utf-8")))


@pytest.mark.slow
def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([tool("hadolint"), str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
