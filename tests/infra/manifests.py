"""What `kubectl kustomize` makes of infra/: its objects, their pods, and the schemas that they are held against."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration import fake_kubernetes

Object = dict[str, Any]

INFRA = Path(__file__).parents[2] / "infra"
DEPLOYED = ["kuberay/overlays/cpu", "kuberay/overlays/gpu", "kuberay/overlays/autoscaling", "kueue", "mlflow"]
JOBS = [
    f"kuberay/jobs/{name}"
    for name in ("check", "prepare", "tune", "train", "evaluate", "register", "recommend", "train-gpu", "tune-gpu")
]
MONITOR = "prometheus"  # for those who have Prometheus' operator: its resource has no schema here (test_metrics)
CUSTOM = {
    ("ray.io/v1", "RayCluster"): ("ray.io_rayclusters", "v1"),
    ("ray.io/v1", "RayJob"): ("ray.io_rayjobs", "v1"),
    ("kueue.x-k8s.io/v1beta2", "ClusterQueue"): ("kueue.x-k8s.io_clusterqueues", "v1beta2"),
    ("kueue.x-k8s.io/v1beta2", "LocalQueue"): ("kueue.x-k8s.io_localqueues", "v1beta2"),
    ("kueue.x-k8s.io/v1beta2", "ResourceFlavor"): ("kueue.x-k8s.io_resourceflavors", "v1beta2"),
}


@functools.cache
def _rendered(folder: str) -> str:
    if shutil.which("kubectl") is None:
        if "HARDNEG_DATA" in os.environ:
            pytest.fail("kubectl is missing")
        pytest.skip("kubectl is missing: `kubectl kustomize` renders the manifests")
    done = subprocess.run(["kubectl", "kustomize", str(INFRA / folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{folder}: {done.stderr}"
    return done.stdout


def render(folder: str) -> list[Object]:
    """The objects of a folder of infra/. Skips without kubectl, and fails where HARDNEG_DATA is set."""
    return list(yaml.load_all(_rendered(folder), yaml.CSafeLoader))


def of_kind(folder: str, *kinds: str) -> list[Object]:
    """Those objects of a folder, of which there is at least one."""
    found = [each for each in render(folder) if each["kind"] in kinds]
    assert found, f"{folder} has no {' or '.join(kinds)}"
    return found


def name(it: Object) -> str:
    return f"{it['kind']} {it['metadata'].get('namespace', '')}/{it['metadata']['name']}"


def validate(it: Object) -> None:
    """Strictly: a field that the schema does not know raises."""
    _validate(json.dumps(it, sort_keys=True))


@functools.cache
def _validate(text: str) -> None:
    import kubernetes_validate

    it = json.loads(text)
    custom = CUSTOM.get((it["apiVersion"], it["kind"]))
    if custom:
        fake_kubernetes.validator(*custom).validate(it)
    else:
        kubernetes_validate.validate(it, kubernetes_validate.latest_version(), strict=True)


def cluster(it: Object) -> Object:
    """A RayCluster's spec, or that of a RayJob's cluster."""
    return it["spec"]["rayClusterSpec"] if it["kind"] == "RayJob" else it["spec"]


def templates(it: Object) -> Iterator[tuple[Object, int]]:
    """The pod templates of an object, each with the most pods of it at once."""
    if it["kind"] in ("Deployment", "StatefulSet"):
        yield it["spec"]["template"], it["spec"]["replicas"]
    elif it["kind"] in ("RayCluster", "RayJob"):
        yield cluster(it)["headGroupSpec"]["template"], 1
        for group in cluster(it)["workerGroupSpecs"]:
            yield group["template"], group["maxReplicas"]


def containers(it: Object) -> Iterator[Object]:
    """Every container, KubeRay's autoscaler as the options make it."""
    for template, _ in templates(it):
        yield from [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]
    if it["kind"] in ("RayCluster", "RayJob") and cluster(it).get("enableInTreeAutoscaling"):
        yield {"name": "autoscaler", **cluster(it)["autoscalerOptions"]}


def amount(quantity: str | int) -> float:
    """A quantity of Kubernetes as a number: 500m, 2, 8Gi."""
    from kubernetes.utils import parse_quantity

    return float(parse_quantity(quantity))


def requested(it: Object) -> dict[str, float]:
    """What an object's pods ask for, all together."""
    total: dict[str, float] = {}
    for template, pods in templates(it):
        for container in template["spec"]["containers"]:
            for what, quantity in container["resources"]["requests"].items():
                total[what] = total.get(what, 0) + pods * amount(quantity)
    return total
