"""Every notebook runs headlessly at the smallest preset, quickly, and finds what is expected; a
wrong library is found out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delfjax import paths
from delfjax.datasets.catalogue import open_dataset
from delfjax.suite.reporting.regression import drift, expected_folder
from delfjax.suite.running.notebook_rules import Kind, notebooks, parameter_defaults, read_notebook
from delfjax.suite.running.runner import Job, prepare, run_notebook
from delfjax.suite.runs.folders import open_run
from tests.unit.datasets import miniatures

ROOT = Path(__file__).resolve().parents[2]
# What each may take on two cores, seconds.
LONGEST = 60.0


def _run_all(root: Path) -> dict[Path, tuple[Job, float]]:
    """Run every notebook in reading order as `delfjax run` does: notebook → job and seconds."""
    # Runs of their own, but the compiled programs, photographs and worlds of this test session.
    paths.cache_root().mkdir(parents=True, exist_ok=True)
    (root / "cache").symlink_to(paths.cache_root())
    done = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DELFJAX_DATA", str(root))
        for path in notebooks():
            given = {"preset": "ci"} if "preset" in parameter_defaults(read_notebook(path)) else {}
            job = prepare(path, given)
            seconds = _seconds(job)
            # Other tests run on the same processors: what was too slow beside them is run again.
            done[path] = job, seconds if seconds < LONGEST else _seconds(job)
    return done


def _seconds(job: Job) -> float:
    started = time.perf_counter()
    run_notebook(job, fresh=True, progress=False)
    return time.perf_counter() - started


# Longer than all notebooks may take together.
@pytest.mark.timeout(1800)
def test_every_notebook_runs_headlessly_in_under_a_minute_and_finds_what_is_expected(
    tmp_path: Path,
) -> None:
    """One test, since the notebooks read each other's runs."""
    executed = _run_all(tmp_path)
    slow = {
        path.stem: round(seconds) for path, (_, seconds) in executed.items() if seconds > LONGEST
    }
    assert not slow
    for path, (job, _) in executed.items():
        assert (job.path / "notebook.ipynb").is_file()
        if job.kind == Kind.EXPERIMENT:
            assert drift(open_run(job.path), expected_folder(path.stem)) == []
        else:
            assert not (job.path / "DONE").exists()
    _run_with_papermill(ROOT / "notebooks" / "40_build_index.ipynb", executed, tmp_path)


@pytest.mark.timeout(300)
def test_the_notebooks_of_the_search_take_a_benchmark_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries cut to boxes, labels good and ok, the classic protocol: the world has none."""
    (tmp_path / "cache").symlink_to(paths.cache_root())
    monkeypatch.setenv("DELFJAX_DATA", str(tmp_path))
    miniatures.write("oxford5k", tmp_path / "external")
    benchmark = open_dataset("oxford5k")
    rng = np.random.default_rng(0)
    for path in benchmark.database:  # large enough for an index of codes
        coarse = rng.integers(0, 255, (16, 16, 3), np.uint8)
        Image.fromarray(coarse).resize((256, 256), Image.Resampling.NEAREST).save(
            benchmark.root / path
        )
    for name in (
        "30_extract_features",
        "40_build_index",
        "41_search_and_verify",
        "42_explore_results",
    ):
        job = prepare(ROOT / "notebooks" / f"{name}.ipynb", {"preset": "ci", "dataset": "oxford5k"})
        run_notebook(job, progress=False)
        if name.startswith("41"):
            run = open_run(job.path)
            assert run.config["dataset"] == "oxford5k" and run.config["search"]["neighbours"] == 60
            assert (
                run.results["queries"] == len(benchmark.queries)
                and run.results["query_distractors"] is False
            )
            assert 0 < run.results["mean"]["inliers"] == run.results["tiers"]["mAP"]["inliers"] <= 1


def _run_with_papermill(
    notebook: Path, executed: dict[Path, tuple[Job, float]], root: Path
) -> None:
    """Plain papermill, started in another folder, makes the same run."""
    job, _ = executed[notebook]
    before = (job.path / "results.json").read_bytes()
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(notebook),
        str(root / "out.ipynb"),
        "-p",
        "preset",
        "ci",
    ]
    environment = {**os.environ, "DELFJAX_DATA": str(root)}
    subprocess.run(command, cwd=root, env=environment, capture_output=True, check=True)
    assert (job.path / "results.json").read_bytes() == before
    assert open_run(job.path).provenance["upstream"]["features"].startswith("30_extract_features/")


@pytest.mark.timeout(600)
def test_a_library_with_two_axes_swapped_fails_a_notebook(tmp_path: Path) -> None:
    """The suite checks itself: in a copy, rows and columns of the selected cells change places."""
    for name in ("delfjax", "notebooks"):
        shutil.copytree(
            ROOT / name,
            tmp_path / name,
            ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"),
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    place = tmp_path / "delfjax" / "ops" / "selection.py"
    right = place.read_text(encoding="utf-8")
    wrong = right.replace(
        "jnp.take_along_axis(cells_yx, index", "jnp.take_along_axis(cells_yx[..., ::-1], index"
    )
    assert wrong != right
    place.write_text(wrong, encoding="utf-8")
    # Programs are kept by the source that made them: the wrong library finds none of the right one.
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cache").symlink_to(paths.cache_root())
    command = [sys.executable, "-m", "delfjax.cli", "run", "00_start_here"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "DELFJAX_DATA": str(tmp_path / "data"),
    }
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "AssertionError" in done.stderr.strip().splitlines()[-1]
