"""Every notebook runs headlessly at the smallest preset, quickly, and finds what is expected; a wrong library is found out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from delfjax.experiments.notebooks import Kind, notebooks, parameter_defaults, read_notebook
from delfjax.experiments.regression import drift, expected_folder
from delfjax.experiments.runner import Job, prepare, run_notebook
from delfjax.experiments.runs import open_run

ROOT = Path(__file__).resolve().parents[2]
# What each may take on two cores, seconds.
LONGEST = 60.0
# All of this file in one process: the notebooks read each other's runs.
pytestmark = [pytest.mark.xdist_group("notebooks"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, tuple[Job, float]]:
    """Every notebook with its job and the seconds it took, run in reading order as `delfjax run` does."""
    patch = pytest.MonkeyPatch()
    patch.setenv("DELFJAX_DATA", str(tmp_path_factory.mktemp("execution")))
    done = {}
    for path in notebooks():
        given = {"preset": "ci"} if "preset" in parameter_defaults(read_notebook(path)) else {}
        started = time.perf_counter()
        job = prepare(path, given)
        run_notebook(job, progress=False)
        done[path] = job, time.perf_counter() - started
    patch.undo()
    return done


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_a_notebook_runs_headlessly_in_under_a_minute(path: Path, executed: dict[Path, tuple[Job, float]]) -> None:
    job, seconds = executed[path]
    assert (job.path / "notebook.ipynb").is_file() and seconds < LONGEST, f"{path.stem} took {seconds:.0f} s"


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_an_experiment_finds_what_is_expected(path: Path, executed: dict[Path, tuple[Job, float]]) -> None:
    job, _ = executed[path]
    if job.kind == Kind.EXPERIMENT:
        assert drift(open_run(job.path), expected_folder(path.stem)) == []
    else:
        assert not (job.path / "DONE").exists()


def test_plain_papermill_works_from_any_folder(executed: dict[Path, tuple[Job, float]], tmp_path: Path) -> None:
    notebook = ROOT / "notebooks" / "40_build_index.ipynb"
    job, _ = executed[notebook]
    before = (job.path / "results.json").read_bytes()
    command = [sys.executable, "-m", "papermill", str(notebook), str(tmp_path / "out.ipynb"), "-p", "preset", "ci"]
    environment = {**os.environ, "DELFJAX_DATA": str(job.path.parents[2])}
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert (job.path / "results.json").read_bytes() == before
    assert open_run(job.path).provenance["upstream"]["features"].startswith("30_extract_features/")


def test_a_library_with_two_axes_swapped_fails_a_notebook(tmp_path: Path) -> None:
    """The suite's checks are its own: in a copy, rows and columns of the selected cells change places."""
    for name in ("delfjax", "notebooks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    place = tmp_path / "delfjax" / "ops" / "selection.py"
    right = place.read_text(encoding="utf-8")
    wrong = right.replace("jnp.stack([index // width, index % width]", "jnp.stack([index % width, index // width]")
    assert wrong != right
    place.write_text(wrong, encoding="utf-8")
    command = [sys.executable, "-m", "delfjax.experiments.reproduce", "--preset", "ci"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "DELFJAX_DATA": str(tmp_path / "data")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "AssertionError" in done.stderr.strip().splitlines()[-1]
