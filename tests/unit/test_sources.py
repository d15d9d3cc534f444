"""A module depends on the sources that it imports, in whatever form, and on no others."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from delfjax import sources
from delfjax.sources import PACKAGE, source_digest, source_files

EXTRACTOR = "delfjax.features.extractor"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the library that may be edited."""
    leave_out = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=leave_out))


def digest(module: str, package: Path) -> str:
    """As another process computes it."""
    sources._read.cache_clear()
    source_digest.cache_clear()
    return source_digest(module, package=package)


def edit(file: Path) -> None:
    file.write_text(f"{file.read_text()}\n# edited\n")


@pytest.mark.parametrize(
    ("module", "edited", "counts"),
    [
        (EXTRACTOR, "features/extractor.py", True),
        (EXTRACTOR, "ops/pyramid.py", True),
        (EXTRACTOR, "models/layers.py", True),
        (EXTRACTOR, "ops/cpu/winograd.py", True),
        (EXTRACTOR, "config/system.py", True),
        (EXTRACTOR, "suite/reporting/report.py", False),
        (EXTRACTOR, "cli/photos.py", False),
        (EXTRACTOR, "retrieval/verification.py", False),
        (EXTRACTOR, "__init__.py", False),
        ("delfjax.retrieval.verification", "ops/geometry.py", True),
        ("delfjax.retrieval.verification", "ops/pyramid.py", False),
        ("delfjax.world.rendering", "world/noise.py", True),
        ("delfjax.world.rendering", "models/layers.py", False),
        ("delfjax.training.maps", "models/delf.py", True),
        # Whatever else defines a function may import all of the library.
        ("notebook", "suite/reporting/report.py", True),
    ],
)
def test_a_digest_changes_with_what_the_module_imports(
    package: Path, module: str, edited: str, counts: bool
) -> None:
    before = digest(module, package)
    assert digest(module, package) == before == digest(module, PACKAGE)
    edit(package / edited)
    assert (digest(module, package) != before) == counts


def test_imports_are_found_in_every_form_that_they_are_written_in() -> None:
    source = """
import delfjax.paths
import delfjax.config.values as values
from delfjax import rng, device as processors  # comment
from delfjax.ops import (
    pooling,  # (one)
    pyramid as levels,
)
def f():
    from delfjax.types import Array
import os, delfjaxon
from delfjaxon import x
"""
    assert set(sources._imported(source)) == {
        "delfjax.paths",
        "delfjax.config.values",
        "delfjax.rng",
        "delfjax.device",
        "delfjax.ops.pooling",
        "delfjax.ops.pyramid",
        "delfjax.types.Array",
    }


def _parsed_imports(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("delfjax.")}


def test_no_import_of_the_library_is_overlooked() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 100
    for file in files:
        found = set(sources._imported(file.read_text()))
        assert _parsed_imports(file) <= found, file


def test_a_name_stands_for_the_module_that_defines_it() -> None:
    files = {file.relative_to(PACKAGE).as_posix() for file in source_files("delfjax.rng")}
    assert files == {"rng.py"}
    files = {file.relative_to(PACKAGE).as_posix() for file in source_files("delfjax.ops.pooling")}
    # Neither its package nor the library as a whole, whose files only name modules.
    assert "ops/pooling.py" in files and not files & {"__init__.py", "ops/__init__.py"}
