"""What every object must be: no root, nothing writable but volumes, no rights, no secret written out, no open network."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.steps import rayjob
from components.steps.job import Job
from pipelines.stages import STAGES
from tests.infra.manifests import DEPLOYED, INFRA, JOBS, Object, cluster, containers, name, of_kind, render, templates
from tests.integration import training

EVERY = [*DEPLOYED, *JOBS]
RUNS = ("Deployment", "StatefulSet", "RayCluster", "RayJob")
VOLUMES = {"emptyDir", "persistentVolumeClaim", "secret", "projected", "configMap"}
HIDDEN = re.compile(r"PASSWORD|TOKEN|SECRET|ACCESS_KEY|_URI$")


def problems(it: Object) -> Iterator[str]:
    """What is wrong with an object that runs pods."""
    for template, _ in templates(it):
        pod = template["spec"]
        security = pod.get("securityContext", {})
        if not security.get("runAsNonRoot") or not security.get("runAsUser"):
            yield "may run as root"
        if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield "any system call"
        if pod.get("automountServiceAccountToken") is not False or pod.get("serviceAccountName") in (None, "default"):
            yield "has a token of Kubernetes"
        if any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
            yield "is in its node"
        for volume in pod.get("volumes", []):
            (kind,) = set(volume) - {"name"}
            if kind not in VOLUMES:
                yield f"mounts {kind}"
            if kind == "emptyDir" and "sizeLimit" not in volume[kind]:
                yield "may fill its node's disk"
    for container in containers(it):
        security = container.get("securityContext", {})
        if security.get("allowPrivilegeEscalation") is not False or security.get("privileged"):
            yield "may gain rights"
        if not security.get("readOnlyRootFilesystem"):
            yield "writes into its image"
        if security.get("capabilities") != {"drop": ["ALL"]}:
            yield "keeps capabilities"
        if security.get("runAsUser") == 0 or security.get("runAsNonRoot") is False:
            yield "may run as root"
        resources = container.get("resources", {})
        if any(not resources.get(key, {}).get(what) for key in ("requests", "limits") for what in ("cpu", "memory")):
            yield "no bounds"
        if resources.get("requests", {}).get("memory") != resources.get("limits", {}).get("memory"):
            yield "is given memory that is not there"
        for variable in container.get("env", []):
            if HIDDEN.search(variable["name"]) and "value" in variable and "@" in variable["value"]:
                yield f"{variable['name']} has a password in it"
            if HIDDEN.search(variable["name"].removesuffix("_TRACKING_URI")) and "value" in variable:
                yield f"{variable['name']} is written out"
    if it["kind"] in ("RayCluster", "RayJob") and cluster(it).get("authOptions", {}).get("mode") != "token":
        yield "runs anyone's code"


@pytest.mark.parametrize("folder", EVERY)
def test_nothing_that_runs_has_more_than_it_needs(folder: str) -> None:
    for it in (each for each in render(folder) if each["kind"] in RUNS):
        assert [p for p in problems(it) if not _is_a_file(p)] == [], name(it)


@pytest.mark.parametrize("program", [stage.name for stage in STAGES])
def test_a_steps_rayjob_has_no_more_either(program: str) -> None:
    recipe = training.recipe(Path("/log.csv"), Path("/store"), tracking={"uri": "http://mlflow:5000"})
    made = rayjob.body(Job("01234567-89ab-4def-8123-456789abcdef", program, "", recipe, []))
    assert list(problems(made)) == []


def _is_a_file(problem: str) -> bool:
    """Where a variable names a file, what it names is a mounted Secret's."""
    return problem.startswith("POSTGRES_PASSWORD_FILE")


def _pod(it: Object) -> Object:
    return next(templates(it))[0]["spec"]


def _set(key: str, value: object) -> Callable[[Object], None]:
    def change(it: Object) -> None:
        _pod(it)["containers"][0]["securityContext"][key] = value

    return change


def _variable(variable: str, value: str) -> Callable[[Object], None]:
    return lambda it: _pod(it)["containers"][0]["env"].append({"name": variable, "value": value})


@pytest.mark.parametrize("folder", ["mlflow", "kuberay/overlays/cpu", "kuberay/jobs/train"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda it: _pod(it)["securityContext"].pop("runAsNonRoot"), "may run as root"),
        (lambda it: _pod(it)["securityContext"].update(runAsUser=0), "may run as root"),
        (lambda it: _pod(it)["securityContext"].pop("seccompProfile"), "any system call"),
        (lambda it: _pod(it).pop("automountServiceAccountToken"), "has a token of Kubernetes"),
        (lambda it: _pod(it).update(serviceAccountName="default"), "has a token of Kubernetes"),
        (lambda it: _pod(it).update(hostNetwork=True), "is in its node"),
        (lambda it: _pod(it)["volumes"].append({"name": "x", "hostPath": {"path": "/"}}), "mounts hostPath"),
        (lambda it: _pod(it)["volumes"].append({"name": "x", "emptyDir": {}}), "may fill its node's disk"),
        (_set("allowPrivilegeEscalation", True), "may gain rights"),
        (_set("privileged", True), "may gain rights"),
        (_set("readOnlyRootFilesystem", False), "writes into its image"),
        (_set("capabilities", {"drop": ["ALL"], "add": ["NET_ADMIN"]}), "keeps capabilities"),
        (lambda it: _pod(it)["containers"][0]["resources"].pop("limits"), "no bounds"),
        (_variable("AWS_SECRET_ACCESS_KEY", "x"), "AWS_SECRET_ACCESS_KEY is written out"),
        (_variable("RAY_AUTH_TOKEN", "x"), "RAY_AUTH_TOKEN is written out"),
        (_variable("MLFLOW_TRACKING_URI", "http://me:x@mlflow:5000"), "MLFLOW_TRACKING_URI has a password in it"),
    ],
)
def test_each_of_these_is_seen(folder: str, change: Callable[[Object], None], said: str) -> None:
    it = copy.deepcopy(of_kind(folder, *RUNS)[0])
    change(it)
    assert said in list(problems(it))


def test_a_cluster_without_a_token_is_seen() -> None:
    (it,) = of_kind("kuberay/overlays/cpu", "RayCluster")
    it["spec"]["authOptions"]["mode"] = "disabled"
    assert list(problems(it)) == ["runs anyone's code"]


@pytest.mark.parametrize("folder", EVERY)
def test_no_secret_is_among_the_objects_and_no_rights_go_beyond_the_namespace(folder: str) -> None:
    kinds = {each["kind"] for each in render(folder)}
    assert not kinds & {"Secret", "ClusterRole", "ClusterRoleBinding"}
    for role in (each for each in render(folder) if each["kind"] == "Role"):
        assert "*" not in str(role["rules"])
    for service in (each for each in render(folder) if each["kind"] == "Service"):
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP"


@pytest.mark.parametrize("folder", [each for each in DEPLOYED if each != "kueue"])
def test_every_namespace_is_restricted_and_denies_by_default(folder: str) -> None:
    namespaces = of_kind(folder, "Namespace")
    for namespace in namespaces:
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    closed = {
        each["metadata"]["namespace"]
        for each in of_kind(folder, "NetworkPolicy")
        if each["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    }
    inside = {each["metadata"]["namespace"] for each in render(folder) if "namespace" in each["metadata"]}
    assert closed == inside == {each["metadata"]["name"] for each in namespaces}


@pytest.mark.parametrize("folder", [each for each in DEPLOYED if each != "kueue"])
def test_no_policy_lets_anyone_in(folder: str) -> None:
    """What comes in has a sender and, but for Ray's own nodes, a port; what goes out has one or the other."""
    rules = 0
    for policy in of_kind(folder, "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            rules += 1
            assert rule["from"], name(policy)
            assert all(any(each.get(key) for key in ("podSelector", "namespaceSelector")) for each in rule["from"])
            assert "ports" in rule or policy["metadata"]["name"] == "ray-nodes"
        for rule in policy["spec"].get("egress", []):
            rules += 1
            assert rule.get("to") or rule.get("ports"), name(policy)
    assert rules >= 5


def test_what_one_side_sends_the_other_side_takes() -> None:
    """Ray's nodes to MLflow: out of one namespace and into the other, on the same port."""
    (out,) = (
        (rule["to"][0], rule["ports"])
        for policy in of_kind("kuberay/base", "NetworkPolicy")
        for rule in policy["spec"].get("egress", [])
        if "mlflow" in str(rule)
    )
    (into,) = (p for p in of_kind("mlflow", "NetworkPolicy") if p["metadata"]["name"] == "mlflow")
    (rule,) = into["spec"]["ingress"]
    (namespace,) = of_kind("mlflow", "Namespace")
    assert out[0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] == namespace["metadata"]["name"]
    assert out[0]["podSelector"] == into["spec"]["podSelector"]
    assert out[1] == rule["ports"]
    (ours,) = of_kind("kuberay/base", "Namespace")
    assert rule["from"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] == ours["metadata"]["name"]
    for it in of_kind("mlflow", "Deployment", "StatefulSet"):
        labels = it["spec"]["template"]["metadata"]["labels"]
        chosen = [p for p in of_kind("mlflow", "NetworkPolicy") if p["spec"]["podSelector"].get("matchLabels") == labels]
        assert len(chosen) == 1, f"{name(it)}: no policy of its own"


def listening() -> list[tuple[str, dict[str, str], dict[int, str]]]:
    """(namespace, labels, ports with their names) of what infra/ runs; the labels of Ray's nodes are KubeRay's."""
    found = []
    for it in of_kind("mlflow", "Deployment", "StatefulSet"):
        found.append((it["metadata"]["namespace"], it["spec"]["template"]["metadata"]["labels"], _pod(it)["containers"]))
    (it,) = of_kind("kuberay/overlays/cpu", "RayCluster")
    for (template, _), kind in zip(templates(it), ("head", "worker"), strict=True):
        labels = {"ray.io/is-ray-node": "yes", "ray.io/node-type": kind}
        found.append((it["metadata"]["namespace"], labels, template["spec"]["containers"]))
    return [
        (namespace, labels, {port["containerPort"]: port["name"] for each in own for port in each["ports"]})
        for namespace, labels, own in found
    ]


def test_policies_and_services_name_ports_that_somebody_listens_on() -> None:
    pods, ports = listening(), 0
    folders = ("mlflow", "kuberay/overlays/cpu")

    def chosen(namespace: str, selector: dict[str, str]) -> list[dict[int, str]]:
        return [open_ for where, labels, open_ in pods if where == namespace and selector.items() <= labels.items()]

    for policy in (policy for folder in folders for policy in of_kind(folder, "NetworkPolicy")):
        own, spec = policy["metadata"]["namespace"], policy["spec"]
        rules = [(rule, own, spec["podSelector"].get("matchLabels", {})) for rule in spec.get("ingress", [])]
        for rule in spec.get("egress", []):
            for to in (each for each in rule.get("to", []) if "podSelector" in each):
                namespace = to.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name", own)
                rules.append((rule, namespace, to["podSelector"]["matchLabels"]))
        for rule, namespace, selector in rules:
            for port in rule.get("ports", []):
                reached = chosen(namespace, selector)
                assert all(port["port"] in open_ for open_ in reached), f"{name(policy)}: {port}"
                ports += len(reached)
    assert ports >= 8
    services = of_kind("mlflow", "Service")
    for service in services:
        for port in service["spec"]["ports"]:
            (open_,) = chosen(service["metadata"]["namespace"], service["spec"]["selector"])
            assert open_[port["port"]] == port["targetPort"], name(service)
    readme = (INFRA / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"%s@(\w+):(\d+)/", readme) == [
        (each["metadata"]["name"], str(each["spec"]["ports"][0]["port"])) for each in services if "postgres" in name(each)
    ]


def test_artifacts_are_in_s3() -> None:
    (settings,) = of_kind("mlflow", "ConfigMap")
    assert settings["data"]["artifacts"].startswith("s3://")
    (container,) = (c for it in of_kind("mlflow", "Deployment") for c in containers(it))
    (named,) = (e["valueFrom"] for e in container["env"] if e["name"] == "MLFLOW_ARTIFACTS_DESTINATION")
    assert named == {"configMapKeyRef": {"name": settings["metadata"]["name"], "key": "artifacts"}}


def test_the_autoscalers_token_is_its_own_container_alone() -> None:
    (it,) = of_kind("kuberay/overlays/autoscaling", "RayCluster")
    pod = cluster(it)["headGroupSpec"]["template"]["spec"]
    (volume,) = (each["name"] for each in pod["volumes"] if "projected" in each)
    assert volume in {each["name"] for each in cluster(it)["autoscalerOptions"]["volumeMounts"]}
    assert all(volume not in {each["name"] for each in c["volumeMounts"]} for c in pod["containers"])
    (account,) = (each for each in of_kind("kuberay/overlays/autoscaling", "ServiceAccount") if "autoscaler" in name(each))
    assert account["metadata"]["name"] == pod["serviceAccountName"]
