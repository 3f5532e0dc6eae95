"""Who may import whom: read off every import statement, those inside functions too."""

from __future__ import annotations

import ast
import graphlib
import importlib.metadata
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
OURS = ("components", "pipelines", "ray_jobs", "infra", "tests")
PARTS = ("encoders", "losses", "negatives", "objectives", "views")  # the catalog builds and nests them


def imports(file: Path) -> Iterator[str]:
    """Every module that a file imports, in full."""
    package = file.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module or ""]))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def found(folder: str, least: int) -> dict[Path, set[str]]:
    """The imports of every file of a folder; there are at least so many files."""
    files = {file: set(imports(file)) for file in sorted((ROOT / folder).rglob("*.py"))}
    assert len(files) >= least, f"{folder}: only {len(files)} files were looked at"
    return files


def tops(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def test_components_know_neither_ray_nor_mlflow_nor_kubeflow_nor_what_runs_them() -> None:
    for file, modules in found("components", least=30).items():
        if "steps" not in file.parts:
            assert not tops(modules) & {"ray", "mlflow", "kfp", "kubernetes", "ray_jobs", "pipelines", "infra", "tests"}, file


def test_steps_alone_know_kubeflow_and_of_ray_jobs_what_submits_them() -> None:
    """What a step imports beside kfp and kubernetes is light: no Ray, no MLflow, no program."""
    submission = {"ray_jobs", *(f"ray_jobs.{name}" for name in ("_submission", "_results", "_package", "_credentials"))}
    for file, modules in found("components/steps", least=9).items():
        assert not tops(modules) & {"ray", "mlflow", "torch", "pipelines", "infra", "tests"}, file
        ours = {module for module in modules if tops({module}) & {"components"}}
        known = ("components.steps", "components.config", "components.errors")
        assert all(module == "components" or module.startswith(known) for module in ours), file
        programs = {module for module in modules if tops({module}) == {"ray_jobs"}}
        assert all(module in submission or module.rpartition(".")[0] in submission - {"ray_jobs"} for module in programs), file


def test_ray_jobs_import_components_and_no_pipelines() -> None:
    for file, modules in found("ray_jobs", least=12).items():
        assert not tops(modules) & {"kfp", "kubernetes", "pipelines", "infra", "tests"}, file
        assert not any(module.startswith("components.steps") for module in modules), file


def test_no_recipe_needs_an_extra() -> None:
    """What programs and components import, at their top or inside, is the project's own: every image runs every recipe."""
    modules = set().union(*found("ray_jobs", least=12).values())
    modules |= set().union(*(own for file, own in found("components", least=30).items() if "steps" not in file.parts))
    names = tops(modules) - sys.stdlib_module_names - {*OURS, ""}
    assert {"ray", "mlflow", "torch", "optuna"} <= names
    installed, known = importlib.metadata.packages_distributions(), _own_distributions()
    assert "kfp" not in known and "boto3" not in known, "these are of extras"
    assert {name for name in names if not known & set(map(canonicalize_name, installed[name]))} == set()


def _own_distributions() -> set[str]:
    """The project's dependencies, without its extras, and theirs."""
    seen: set[tuple[str, ...]] = set()
    left = [Requirement(each) for each in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]]
    while left:
        wanted = left.pop()
        name = canonicalize_name(wanted.name)
        if (name, *sorted(wanted.extras)) in seen:
            continue
        seen.add((name, *sorted(wanted.extras)))
        for each in map(Requirement, importlib.metadata.requires(name) or ()):
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in {"", *wanted.extras}):
                left.append(each)
    return {name for name, *_ in seen}


def test_pipelines_start_programs_and_import_none() -> None:
    for file, modules in found("pipelines", least=6).items():
        ours = {module for module in modules if module.partition(".")[0] in OURS} - {"components"}
        assert all(module.startswith(("pipelines", "components.steps")) for module in ours), file


def test_parts_do_not_import_other_kinds_of_parts() -> None:
    looked_at = 0
    for kind in PARTS:
        for file in sorted((ROOT / "components" / kind).glob("*.py")):
            looked_at += 1
            for other in set(PARTS) - {kind}:
                wrong = {m for m in imports(file) if m.startswith(f"components.{other}.") and not _is_contract(m)}
                assert not wrong, f"{file} imports {wrong}"
    assert looked_at >= 45  # _log_sum_exp and _seen, which parts share, among them


def test_components_do_not_import_each_other_in_a_circle() -> None:
    files = {_name(file): modules for file, modules in found("components", least=30).items()}
    graph = {name: modules & set(files) for name, modules in files.items()}
    assert sum(map(len, graph.values())) > 100
    graphlib.TopologicalSorter(graph).prepare()  # raises where there is a circle, and shows it


def _name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _is_contract(module: str) -> bool:
    """What a kind's package itself defines (Candidates, EXCLUDED) is its contract, not a part."""
    _, kind, name = module.split(".", 2)
    return not (ROOT / "components" / kind / f"{name.partition('.')[0]}.py").exists()
