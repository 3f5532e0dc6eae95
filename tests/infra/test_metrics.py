"""Prometheus finds Ray's metrics port on every node, nobody else gets at it, and the README names what is there."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ray_jobs import _gauges
from tests.infra.manifests import INFRA, MONITOR, Object, cluster, of_kind, render
from tests.infra.test_against_code import RAY, one

NODES = {"ray.io/is-ray-node": "yes"}  # KubeRay's label of the pods that it makes
PORT = 8080  # where KubeRay lets Ray tell its metrics (its own default for --metrics-export-port)


def pods(folder: str) -> list[Object]:
    """The pod templates of a folder's cluster."""
    spec = cluster(one(folder))
    return [group["template"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def monitor() -> dict[str, Any]:
    """The PodMonitor's spec. Its schema is not among the published ones that tests have: its fields are named here."""
    (found,) = render(MONITOR)
    assert set(found) == {"apiVersion", "kind", "metadata", "spec"}
    assert (found["apiVersion"], found["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    spec = found["spec"]
    assert set(spec) == {"selector", "podTargetLabels", "podMetricsEndpoints"}
    (endpoint,) = spec["podMetricsEndpoints"]
    assert set(endpoint) == {"port", "interval"}
    assert re.fullmatch(r"[1-9]\d*s", endpoint["interval"])
    (namespace,) = of_kind("kuberay/base", "Namespace")
    assert found["metadata"]["namespace"] == namespace["metadata"]["name"], "it looks in its own namespace alone"
    return spec


@pytest.mark.parametrize("folder", RAY)
def test_the_monitor_and_the_annotations_name_the_port_of_every_node(folder: str) -> None:
    spec = monitor()
    assert spec["selector"] == {"matchLabels": NODES}
    for pod in pods(folder):
        ports = {each["name"]: each["containerPort"] for each in pod["spec"]["containers"][0]["ports"]}
        assert ports[spec["podMetricsEndpoints"][0]["port"]] == PORT
        annotations = pod["metadata"]["annotations"]
        told = [annotations[f"prometheus.io/{key}"] for key in ("scrape", "port", "path")]
        assert told == ["true", str(PORT), "/metrics"]
    spec = cluster(one(folder))
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert "metrics-export-port" not in group["rayStartParams"], "KubeRay's own default would not hold"


def senders(policies: list[Object]) -> list[Object]:
    """Who may reach the port on a Ray node, head or worker."""
    found = []
    for policy in policies:
        chosen = policy["spec"]["podSelector"].get("matchLabels", {})
        if not chosen.items() <= (NODES | {"ray.io/node-type": "head"}).items():
            continue
        for rule in policy["spec"].get("ingress", []):
            if PORT in [each["port"] for each in rule.get("ports", [{"port": PORT}])]:
                found += rule["from"]
    return found


def test_prometheus_and_nobody_else_reaches_the_port() -> None:
    """But for Ray's nodes among themselves, which may do anything on one another."""
    prometheus = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
    }
    found = senders(of_kind("kuberay/base", "NetworkPolicy"))
    assert len(found) == 2
    assert prometheus in found
    assert {"podSelector": {"matchLabels": NODES}} in found


def test_the_readmes_metrics_and_labels_are_those_of_the_code() -> None:
    text = (INFRA / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\bray_hardneg_\w+", text)) == {f"ray_{name}" for name in _gauges.GAUGES}
    grouped = [label for each in re.findall(r"by \(([\w, ]+)\)", text) for label in each.split(", ")]
    assert len(grouped) >= 3
    assert set(grouped) <= {*_gauges.LABELS, _gauges.BANK}
