"""What ``import delfjax`` offers: a few names, listed in one stub, that cost nothing until they are
used."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

import delfjax

ROOT = Path(__file__).resolve().parents[2]
STUBS = sorted((ROOT / "delfjax").rglob("__init__.pyi"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _package(stub: Path) -> str:
    return ".".join(stub.parent.relative_to(ROOT).parts)


def _listed(stub: Path) -> set[str]:
    """The names that a stub imports from the package's own modules."""
    tree = ast.parse(stub.read_text(encoding="utf-8"))
    found = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert all(alias.asname == alias.name for node in found for alias in node.names)
    return {alias.name for node in found for alias in node.names}


def _loaded_by(statement: str) -> set[str]:
    """Packages outside the standard library that a fresh interpreter loads for a statement."""
    script = (
        f"import sys; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names


@pytest.mark.parametrize("stub", STUBS, ids=_package)
def test_every_name_of_a_stub_can_be_used_and_completed(stub: Path) -> None:
    package = importlib.import_module(_package(stub))
    assert all(getattr(package, name) is not None for name in _listed(stub))
    assert set(dir(package)) == set(package.__all__) == _listed(stub)


def test_the_library_offers_what_a_first_notebook_needs_and_no_more() -> None:
    assert delfjax.__version__
    assert 10 <= len(delfjax.__all__) <= 16
    assert {"match", "extract_folder", "build_index", "search", "evaluate"} <= set(dir(delfjax))


def test_importing_the_library_or_its_figures_loads_nothing_else() -> None:
    assert _loaded_by("import delfjax") == {"delfjax"}
    assert _loaded_by("from delfjax import plots") == {"delfjax", "lazy_loader"}
    assert {"jax", "faiss"} <= _loaded_by("import delfjax; delfjax.match")
    assert "matplotlib" not in _loaded_by("import delfjax; delfjax.match")


def test_a_misspelt_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="delfjax.*mtach"):
        _ = delfjax.mtach  # type: ignore[attr-defined]  # misspelt on purpose
    assert not hasattr(delfjax, "utils")


def test_the_example_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a photo, a view of it turned by 10°, and another photo."""
    [example] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert sum(bool(line.strip()) for line in example.splitlines()) <= 6
    (tmp_path / "photos").mkdir()
    for name in ("chelsea", "coffee"):
        with Image.fromarray(getattr(data, name)()) as image:
            # Small, so that few programs are compiled.
            image.thumbnail((256, 256))
            image.save(tmp_path / "photos" / f"{name}.jpg")
    with Image.open(tmp_path / "photos" / "chelsea.jpg") as cat:
        cat.save(tmp_path / "one.jpg")
        cat.rotate(10).crop((16, 10, 240, 160)).save(tmp_path / "other.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(example, names)
    said = capsys.readouterr().out
    assert re.search(
        r"^match: \d{3} inliers of \d{3} putative matches, evidence \d{3}", said, re.MULTILINE
    )
    assert re.search(r"^   1 .* match +chelsea.jpg$", said, re.MULTILINE)
    assert np.asarray(names["pair"].transform).shape == (3, 3)  # type: ignore[attr-defined]  # of the example
