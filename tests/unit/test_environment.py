"""environment.yml and pyproject.toml name the same packages, and every exact version lies in its
range."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


def _declared() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + extras["dev"] + extras["vgg"] + extras["sift"]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def _pinned() -> dict[str, str]:
    """Name and exact version of every package of environment.yml but the interpreter, pip and the
    library itself."""
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    wheels = next(entry["pip"] for entry in conda if isinstance(entry, dict))
    lines = [entry for entry in conda if isinstance(entry, str) and entry != "pip"] + wheels
    pins = (
        re.fullmatch(r"([\w.-]+)={1,2}([\d.]+)", line)
        for line in lines
        if not line.startswith("--editable")
    )
    versions = {canonicalize_name(pin[1]): pin[2] for pin in pins if pin}
    assert len(versions) == len(lines) - 1, (
        "an entry of environment.yml is not of the form name=version"
    )
    del versions["python"]
    return versions


def test_conda_and_pip_install_the_same_packages() -> None:
    assert sorted(_pinned()) == sorted(_declared())


@pytest.mark.parametrize("name", sorted(_declared()))
def test_the_exact_conda_version_lies_in_the_declared_range(name: str) -> None:
    assert _declared()[name].specifier.contains(_pinned()[name])


def test_every_requirement_has_a_lower_and_an_upper_bound() -> None:
    unbounded = {
        name
        for name, requirement in _declared().items()
        if {">=", "<"} > {specifier.operator for specifier in requirement.specifier}
    }
    assert not unbounded, f"give {sorted(unbounded)} a range in pyproject.toml"


def test_this_interpreter_is_one_the_project_allows() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert Requirement(f"python{project['requires-python']}").specifier.contains(
        f"{sys.version_info.major}.{sys.version_info.minor}"
    )


def test_whatever_the_library_imports_is_a_declared_requirement() -> None:
    """A package that comes along with another one is not ours to import: the other may drop it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    distributions = packages_distributions()
    undeclared = set()
    for path in (ROOT / "delfjax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names.append(str(node.module))
            for top in (
                {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"delfjax"}
            ):
                owners = {canonicalize_name(owner) for owner in distributions.get(top, [top])}
                if not owners & declared:
                    undeclared.add(f"{path.relative_to(ROOT)} imports {top}")
    assert not undeclared
