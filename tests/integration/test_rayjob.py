"""RayJobs, by a fake Kubernetes as strict as KubeRay's schema: refused, lost, cancelled, orphaned; clusters are held back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from components.steps import rayjob, targets
from components.steps.job import Job
from ray_jobs._results import Checked
from tests.integration import training
from tests.integration.fake_kubernetes import FORBIDDEN, NAMESPACE, FakeKubernetes
from tests.integration.steps import Step, name, new_run
from tests.integration.training import wait_for

TARGET = f"rayjob:{NAMESPACE}"


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    fake = FakeKubernetes(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(fake.kubeconfig))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(fake.kubeconfig))
    monkeypatch.setattr("components.steps.rayjob.POLL_SECONDS", 0.1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t0ken")
    yield fake
    fake.close()


def recipe(folder: Path) -> str:
    return training.recipe(folder / "log.csv", folder / "store").to_json()


@pytest.mark.parametrize(
    ("namespace", "message"),
    [
        (
            FORBIDDEN,
            "rayjob:forbidden: this service account may not create rayjobs.ray.io there (403: rayjobs.ray.io is",
        ),
        ("elsewhere", 'target: rayjob:elsewhere: no such namespace, or KubeRay is not installed (namespaces "elsewhere"'),
    ],
)
def test_what_kubernetes_refuses_is_explained(
    kubernetes: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, namespace: str, message: str
) -> None:
    monkeypatch.setenv("KFP_RUN_ID", new_run())
    with pytest.raises(SystemExit) as ended:
        targets.run(f"rayjob:{namespace}", "check", recipe(tmp_path), Checked)
    assert message in str(ended.value)


def test_a_field_that_the_schema_does_not_know_is_refused(
    kubernetes: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = rayjob.body

    def wrong(job: Job) -> dict:
        made = right(job)
        made["spec"]["backofLimit"] = made["spec"].pop("backoffLimit")
        return made

    monkeypatch.setattr(rayjob, "body", wrong)
    monkeypatch.setenv("KFP_RUN_ID", new_run())
    with pytest.raises(SystemExit, match=r"Kubernetes refused the RayJob: RayJob is invalid: spec: .*'backofLimit' was"):
        targets.run(TARGET, "check", recipe(tmp_path), Checked)
    assert kubernetes.jobs == {}


def test_a_step_that_is_told_to_stop_deletes_its_rayjob(kubernetes: FakeKubernetes, tmp_path: Path) -> None:
    run = new_run()
    step = Step(tmp_path / "out", run, "check", recipe(tmp_path), TARGET)
    step.says("Initializing")
    assert step.tell_to_stop() == 143
    assert ("DELETE", name(run, "check"), 200) in kubernetes.requests
    assert "stopped, as this step was" in step.text
    assert "Traceback" not in step.text
    wait_for(lambda: not kubernetes.jobs, "the RayJob's end")


def test_a_step_that_was_lost_finds_its_rayjob_and_the_exit_handler_what_is_left(
    kubernetes: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other = new_run(), new_run()
    for each, out in ((run, "first"), (other, "other")):
        lost = Step(tmp_path / out, each, "check", recipe(tmp_path), TARGET)
        lost.says("Initializing")
        lost.kill()
    again = Step(tmp_path / "again", run, "check", recipe(tmp_path), TARGET)
    again.says("found, created by an earlier attempt")
    again.kill()
    assert kubernetes.created(name(run, "check")) == [201, 409]
    assert set(kubernetes.jobs) == {name(run, "check"), name(other, "check")}

    monkeypatch.setenv("KFP_RUN_ID", run)
    targets.stop_all(TARGET)
    assert f"stopped, left running: {name(run, 'check')}\n" in capsys.readouterr().out
    wait_for(lambda: set(kubernetes.jobs) == {name(other, "check")}, "the end of this run's RayJobs, and of no other's")
    wait_for(lambda: not targets.stop_all(TARGET) and "nothing was left running" in capsys.readouterr().out, "nothing left")


def test_a_rayjob_that_is_being_deleted_is_waited_for(kubernetes: FakeKubernetes, tmp_path: Path) -> None:
    run = new_run()
    first = Step(tmp_path / "first", run, "check", recipe(tmp_path), TARGET)
    first.says("Initializing")
    first.kill()
    kubernetes.finalizers.clear()
    kubernetes.jobs[name(run, "check")]["metadata"]["deletionTimestamp"] = "now"
    second = Step(tmp_path / "second", run, "check", recipe(tmp_path), TARGET)
    second.says("of an earlier attempt, being deleted")
    kubernetes.finalizers.set()
    second.says("Initializing")
    assert "created in" in second.text
    assert "found" not in second.text
    second.tell_to_stop()
