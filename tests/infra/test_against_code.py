"""The manifests name images, programs, arguments, ports, versions and rights: held here against what the code has."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from components import config
from components.config import Recipe
from components.steps import PASSWORDS, SECRET, rayjob
from pipelines.stages import STAGES
from ray_jobs import _runs, _submission
from tests.infra.manifests import (
    DEPLOYED,
    INFRA,
    JOBS,
    amount,
    cluster,
    containers,
    name,
    of_kind,
    render,
    requested,
    templates,
)

ROOT = INFRA.parent
RAY = ["kuberay/overlays/cpu", "kuberay/overlays/gpu", "kuberay/overlays/autoscaling", *JOBS]
PROGRAMS = {stage.program.removeprefix("ray_jobs."): stage for stage in STAGES}
QUEUE = "kueue.x-k8s.io/queue-name"


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert len(found) > 100
    return found


def one(folder: str) -> dict[str, Any]:
    """The RayCluster or RayJob of a folder."""
    (found,) = of_kind(folder, "RayCluster", "RayJob")
    return found


def read_recipe(folder: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Recipe, str, list[str]]:
    """A job's recipe with its --set, its program and its arguments."""
    (job,) = of_kind(folder, "RayJob")
    (text,) = {e["value"] for c in containers(job) for e in c["env"] if e["name"] == _submission.RECIPE}
    python, flag, module, recipe, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert (python, flag) == ("python", "-m")
    monkeypatch.setenv(_submission.RECIPE, text)
    assert arguments[::2] == ["--set"] * (len(arguments) // 2)
    return config.load(recipe, arguments[1::2]), module.removeprefix("ray_jobs."), arguments


@pytest.mark.parametrize("folder", RAY)
def test_rays_version_is_the_one_that_was_tested(folder: str) -> None:
    assert cluster(one(folder))["rayVersion"] == pinned()["ray"] == importlib.metadata.version("ray")


def test_images_are_those_that_the_dockerfile_says_how_to_build() -> None:
    dockerfile = (INFRA / "docker" / "Dockerfile").read_text(encoding="utf-8")
    built = dict(re.findall(r"docker build .*--target (\S+) +-t (\S+)", dockerfile))
    used = {c["image"] for folder in [*DEPLOYED, *JOBS] for it in render(folder) for c in containers(it) if "image" in c}
    ours = {image for image in used if image.startswith("hardneg")}
    assert ours == {built["ray-cpu"], built["ray-gpu"], built["mlflow"]}
    assert all(re.fullmatch(r"[a-z./]+:\d+\.\d+-[a-z]+", image) for image in used - ours), used
    assert built["mlflow"].partition(":")[2] == pinned()["mlflow"]
    for image in ("ray-cpu", "ray-gpu"):
        assert built[image].partition(":")[2].startswith(importlib.metadata.version("hardneg"))


@pytest.mark.parametrize("folder", JOBS)
def test_a_jobs_entry_point_is_a_program_with_a_recipe_that_it_takes(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, program, arguments = read_recipe(folder, monkeypatch)
    assert program in PROGRAMS
    assert one(folder)["spec"]["entrypoint"] == _submission.entry_point(program, arguments)
    mounts = {each["mountPath"] for c in containers(one(folder)) for each in c["volumeMounts"]}
    for path in (recipe.scale.storage_path, recipe.data.source):
        assert str(path).startswith(f"{rayjob.SHARED}/")
    assert rayjob.SHARED in mounts
    if program == "tune":
        assert recipe.search.space, "a tune without a space has nothing to do"


@pytest.mark.parametrize("folder", JOBS)
def test_a_job_has_its_recipe_itself(folder: str) -> None:
    """What another job's end would take away, or another recipe change under it, is not shared."""
    assert [each["kind"] for each in render(folder)] == ["RayJob"]
    text = (INFRA / "kuberay" / "jobs" / "base" / "recipe.yaml").read_text(encoding="utf-8")
    values = [e["value"] for c in containers(one(folder)) for e in c["env"] if e["name"] == _submission.RECIPE]
    assert values == [text] * 2, "of the head and of the workers"


@pytest.mark.parametrize("folder", JOBS)
def test_a_jobs_cluster_holds_what_its_recipe_asks_for(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scale = read_recipe(folder, monkeypatch)[0].scale
    spec = cluster(one(folder))
    (group,) = spec["workerGroupSpecs"]
    resources = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert scale.num_workers <= group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    assert scale.cpus_per_worker == amount(resources["cpu"])
    assert scale.use_gpu == ("nvidia.com/gpu" in resources) == folder.endswith("-gpu")
    assert float(spec["headGroupSpec"]["rayStartParams"]["num-cpus"]) == scale.driver_cpus


@pytest.mark.parametrize("folder", JOBS)
def test_a_jobs_code_arrives_with_it(folder: str) -> None:
    from ray.runtime_env import RuntimeEnv

    made = RuntimeEnv(**yaml.safe_load(one(folder)["spec"]["runtimeEnvYAML"]))
    assert made.working_dir().startswith(f"file://{rayjob.SHARED}/")  # pyright: ignore[reportAttributeAccessIssue]
    assert made.working_dir().endswith(".zip")  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("folder", JOBS)
def test_a_job_is_tried_again_and_finds_its_own_work(folder: str) -> None:
    """Every try is a new cluster: a training or a search goes on by its name, which is the job's, all else by its recipe."""
    job, program = one(folder), Path(folder).name.removesuffix("-gpu")
    assert (job["spec"]["backoffLimit"] > 0) == (program != "check"), "what check finds is a person's to mend"
    named = [e["value"] for c in containers(job) for e in c["env"] if e["name"] == _runs.ATTEMPT]
    assert named == ([job["metadata"]["name"]] if program in ("train", "tune") else []), "of the head, where the program runs"


@pytest.mark.parametrize("folder", RAY)
def test_names_are_those_that_steps_know(folder: str) -> None:
    assert cluster(one(folder))["authOptions"] == {"mode": "token", "secretName": SECRET}
    for container in containers(one(folder)):
        if container["name"] == "autoscaler":
            continue
        secret = [e["valueFrom"]["secretKeyRef"] for e in container["env"] if "secretKeyRef" in e.get("valueFrom", {})]
        assert {(each["name"], each["key"]) for each in secret} == {(SECRET, key) for key in PASSWORDS}
    accounts = {template["spec"]["serviceAccountName"] for template, _ in templates(one(folder))}
    assert rayjob.ACCOUNT in accounts
    assert rayjob.ACCOUNT in {each["metadata"]["name"] for each in of_kind("kuberay/base", "ServiceAccount")}
    claims = [each for each in render("kuberay/base") if each["kind"] == "PersistentVolumeClaim"]
    assert [each["metadata"]["name"] for each in claims] == [rayjob.CLAIM]
    assert claims[0]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_steps_account_may_do_what_the_code_calls_and_no_more() -> None:
    called = set(re.findall(r"_api\.(\w+?)_namespaced_custom_object", Path(rayjob.__file__).read_text(encoding="utf-8")))
    assert len(called) >= 3
    (role,) = of_kind("kuberay/base", "Role")
    group, plural = rayjob.WHAT["group"], rayjob.WHAT["plural"]
    assert role["rules"] == [{"apiGroups": [group], "resources": [plural], "verbs": role["rules"][0]["verbs"]}]
    assert set(role["rules"][0]["verbs"]) == called
    (binding,) = of_kind("kuberay/base", "RoleBinding")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [each["name"] for each in binding["subjects"]] == ["hardneg-step"]


# MLflow -------------------------------------------------------------------------------------------------------------


def mlflow() -> tuple[dict[str, Any], list[str]]:
    """The server's container and its options."""
    (container,) = (c for it in of_kind("mlflow", "Deployment") for c in containers(it))
    assert container["args"][:2] == ["mlflow", "server"]
    return container, container["args"][2:]


def test_mlflows_options_and_variables_exist() -> None:
    from mlflow import environment_variables
    from mlflow.cli import server

    container, options = mlflow()
    known = {option for parameter in server.params for option in parameter.opts}
    assert {option.partition("=")[0] for option in options} <= known
    variables = {e["name"] for e in container["env"] if e["name"].startswith("MLFLOW_")}
    by_options = {p.envvar for p in server.params if isinstance(p.envvar, str)}
    of_s3 = {"MLFLOW_S3_ENDPOINT_URL"}
    assert len(variables) >= 8
    assert {each for each in variables - by_options - of_s3 if not hasattr(environment_variables, each)} == set()
    assert "--app-name=basic-auth" in options


def test_ray_reaches_mlflow_by_a_name_and_port_that_it_answers_to() -> None:
    from mlflow.server.security_utils import HEALTH_ENDPOINTS, is_allowed_host_header

    container, options = mlflow()
    (hosts,) = (option.partition("=")[2].split(",") for option in options if option.startswith("--allowed-hosts="))
    (service,) = (each for each in of_kind("mlflow", "Service") if each["metadata"]["name"] == "mlflow")
    (port,) = (each["port"] for each in service["spec"]["ports"])
    own = f"{service['metadata']['name']}.{service['metadata']['namespace']}"
    uris = {e["value"] for f in RAY for c in containers(one(f)) for e in c["env"] if e["name"] == "MLFLOW_TRACKING_URI"}
    assert uris == {f"http://{own}:{port}"}
    for host in (*(urlsplit(uri).netloc for uri in uris), f"{own}.svc.cluster.local:{port}", f"localhost:{port}"):
        assert is_allowed_host_header(hosts, host), host
    for host in ("evil.example", f"evil.example:{port}", own):
        assert not is_allowed_host_header(hosts, host), host
    (listens,) = (option.partition("=")[2] for option in options if option.startswith("--port="))
    assert [each["containerPort"] for each in container["ports"]] == [int(listens)]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in HEALTH_ENDPOINTS
        assert container[probe]["httpGet"]["port"] in {each["name"] for each in container["ports"]}


def test_the_database_has_the_names_that_probes_and_the_readmes_uri_ask_for() -> None:
    ((container,),) = (list(containers(it)) for it in of_kind("mlflow", "StatefulSet"))
    own = {each["name"]: each["value"] for each in container["env"]}
    user, database = own["POSTGRES_USER"], own["POSTGRES_DB"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["exec"]["command"] == ["pg_isready", f"--username={user}", f"--dbname={database}"]
    text = (INFRA / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"'postgresql\+\w+://(\w+):%s@\w+:\d+/(\w+)'", text) == [(user, database)]


# Kueue --------------------------------------------------------------------------------------------------------------


def quotas() -> dict[str, tuple[str, dict[str, float]]]:
    """(its ClusterQueue, what it has to give) of each LocalQueue of the team's namespace."""
    queues = {each["metadata"]["name"]: each["spec"] for each in of_kind("kueue", "ClusterQueue")}
    flavors = {each["metadata"]["name"] for each in of_kind("kueue", "ResourceFlavor")}
    found = {}
    for local in of_kind("kueue", "LocalQueue"):
        (group,) = queues[local["spec"]["clusterQueue"]]["resourceGroups"]
        (flavor,) = group["flavors"]
        assert flavor["name"] in flavors
        assert [each["name"] for each in flavor["resources"]] == group["coveredResources"]
        given = {each["name"]: amount(each["nominalQuota"]) for each in flavor["resources"]}
        found[local["metadata"]["name"]] = (local["spec"]["clusterQueue"], given)
    return found


@pytest.mark.parametrize("folder", RAY)
def test_all_of_a_cluster_fits_into_its_queue_at_once(folder: str) -> None:
    """Kueue starts a cluster whole or not at all: one that is wider than its quota, or asks for what has none, never starts."""
    it = one(folder)
    _, given = quotas()[it["metadata"]["labels"][QUEUE]]
    asked = requested(it)
    assert {what: number for what, number in asked.items() if number > given.get(what, 0)} == {}, name(it)


def test_a_tune_takes_nothing_from_other_jobs() -> None:
    tunes = {one(folder)["metadata"]["labels"][QUEUE] for folder in JOBS if "tune" in folder}
    others = {one(folder)["metadata"]["labels"][QUEUE] for folder in RAY if "tune" not in folder}
    assert not {quotas()[each][0] for each in tunes} & {quotas()[each][0] for each in others}
    for queue in of_kind("kueue", "ClusterQueue"):
        assert "cohortName" not in queue["spec"], "a cohort lends and borrows"


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_a_steps_rayjob_waits_in_the_queue_of_its_program(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.steps.job import Job
    from tests.integration import training

    recipe = training.recipe(Path("/log.csv"), Path("/store"), tracking={"uri": "http://mlflow:5000"})
    made = rayjob.body(Job("01234567-89ab-4def-8123-456789abcdef", program, "", recipe, []))
    assert made["metadata"]["labels"][QUEUE] == one(f"kuberay/jobs/{program}")["metadata"]["labels"][QUEUE]


@pytest.mark.parametrize("folder", RAY)
def test_kueue_takes_each_cluster(folder: str) -> None:
    """Its limits: a job's cluster is its own and goes with it, and one that changes its size says so."""
    it = one(folder)
    spec = cluster(it)
    elastic = it["metadata"].get("annotations", {}).get("kueue.x-k8s.io/elastic-job") == "true"
    assert elastic == spec.get("enableInTreeAutoscaling", False) == (folder == "kuberay/overlays/autoscaling")
    assert len(spec["workerGroupSpecs"]) <= 17
    if it["kind"] == "RayJob":
        assert it["spec"]["shutdownAfterJobFinishes"] is True
        assert "clusterSelector" not in it["spec"]
        assert it["spec"]["ttlSecondsAfterFinished"] > 0
    labels = {json.dumps(each["spec"]["namespaceSelector"]["matchLabels"]) for each in of_kind("kueue", "ClusterQueue")}
    (namespace,) = of_kind("kuberay/base", "Namespace")
    assert all(json.loads(each).items() <= namespace["metadata"]["labels"].items() for each in labels)


# the README ---------------------------------------------------------------------------------------------------------


def test_the_readme_applies_what_is_there_and_makes_every_secret_that_is_named() -> None:
    text = (INFRA / "README.md").read_text(encoding="utf-8")
    applied = re.findall(r"kubectl apply ((?:-[kf] [\w./-]+ ?)+)", text)
    paths = [path for each in applied for path in re.findall(r"-[kf] ([\w./-]{2,})", each)]
    paths += re.findall(r"deploy (infra/[\w./-]+)", text)
    assert len(paths) >= 8
    assert [path for path in paths if not (ROOT / path).exists()] == []
    for namespace, secret in (("hardneg-mlflow", "mlflow"), ("hardneg", SECRET)):
        assert f"kubectl -n {namespace} create secret generic {secret} --from-file secrets/{secret}" in text
    made = {tuple(each.split("/")) for each in re.findall(r"> secrets/([\w-]+/[\w.-]+)", text)}
    named = {(secret, key) for folder in ("mlflow", "kuberay/overlays/cpu") for secret, key in _secrets(render(folder))}
    named |= {(SECRET, "auth_token"), (SECRET, "MLFLOW_TRACKING_URI")}  # KubeRay's key, and what pipelines.training takes
    assert named - made == {(SECRET, "MLFLOW_TRACKING_TOKEN")}, "a password or a token"
    assert made <= named


@pytest.mark.parametrize("folder", ["mlflow", *RAY])
def test_the_readmes_deploy_names_the_registry_in_every_image_of_ours(folder: str) -> None:
    text = (INFRA / "README.md").read_text(encoding="utf-8")
    (function,) = re.findall(r"deploy\(\) \{.*?; \}", text)
    render(folder)  # or skips
    lines = f"{function.replace('kubectl apply -f -', 'cat')}; REGISTRY=registry.example/team deploy {INFRA / folder}"
    done = subprocess.run(["bash", "-euc", lines], capture_output=True, text=True, check=True)
    images = {c["image"] for it in yaml.safe_load_all(done.stdout) for c in containers(it) if "image" in c}
    ours = {image for image in images if "hardneg" in image}
    assert ours and all(image.startswith("registry.example/team/hardneg-") for image in ours)


def test_a_jobs_code_knows_its_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From the file that the README's archive has beside the code."""
    from ray_jobs import _tracking

    text = (INFRA / "README.md").read_text(encoding="utf-8")
    (prefix, file), (code,) = re.findall(r'--add-virtual-file="(\w+)/(\w+):', text)[0], re.findall(r"--prefix=(\w+)/", text)
    assert prefix == code
    monkeypatch.delenv("HARDNEG_COMMIT", raising=False)
    monkeypatch.setattr(_tracking, "__file__", str(tmp_path / "ray_jobs" / "_tracking.py"))
    (tmp_path / file).write_text("0123abcd\n")
    assert _tracking.commit() == "0123abcd"


def _secrets(tree: Any) -> set[tuple[str, str]]:
    """(Secret, key) of every reference in a tree of objects."""
    if isinstance(tree, list):
        return set().union(*map(_secrets, tree)) if tree else set()
    if not isinstance(tree, dict):
        return set()
    found = _secrets(list(tree.values()))
    if "secretKeyRef" in tree:
        found |= {(tree["secretKeyRef"]["name"], tree["secretKeyRef"]["key"])}
    if "secretName" in tree and "items" in tree:
        found |= {(tree["secretName"], item["key"]) for item in tree["items"]}
    return found
