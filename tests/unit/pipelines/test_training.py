"""The Kubeflow pipeline: compiled and kept, made from the stages, cached by fingerprints, and each step told whose it is."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from kfp import compiler
from kfp.cli.utils.parsing import parse_parameter_value
from kfp.dsl import Artifact, Input, Model, Output

from components import config
from components.steps import component, targets
from pipelines import compile as compiling
from pipelines import training
from pipelines.stages import STAGES, Stage

ROOT = Path(__file__).parents[3]
RECIPE = ROOT / "pipelines" / "recipes" / "ml100k_mf_ssm.yaml"


def compiled(folder: Path, **arguments: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline and what Kubernetes is told of its steps."""
    compiler.Compiler().compile(training.build(**arguments), str(folder / "made.yaml"))
    pipeline, platform = yaml.safe_load_all((folder / "made.yaml").read_text())
    return pipeline, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def tasks(pipeline: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every task that runs something, of all levels, by name."""
    found: dict[str, dict[str, Any]] = {}
    for part in (pipeline["root"], *pipeline["components"].values()):
        for name, task in part.get("dag", {}).get("tasks", {}).items():
            if "dag" not in pipeline["components"][task["componentRef"]["name"]]:
                found[name] = task
    return found


def test_the_yaml_that_is_checked_in_is_up_to_date(tmp_path: Path) -> None:
    compiler.Compiler().compile(training.build(), str(tmp_path / "made.yaml"))
    assert (tmp_path / "made.yaml").read_text() == compiling.OUTPUT.read_text(), "run: python -m pipelines.compile"


def test_its_steps_are_the_stages(tmp_path: Path) -> None:
    pipeline, _ = compiled(tmp_path)
    assert set(tasks(pipeline)) == {stage.name for stage in STAGES} | {"summary", "stop"}
    assert set(pipeline["root"]["inputDefinitions"]["parameters"]) == {"recipe", "target", "seeds"}
    (loop,) = (part for name, part in pipeline["components"].items() if name.startswith("comp-for-loop"))
    assert set(loop["dag"]["tasks"]) == {"train", "evaluate"}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_step_takes_and_makes_what_its_stage_does(stage: Stage) -> None:
    spec = component.find(stage.name).component_spec
    made = spec.outputs or {}
    kinds = {f"system.{kind}@0.0.1" for kind in ("Artifact", "Dataset", "Model", "Metrics")}
    taken = {name for name, each in spec.inputs.items() if each.type in kinds}
    assert taken == set(stage.inputs) - {"recipe", "source"}
    assert {name for name, each in made.items() if each.type in kinds} == set(stage.outputs) - {"recipe"}
    assert ("recipe" in made) == ("recipe" in stage.outputs)
    assert ("asked_by" in spec.inputs) == bool(stage.asked_by)
    assert spec.description is not None or spec.name


def test_a_stage_that_is_added_joins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("components.steps.explain")

    @component.step
    def explain(recipe: str, target: str, run: Input[list[Model]], explained: Output[Artifact]): ...

    monkeypatch.setattr(module, "explain", explain, raising=False)
    monkeypatch.setitem(sys.modules, "components.steps.explain", module)
    added = Stage("explain", "ray_jobs.explain", ("recipe", "run"), ("explained",))
    pipeline, _ = compiled(tmp_path, stages=(*STAGES[:-1], added, STAGES[-1]))
    made = tasks(pipeline)["explain"]
    assert made["inputs"]["artifacts"]["run"]["taskOutputArtifact"]["producerTask"] == "for-loop-2"

    with pytest.raises(LookupError, match=r"components/steps/explain.py: takes run, which no stage before it makes"):
        training.build(stages=(STAGES[0], added))
    with pytest.raises(LookupError, match=r"components/steps/publish.py: missing"):
        training.build(stages=(*STAGES, Stage("publish", "ray_jobs.publish", ("recipe",), ())))


def test_steps_after_a_search_take_the_recipe_that_it_leaves(tmp_path: Path) -> None:
    """Inside of the loop it is the loop's own input, which comes from the search."""
    pipeline, _ = compiled(tmp_path)
    found = tasks(pipeline)
    given = {name: task["inputs"]["parameters"]["recipe"] for name, task in found.items() if name != "stop"}
    asked = {name: each["componentInputParameter"] for name, each in given.items() if "componentInputParameter" in each}
    assert asked == {
        **dict.fromkeys(("check", "prepare", "tune"), "pipelinechannel--recipe"),
        **dict.fromkeys(("train", "evaluate"), "pipelinechannel--tune-recipe"),
    }
    left = {"producerTask": "tune", "outputParameterKey": "recipe"}
    for name in ("register", "recommend", "summary"):
        assert given[name]["taskOutputParameter"] == left
    (loop,) = (
        task
        for part in pipeline["components"].values()
        for name, task in part.get("dag", {}).get("tasks", {}).items()
        if name.startswith("for-loop")
    )
    assert loop["inputs"]["parameters"]["pipelinechannel--tune-recipe"]["taskOutputParameter"] == left
    asks = found["tune"]["inputs"]["parameters"]["asked_by"]
    assert asks == {"runtimeValue": {"constant": "search.space"}}


def test_it_is_cached_by_the_fingerprints_that_check_makes(tmp_path: Path) -> None:
    pipeline, _ = compiled(tmp_path)
    found = tasks(pipeline)
    cached = {name for name, task in found.items() if task["cachingOptions"].get("enableCache")}
    assert cached == {"prepare", "tune", "train", "evaluate", "recommend", "summary"}, "the registry is another one each time"
    for name in ("tune", "train", "evaluate", "register", "recommend"):
        assert {"recipe_fingerprint", "data_fingerprint"} <= set(found[name]["inputs"]["parameters"])
    assert "data_fingerprint" in found["prepare"]["inputs"]["parameters"]
    assert "{{$." not in json.dumps([task["inputs"] for task in found.values()]), "an id of the run would spoil the cache"


def test_every_step_knows_its_run_and_its_secrets_and_is_retried(tmp_path: Path) -> None:
    pipeline, executors = compiled(tmp_path, image="registry.example.org/hardneg:1")
    containers = pipeline["deploymentSpec"]["executors"]
    assert set(executors) == set(containers)
    assert len(executors) == len(STAGES) + 2
    for name, executor in executors.items():
        assert executor["fieldPathAsEnv"] == [{"name": "KFP_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"}]
        (secret,) = executor["secretAsEnv"]
        assert (secret["secretName"], secret["optional"]) == ("hardneg", True)
        assert {"RAY_AUTH_TOKEN", "MLFLOW_TRACKING_PASSWORD"} <= {each["envVar"] for each in secret["keyToEnv"]}
        container = containers[name]["container"]
        assert container["image"] == "registry.example.org/hardneg:1"
        assert {"name": "HARDNEG_IMAGE", "value": "registry.example.org/hardneg:1"} in container["env"]
        assert "pip install" not in json.dumps(container)
    assert {task["retryPolicy"]["maxRetryCount"] for task in tasks(pipeline).values()} == {2}


def test_the_exit_handler_runs_whatever_happens(tmp_path: Path) -> None:
    pipeline, _ = compiled(tmp_path)
    handler = pipeline["root"]["dag"]["tasks"]["stop"]
    assert handler["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"


def test_readme_gives_the_pipeline_what_it_takes(tmp_path: Path) -> None:
    (line,) = re.findall(r"^kfp run create (.*?[^\\])$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    pipeline, _ = compiled(tmp_path)
    assert set(re.findall(r"(\w+)=[\"'h]", line)) == set(pipeline["root"]["inputDefinitions"]["parameters"])
    assert "--package-file pipelines/training.yaml" in line


def test_what_a_step_imports_is_there_in_its_pod() -> None:
    """Where _KFP_RUNTIME is set, as kfp sets it there, kfp.dsl has artifacts and no components."""
    files = [ROOT / "components" / "steps" / f"{name}.py" for name in (*(stage.name for stage in STAGES), "summary", "stop")]
    inside = re.findall(
        r"^    from (components|ray_jobs)([.\w]*) import ([\w, ]+)$", "\n".join(map(Path.read_text, files)), re.M
    )
    assert len(inside) >= 2 * len(files) - 1
    code = "\n".join(f"from {top}{rest} import {names}" for top, rest, names in inside)
    environment = {**os.environ, "_KFP_RUNTIME": "true"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_recipe_becomes_one_string(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiling.main(["--recipe", str(RECIPE), "--set", "loss.temperature=0.25"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    given = parse_parameter_value(line)
    assert isinstance(given, str), "as kfp's command line hands it on"
    wanted = config.load(RECIPE, ["loss.temperature=0.25"])
    assert targets.read(given) == targets.read(line) == wanted
    assert compiling.main(["--recipe", str(RECIPE), "--set", "loss.temperature=0"]) == 2
    assert capsys.readouterr().err == "error: loss.temperature: got 0, takes a number > 0\n"


def test_without_its_extra_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "kfp.py").write_text("raise ImportError('no kfp here')")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from pipelines import compile; sys.exit(compile.main([]))"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: Kubeflow's pipelines need the extra `pipelines`: pip install -c constraints.txt -e '.[pip"
    )
    assert "no kfp here" in done.stderr
    assert len(done.stderr.splitlines()) == 1
