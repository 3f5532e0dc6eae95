"""Every folder renders, and every object is one that Kubernetes, KubeRay and Kueue know, field by field."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from components.steps import rayjob
from components.steps.job import Job
from pipelines.stages import STAGES
from tests.infra.manifests import CUSTOM, DEPLOYED, INFRA, JOBS, MONITOR, Object, name, of_kind, render, validate
from tests.integration import training


def test_every_folder_is_looked_at() -> None:
    found = {
        str(file.parent.relative_to(INFRA)): yaml.safe_load(file.read_text()) for file in INFRA.rglob("kustomization.yaml")
    }
    roots = {folder for folder, read in found.items() if read["kind"] == "Kustomization"}
    parts = {"kuberay/base", "kuberay/cluster", "kuberay/jobs/copied", "kuberay/jobs/base"}
    assert roots == {*DEPLOYED, *JOBS, MONITOR} | parts
    used = {f for read in found.values() for key in ("resources", "components") for f in read.get(key, [])}
    assert {Path(folder).name for folder in set(found) - {*DEPLOYED, *JOBS, MONITOR}} <= {Path(each).name for each in used}


@pytest.mark.parametrize("folder", [*DEPLOYED, *JOBS])
def test_every_object_is_valid(folder: str) -> None:
    objects = render(folder)
    assert len(objects) >= (1 if folder in JOBS else 2)
    assert len({name(each) for each in objects}) == len(objects)
    for each in objects:
        validate(each)


@pytest.mark.parametrize(
    ("folder", "kind", "path", "wrong", "said"),
    [
        ("mlflow", "Deployment", ["spec", "template", "spec"], {"securitycontext": {}}, "'securitycontext' was unexpected"),
        ("mlflow", "NetworkPolicy", ["spec"], {"policyTypes": "Egress"}, "'Egress' is not of type"),
        ("kuberay/overlays/cpu", "RayCluster", ["spec"], {"authOption": {}}, "'authOption' was unexpected"),
        ("kuberay/overlays/cpu", "RayCluster", ["spec", "authOptions"], {"mode": "tokens"}, "'tokens' is not one of"),
        ("kuberay/jobs/train", "RayJob", ["spec"], {"backofLimit": 1}, "'backofLimit' was unexpected"),
        ("kueue", "ClusterQueue", ["spec"], {"queueingStrategy": "FIFO"}, "'FIFO' is not one of"),
        ("kueue", "LocalQueue", ["spec"], {"queue": "x"}, "'queue' was unexpected"),
    ],
)
def test_the_schemas_would_tell(folder: str, kind: str, path: list[str], wrong: Object, said: str) -> None:
    at = it = of_kind(folder, kind)[0]
    for key in path:
        at = at[key]
    at |= wrong
    with pytest.raises(jsonschema.ValidationError, match=said):
        validate(it)


def test_the_readme_names_the_versions_that_objects_are_held_against() -> None:
    text = (INFRA / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"Kubernetes (\d+\.\d+)", text) == [kubernetes_validate.latest_version().rpartition(".")[0]]
    (kuberay,), (chart,) = re.findall(r"KubeRay (\d+\.\d+)", text), re.findall(r"--version (\S+)", text)
    assert chart.startswith(f"{kuberay}."), "the operator that is installed"
    assert set(re.findall(r"\bv\d+beta\d+\b", text)) == {api.partition("/")[2] for api, _ in CUSTOM if "kueue" in api}


def test_every_stage_has_a_job_and_every_job_is_a_stage() -> None:
    assert {Path(folder).name.removesuffix("-gpu") for folder in JOBS} == {stage.name for stage in STAGES}
    for folder in JOBS:
        (job,) = of_kind(folder, "RayJob")
        assert job["metadata"]["name"] == f"hardneg-{Path(folder).name.removesuffix('-gpu')}"


def test_a_jobs_cluster_is_the_standing_one() -> None:
    """But for its recipe, its name, and a tune's width: what holds for one holds for the other."""
    (standing,) = of_kind("kuberay/overlays/cpu", "RayCluster")
    (job,) = of_kind("kuberay/jobs/train", "RayJob")
    made = job["spec"]["rayClusterSpec"]
    for group, own in (
        (made["headGroupSpec"], ["RECIPE", "ATTEMPT"]),
        *((group, ["RECIPE"]) for group in made["workerGroupSpecs"]),
    ):
        (container,) = group["template"]["spec"]["containers"]
        added = [container["env"].pop()["name"] for _ in own]
        assert added[::-1] == [f"HARDNEG_{name}" for name in own]
    assert made == standing["spec"]


def test_the_rayjob_that_a_step_makes_is_admitted_to_the_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the standard that it enforces: what `restricted` asks for beyond a pod's defaults."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    recipe = training.recipe(Path("/log.csv"), Path("/store"), tracking={"uri": "http://mlflow:5000"})
    body = rayjob.body(Job("01234567-89ab-4def-8123-456789abcdef", "train", "", recipe, []))
    cluster = body["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {kind for volume in pod["volumes"] for kind in set(volume) - {"name"}} <= {"persistentVolumeClaim", "emptyDir"}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
