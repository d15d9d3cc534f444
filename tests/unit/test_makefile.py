"""The Makefile and the CI script work in a checkout whose path needs quoting in a shell, and touch
nothing beside it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Stands in for the environment's Python: it records where it was called and with what.
_RECORDER = """#!/bin/sh
printf '%s|%s|%s|%s\\n' "$PWD" "$DELFJAX_DATA" "$JUPYTER_PATH" "$*" >> "$CALLS"
"""

# Each holds something that a shell or make would split, expand or remove.
FOLDERS = ["two words", "it's", 'say "no"', "$HOME $(pwd) `id`", "Fotos für später", "a#b%c&d;e"]


@pytest.fixture(params=FOLDERS)
def checkout(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkout that has only what the Makefile needs, beside folders that hold a file each."""
    for word in re.split(r"[ '\"$`#%&;]+", request.param):
        (tmp_path / word / "data" / "cache").mkdir(parents=True, exist_ok=True)
        (tmp_path / word / "dear.txt").write_text("kept")
        (tmp_path / word / "data" / "cache" / "dear.txt").write_text("kept")
    place: Path = tmp_path / f"{request.param} copy"
    (place / ".venv" / "bin").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", ".ci/run"):
        (place / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, place / name)
    for stamp in (".runtime", ".installed"):
        (place / ".venv" / stamp).touch()
    recorder = place / ".venv" / "bin" / "python"
    recorder.write_text(_RECORDER)
    recorder.chmod(0o755)
    for name in ("tests/benchmarks/bench_x.py", "notebooks/00_a.ipynb", "notebooks/30_b.ipynb"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).touch()
    return place


def files_beside(checkout: Path) -> dict[str, str]:
    return {
        str(path.relative_to(checkout.parent)): path.read_text()
        for path in checkout.parent.rglob("*")
        if path.is_file() and checkout not in path.parents and path.name != "calls"
    }


def calls_of(checkout: Path, *command: str) -> list[list[str]]:
    """Folder, data root, Jupyter's path and arguments of each call of the environment's Python."""
    calls = checkout.parent / "calls"
    calls.write_text("")
    tools = checkout / "tools"
    tools.mkdir(exist_ok=True)
    # The CI script installs a browser where there is none.
    (tools / "chromium").write_text("#!/bin/sh\n")
    (tools / "chromium").chmod(0o755)
    variables = {name: value for name, value in os.environ.items() if name != "JUPYTER_PATH"}
    variables |= {
        "CALLS": str(calls),
        "PATH": f"{tools}:{os.environ['PATH']}",
        "DELFJAX_DATA": str(checkout / "d a$t'a"),
    }
    done = subprocess.run(
        command, cwd=checkout, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [line.split("|") for line in calls.read_text().splitlines()]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_every_target_stays_inside_a_checkout_with_an_awkward_path(checkout: Path) -> None:
    before = files_beside(checkout)
    here = str(checkout)
    assert calls_of(checkout, "make", "help") == []
    tested = calls_of(checkout, "bash", str(checkout / ".ci" / "run"))
    assert {folder for folder, *_ in tested} == {here}
    notebooks = [call for call in tested if "--nbval " in call[3]]
    assert {data for _, data, *_ in notebooks} == {f"{here}/data/cache/nbval"}
    assert sorted(call[3].split()[-1] for call in notebooks) == [
        "notebooks/00_a.ipynb",
        "notebooks/30_b.ipynb",
    ]
    linked = checkout / "data" / "cache" / "nbval" / "cache"
    assert os.path.realpath(linked) == f"{here}/data/cache/pytest/delfjax-data/cache"
    for target in ("lint", "test-slow", "reproduce", "bench"):
        for folder, data, _, _ in calls_of(checkout, "make", target):
            assert (folder, data) == (here, f"{here}/d a$t'a")
    ((_, _, jupyter, _),) = calls_of(checkout, "make", "lab")
    assert jupyter == f"{here}/.venv/share/jupyter"
    assert calls_of(checkout, "make", "clean") == []
    assert not (checkout / ".venv").exists() and not (checkout / "data" / "cache").exists()
    assert files_beside(checkout) == before
